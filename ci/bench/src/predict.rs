//! `chrysalis measure predict` as a person runs it, beside plain hashing of the same bytes with the same library.
//!
//! The peer hashes every byte that the prediction's messages have, once an algorithm, in small pieces spread evenly over
//! as many threads: no scheduling of whole messages can beat it.

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use e2e::Stage;
use launcher::Settings;
use measure::uki::{Uki, UkiSection};
use sha2::{Digest, Sha256, Sha384};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Milliseconds that a prediction may take.
const LIMIT: f64 = 100.0;
/// Samples of each.
const ROUNDS: usize = 9;
/// The prediction starts this many hashing threads.
const THREADS: usize = 4;
/// Piece that is hashed at once: large against a call, small against a message.
const PIECE: usize = 64 * 1024;

/// Predictions with the firmware unpacked anew and remembered, taken in turns with the peer.
pub fn measure(stage: &Stage, scratch: &Path) -> Result<Vec<Number>> {
    let settings = stage.fragment(scratch).settle()?;
    let uki = std::fs::read(&settings.image.uki).context("the UKI is unreadable")?;
    let messages = messages(&uki)?;
    let predict = Predict::new(&settings, scratch)?;
    // Untimed, so that all three find their files in memory.
    let expected = predict.run(true)?.1;
    ensure!(
        predict.run(false)?.1 == expected,
        "a remembered firmware gave another prediction: report this as a defect"
    );
    let [mut anew, mut remembered, mut plain] = [(); 3].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        anew.push(predict.run(true)?.0);
        remembered.push(predict.run(false)?.0);
        plain.push(hash(&messages, threads()));
    }
    let bytes: usize = messages.iter().map(|message| message.len()).sum();
    let beside = format!("plain SHA-384 + SHA-256, {:.1} MB each, {} threads", bytes as f64 / 1e6, threads());
    let alone = hash(&messages, 1);
    let remembered_number = Number::new("measure predict", Unit::Milliseconds, &remembered)
        .limit(Limit::AtMost(LIMIT))
        .beside(beside, &plain)
        .covers(format!(
            "the command from start to end, firmware profile remembered; one thread hashes the same in {alone:.1} ms"
        ));
    let anew_number = Number::new("measure predict, new firmware", Unit::Milliseconds, &anew)
        .beside("with the firmware remembered", &remembered)
        .covers("the same with an empty cache: once a firmware file, LZMA unpacked and its volumes hashed");
    Ok(vec![remembered_number, anew_number])
}

/// The command, ready to run.
struct Predict {
    program: PathBuf,
    arguments: Vec<PathBuf>,
    cache: PathBuf,
}

impl Predict {
    fn new(settings: &Settings, scratch: &Path) -> Result<Self> {
        let here = std::env::current_exe().context("this program's own path is unknown")?;
        let program = here.with_file_name("chrysalis");
        ensure!(program.is_file(), "{}: missing; `cargo xtask bench` builds it", program.display());
        let shape = settings.shape();
        let file = scratch.join("shape.toml");
        let text = toml::to_string(&shape).context("a shape is always TOML")?;
        std::fs::write(&file, text).with_context(|| format!("{}: can't write", file.display()))?;
        let firmware = &settings.firmware;
        let vars = firmware.vars.as_ref().context("an emulated machine has a variable store")?;
        let options = [
            ("--firmware", &firmware.code),
            ("--vars", vars),
            ("--shape", &file),
            ("--uki", &settings.image.uki),
        ];
        let words = ["--json", "measure", "predict", "--platform", "emulated"].map(PathBuf::from).into_iter();
        let arguments = words.chain(options.into_iter().flat_map(|(name, path)| [name.into(), path.clone()]));
        Ok(Predict { program, arguments: arguments.collect(), cache: scratch.join("cache") })
    }

    /// Milliseconds from start to end, and what it printed.
    fn run(&self, forget: bool) -> Result<(f64, Vec<u8>)> {
        if forget && self.cache.exists() {
            std::fs::remove_dir_all(&self.cache).context("the scratch cache can't be removed")?;
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("CHRYSALIS_CACHE", &self.cache).stderr(Stdio::inherit());
        let began = Instant::now();
        let output =
            command.output().with_context(|| format!("{} does not start", self.program.display()))?;
        let took = began.elapsed();
        ensure!(
            output.status.success(),
            "measure predict ended with {}; its lines above say why",
            output.status
        );
        Ok((took.as_secs_f64() * 1e3, output.stdout))
    }
}

/// Bytes of the prediction's large messages, each as often as it is hashed.
pub(crate) fn messages(uki: &[u8]) -> Result<Vec<&[u8]>> {
    let parsed = Uki::parse(uki)?;
    let mut messages: Vec<&[u8]> = parsed.sections.iter().map(|section| section.bytes).collect();
    // Authenticode leaves out twelve bytes, the initrd's message has an archive of some hundred more: as good as these.
    messages.push(uki);
    for part in [UkiSection::Linux, UkiSection::Initrd] {
        messages.extend(parsed.section(part).map(|section| section.bytes));
    }
    Ok(messages)
}

pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

/// Milliseconds for both hashes of all messages on so many threads.
pub(crate) fn hash(messages: &[&[u8]], threads: usize) -> f64 {
    let pieces: Vec<&[u8]> = messages.iter().flat_map(|message| message.chunks(PIECE)).collect();
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    black_box((Sha384::digest(piece), Sha256::digest(piece)));
                }
            });
        }
    });
    began.elapsed().as_secs_f64() * 1e3
}

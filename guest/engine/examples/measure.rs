//! One model in one process, told by lines what to compute, saying what each took: what `cargo xtask bench` holds beside
//! other libraries, whose programs in `ci/reference/peers` speak the same lines.
//!
//! ```text
//! measure DIR THREADS CONTEXT [int8|bf16-rounded] --> {"ready": {"wall": s since the start, "cpu": s, "rss": bytes}, "versions": {..}}
//! stdin: prefill N | decode N | batch B N | embed TEXTS REPEATS | bandwidth BYTES   stdout: {"wall", "cpu", "count", "rss"}
//! ```
//! `count` is tokens, texts or bytes. For measuring; it is in no image.

use engine::{
    ClientId, Embedder, Event, Generator, Kind, Limits, Options, Precision, Prompt, Request, Sampling,
    Scheduler, Sharing,
};
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Most answers of a pass.
const SEQUENCES: usize = 8;
/// Tokens of a prompt that is only there for what follows it.
const SHORT: usize = 16;

fn main() -> Result<()> {
    let began = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (dir, threads, context, precision) = match arguments.as_slice() {
        [dir, threads, context] => (dir, threads, context, Precision::Stored),
        [dir, threads, context, word] if word == "int8" => (dir, threads, context, Precision::Int8),
        [dir, threads, context, word] if word == "bf16-rounded" => {
            (dir, threads, context, Precision::Bf16Rounded)
        }
        _ => return Err("usage: measure DIR THREADS CONTEXT [int8|bf16-rounded]".into()),
    };
    let options = Options { precision, threads: threads.parse()?, ..Options::default() };
    let mut model = Model::open(Path::new(dir), options, context.parse()?)?;
    let ready = serde_json::json!({
        "wall": began.elapsed().as_secs_f64(), "cpu": cpu(), "rss": resident()?,
    });
    println!("{}", serde_json::json!({ "ready": ready, "versions": {"engine": env!("CARGO_PKG_VERSION")} }));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let taken = model.task(&words)?;
        println!(
            "{}",
            serde_json::json!({
                "wall": taken.wall, "cpu": taken.cpu, "count": taken.count, "rss": resident()?,
            })
        );
    }
    Ok(())
}

/// What a task took.
struct Taken {
    wall: f64,
    cpu: f64,
    count: usize,
}

/// Seconds of processor time of all threads of this process.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Bytes of memory that are this process's own or mapped and there.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

fn timed(work: impl FnOnce() -> Result<usize>) -> Result<Taken> {
    let (began, before) = (Instant::now(), cpu());
    let count = work()?;
    Ok(Taken { wall: began.elapsed().as_secs_f64(), cpu: cpu() - before, count })
}

enum Model {
    Decoder { scheduler: Box<Scheduler>, generator: Arc<Generator>, drawn: u32, threads: usize },
    Encoder { embedder: Embedder, threads: usize },
}

impl Model {
    fn open(dir: &Path, options: Options, context: usize) -> Result<Model> {
        let threads = options.threads;
        match engine::kind(dir)? {
            Kind::Embedder => Ok(Model::Encoder { embedder: Embedder::load_with(dir, threads)?, threads }),
            Kind::Generator => {
                let generator = Arc::new(Generator::open_with(dir, options)?);
                let limits = Limits {
                    kv_bytes: context * generator.facts().cached_bytes,
                    sequences: SEQUENCES,
                    prefill_chunk: 512,
                    sharing: Sharing::Request,
                    ..Limits::default()
                };
                let scheduler = Box::new(Scheduler::new(generator.clone(), limits)?);
                Ok(Model::Decoder { scheduler, generator, drawn: 1, threads })
            }
        }
    }

    fn task(&mut self, words: &[&str]) -> Result<Taken> {
        let number = |word: &str| word.parse::<usize>();
        match words {
            ["prefill", tokens] => self.prefill(number(tokens)?),
            ["decode", tokens] => self.decode(1, number(tokens)?),
            ["batch", answers, tokens] => self.decode(number(answers)?, number(tokens)?),
            ["embed", texts, repeats] => self.embed(Path::new(texts), number(repeats)?),
            ["bandwidth", bytes] => bandwidth(number(bytes)?, self.threads()),
            _ => Err(format!("{words:?}: no such task").into()),
        }
    }

    fn threads(&self) -> usize {
        match self {
            Model::Decoder { threads, .. } | Model::Encoder { threads, .. } => (*threads).max(1),
        }
    }

    /// Enters a request of `prompt` tokens that nobody had before, and at most `answer` tokens behind it.
    fn submit(&mut self, prompt: usize, answer: usize) -> Result<()> {
        let Model::Decoder { scheduler, generator, drawn, .. } = self else {
            return Err("this model continues no text".into());
        };
        let ids = (0..prompt).map(|_| draw(drawn) % 150_000).collect();
        let request = Request {
            sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
            max_tokens: Some(answer),
            ..Request::new(Prompt::Tokens(ids))
        };
        scheduler.submit(ClientId(0), generator.prepare(request, None)?)?;
        Ok(())
    }

    /// One pass, or all that are left; returns how many tokens the answers that ended had.
    fn step(&mut self, all: bool) -> Result<usize> {
        let Model::Decoder { scheduler, .. } = self else { return Ok(0) };
        let mut tokens = 0;
        loop {
            for event in scheduler.step() {
                match event {
                    Event::Finished { usage, .. } => tokens += usage.completion_tokens,
                    Event::Failed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            }
            if !all || scheduler.is_idle() {
                return Ok(tokens);
            }
        }
    }

    /// From a prompt to its first token.
    fn prefill(&mut self, prompt: usize) -> Result<Taken> {
        timed(|| {
            self.submit(prompt, 1)?;
            self.step(true)?;
            Ok(prompt)
        })
    }

    /// `tokens` tokens of each of several answers, their prompts not counted.
    fn decode(&mut self, answers: usize, tokens: usize) -> Result<Taken> {
        for _ in 0..answers {
            self.submit(SHORT, tokens + 1)?;
        }
        // The prompts go together in one pass, with the first token of each.
        self.step(false)?;
        let taken = timed(|| Ok(self.step(true)? - answers))?;
        if taken.count != answers * tokens {
            return Err(format!("{} tokens came of {answers} times {tokens}", taken.count).into());
        }
        Ok(taken)
    }

    fn embed(&self, texts: &Path, repeats: usize) -> Result<Taken> {
        let Model::Encoder { embedder, .. } = self else { return Err("this model embeds nothing".into()) };
        let texts: Vec<String> = serde_json::from_slice(&std::fs::read(texts)?)?;
        timed(|| {
            for _ in 0..repeats {
                embedder.embed(&texts)?;
            }
            Ok(texts.len() * repeats)
        })
    }
}

fn draw(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 8
}

/// Reads that many bytes with all threads, each its own part, in order: as weights are read.
fn bandwidth(bytes: usize, threads: usize) -> Result<Taken> {
    let numbers = vec![1u64; bytes / 8];
    let part = numbers.len().div_ceil(threads);
    let mut total = 0u64;
    let taken = timed(|| {
        std::thread::scope(|scope| {
            let sums: Vec<_> =
                numbers.chunks(part).map(|part| scope.spawn(move || part.iter().sum::<u64>())).collect();
            total = sums.into_iter().map(|sum| sum.join().unwrap_or(0)).sum();
        });
        Ok(numbers.len() * 8)
    })?;
    if total != numbers.len() as u64 {
        return Err("a part of the memory was not read".into());
    }
    Ok(taken)
}

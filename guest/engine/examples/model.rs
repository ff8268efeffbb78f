//! Looks at model folders: `model inspect DIR` prints what a folder holds or why it is refused, `model answers DIR DEVICE PRECISION
//! [KV_PRECISION]` writes the known answers of a decoder beside it, as its file's row for what computed them and in what, `model quantise
//! DIR OUT` writes a decoder's weights in bytes to a new folder, with known answers, `model chat DIR TEXT` answers one message.
//!
//! For work on models; it is in no image.

use engine::{
    Chat, ClientId, Device, Generator, Json, Kind, KvPrecision, Limits, Options, Precision, Prompt, Request,
    Sampling, Scheduler, complete,
};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    match arguments {
        ["inspect", dir] => inspect(Path::new(dir)),
        ["answers", dir] => answers(Path::new(dir), Options::default()),
        ["answers", dir, device, precision] => answers(Path::new(dir), options(device, precision, None)?),
        ["answers", dir, device, precision, kv] => {
            answers(Path::new(dir), options(device, precision, Some(kv))?)
        }
        ["quantise", dir, out] => quantise(Path::new(dir), Path::new(out)),
        ["chat", dir, text] => chat(Path::new(dir), text),
        _ => {
            Err("usage: model inspect DIR | model answers DIR [DEVICE PRECISION [KV_PRECISION]] | model quantise DIR OUT | model chat DIR TEXT"
                .into())
        }
    }
}

fn inspect(dir: &Path) -> Result<(), Box<dyn Error>> {
    let facts = match engine::kind(dir)? {
        Kind::Embedder => serde_json::to_string_pretty(&engine::inspect(dir)?)?,
        Kind::Generator => serde_json::to_string_pretty(&engine::inspect_generator(dir)?)?,
    };
    println!("{facts}");
    Ok(())
}

fn options(device: &str, precision: &str, kv: Option<&str>) -> Result<Options, Box<dyn Error>> {
    let device = match device {
        "cpu" => Device::Processor,
        "cuda" => Device::Gpu,
        other => return Err(format!("{other}: no such device; cpu or cuda").into()),
    };
    let all = [Precision::Stored, Precision::Bf16, Precision::Bf16Rounded, Precision::F32, Precision::Int8];
    let found = all.into_iter().find(|known| known.as_str() == precision);
    let precision = found.ok_or_else(|| format!("{precision}: no such precision"))?;
    let kv_precision = match kv {
        None => None,
        Some("f16") => Some(KvPrecision::F16),
        Some("f32") => Some(KvPrecision::F32),
        Some(other) => {
            return Err(format!("{other}: no such precision of keys and values; f16 or f32").into());
        }
    };
    Ok(Options { precision, kv_precision, device, ..Options::default() })
}

/// Computes a row, and writes it beside those that are there.
fn answers(dir: &Path, options: Options) -> Result<(), Box<dyn Error>> {
    let answers = Generator::open_with(dir, options)?.known_answers()?;
    let path = dir.join(engine::KNOWN_ANSWERS);
    let answers = match std::fs::read(&path) {
        Ok(bytes) => answers.beside(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => answers,
        Err(error) => return Err(error.into()),
    };
    std::fs::write(&path, serde_json::to_string(&answers)? + "\n")?;
    println!("{}: {} row(s)", path.display(), 1 + answers.more.len());
    Ok(())
}

/// Says how far it is at most twenty times: this may be read in a log.
fn quantise(dir: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut next = 0;
    engine::quantise(dir, out, &mut |progress| {
        let percent = progress.written * 100 / progress.total.max(1);
        if percent >= next {
            let megabytes = progress.total / 1_000_000;
            eprintln!("  {percent:3} % of {megabytes} MB, next {}", progress.tensor);
            next = percent / 5 * 5 + 5;
        }
    })?;
    eprintln!("  computing its known answers");
    answers(out, Options::default())
}

fn chat(dir: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    let generator = Arc::new(Generator::open(dir)?);
    let message = Json::Object(vec![("role".into(), "user".into()), ("content".into(), text.into())]);
    let request = Request {
        sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
        max_tokens: Some(64),
        ..Request::new(Prompt::Chat(Chat { messages: vec![message], ..Chat::default() }))
    };
    let prepared = generator.prepare(request, None)?;
    let mut scheduler = Scheduler::new(generator, Limits::default())?;
    for (answer, reason) in complete(&mut scheduler, ClientId(0), prepared)? {
        println!("{answer} ({reason:?})");
    }
    Ok(())
}

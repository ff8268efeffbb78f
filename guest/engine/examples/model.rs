//! Looks at model folders: `model inspect DIR` prints what a folder holds or why it is refused, `model answers DIR` writes
//! the known answers of a decoder beside it, `model chat DIR TEXT` answers one message.
//!
//! For work on models; it is in no image.

use engine::{Chat, ClientId, Generator, Json, Kind, Limits, Prompt, Request, Sampling, Scheduler, complete};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["inspect", dir] => inspect(Path::new(dir)),
        ["answers", dir] => answers(Path::new(dir)),
        ["chat", dir, text] => chat(Path::new(dir), text),
        _ => Err("usage: model inspect DIR | model answers DIR | model chat DIR TEXT".into()),
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

fn answers(dir: &Path) -> Result<(), Box<dyn Error>> {
    let answers = Generator::open(dir)?.known_answers()?;
    let path = dir.join(engine::KNOWN_ANSWERS);
    std::fs::write(&path, serde_json::to_string(&answers)? + "\n")?;
    println!("{}: {} prompts", path.display(), answers.answers.len());
    Ok(())
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

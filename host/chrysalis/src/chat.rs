//! `chrysalis chat`: verify a worker first, then ask it one thing.

use crate::connect::refused;
use crate::output::{Outcome, facts};
use crate::trust::Target;
use anyhow::{Context, Result};
use client::Client;
use protocol::openai::chat::ChatCompletion;

/// Options of `chat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Which model, as the worker lists it.
    #[arg(long)]
    model: String,
    /// Most tokens of the answer; up to the end of the model's context if absent.
    #[arg(long)]
    most: Option<usize>,
    /// What to ask.
    message: String,
}

/// Verifies, asks, prints the answer.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let (endpoint, trust) = args.target.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = std::time::Instant::now();
    let mut client = match runtime.block_on(Client::connect(&endpoint, &trust, args.target.at())) {
        Ok(client) => client,
        Err(error) => return refused(error, json),
    };
    let verified = began.elapsed();
    let answer = runtime.block_on(client.chat(&args.model, &args.message, args.most));
    let answer = answer.context("the worker was verified, but did not answer")?;
    facts(json, &answer, || {
        let headline = client.appraised().verdict().to_string().lines().next().unwrap_or_default().to_owned();
        let millis = (verified.as_millis(), (began.elapsed() - verified).as_millis());
        format!("{headline}\nverified in {} ms, answered in {} ms\n{}", millis.0, millis.1, human(&answer))
    })?;
    Ok(Outcome::Fine)
}

/// What was written, and what it took. Control characters could drive a terminal.
fn human(answer: &ChatCompletion) -> String {
    let message = answer.choices.first().and_then(|choice| choice.message.as_ref());
    let text = message.and_then(|message| message.content.as_deref()).unwrap_or_default();
    let text: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let usage = answer.usage.unwrap_or_default();
    let written = usage.completion_tokens.unwrap_or_default();
    format!("{}: {text}\n{} tokens read, {written} written\n", answer.model, usage.prompt_tokens)
}

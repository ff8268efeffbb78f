//! `chrysalis chat`: verify a worker first, then ask it one thing.

use crate::ask::{SILENT, verified};
use crate::output::Outcome;
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
    let Args { target, model, most, message } = args;
    let chat = async |client: &mut Client| client.chat(&model, &message, most).await.context(SILENT);
    verified(&target, json, chat, human)
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

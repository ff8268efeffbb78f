//! `chrysalis embed` (also `ask`): verify a worker first, then send it text.

use crate::connect::refused;
use crate::output::{Outcome, facts};
use crate::trust::Target;
use anyhow::{Context, Result};
use client::{Client, Embeddings};

/// Options of `embed`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Which model; the first that the worker lists if absent.
    #[arg(long)]
    model: Option<String>,
    /// Texts to embed.
    #[arg(required = true)]
    texts: Vec<String>,
}

/// Verifies, asks, prints the vectors.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let Args { target, model, texts } = args;
    let embed = async |client: &mut Client| {
        let model = match model {
            Some(model) => model,
            None => {
                let models = client.models().await?;
                models.data.into_iter().next().map(|model| model.id).context("the worker lists no model")?
            }
        };
        client.embed(&model, &texts).await.context(SILENT)
    };
    verified(&target, json, embed, human)
}

/// What is said of a worker that was right and gave no answer.
pub const SILENT: &str = "the worker was verified, but did not answer";

/// Verifies a worker, asks it one thing, and prints the answer below the verdict.
pub fn verified<A: serde::Serialize>(
    target: &Target,
    json: bool,
    ask: impl AsyncFnOnce(&mut Client) -> Result<A>,
    human: impl FnOnce(&A) -> String,
) -> Result<Outcome> {
    let (endpoint, trust) = target.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = std::time::Instant::now();
    let mut client = match runtime.block_on(Client::connect(&endpoint, &trust, target.at())) {
        Ok(client) => client,
        Err(error) => return refused(error, json),
    };
    let verified = began.elapsed();
    let answer = runtime.block_on(ask(&mut client))?;
    facts(json, &answer, || {
        let headline = client.appraised().verdict().to_string().lines().next().unwrap_or_default().to_owned();
        let millis = (verified.as_millis(), (began.elapsed() - verified).as_millis());
        format!("{headline}\nverified in {} ms, answered in {} ms\n{}", millis.0, millis.1, human(&answer))
    })?;
    Ok(Outcome::Fine)
}

fn human(response: &Embeddings) -> String {
    let mut text = format!("{} tokens\n", response.prompt_tokens);
    for (index, vector) in response.vectors.iter().enumerate() {
        let first: Vec<String> = vector.iter().take(4).map(|x| format!("{x:+.5}")).collect();
        text += &format!("  [{index}] {} numbers: {} ...\n", vector.len(), first.join(" "));
    }
    text
}

//! `chrysalis quote`: asks every proxy of the root's book what a job would cost and how fast it would go. Nothing is paid.

use crate::chain_args::{ChainArgs, in_ton};
use crate::follow::keep;
use crate::gateway::report;
use crate::output::{Outcome, facts};
use crate::trust::Target;
use crate::wanted::WantedArgs;
use anyhow::Result;
use client::gateway::{ProxyError, Shared, Visited, get, phase, visit};
use payment::Address;
use payment::price::{Price, Tokens};
use protocol::channel::Part;
use protocol::market::{Quote, path};
use ratls::Endpoint;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Options of `quote`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, by its name or `name@root`.
    model: String,
    /// How many requests.
    #[arg(long, default_value_t = 1)]
    requests: u32,
    /// Tokens of each, read and written together.
    #[arg(long, default_value_t = 512)]
    tokens: u32,
    /// How many of these are read; half of them if absent.
    #[arg(long)]
    prompt: Option<u32>,
    #[command(flatten)]
    chain: ChainArgs,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: WantedArgs,
}

/// What one proxy says.
#[derive(Debug, Serialize)]
struct Offer {
    endpoint: String,
    pool: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    simulated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<Quote>,
    /// Why there is no quote, or why it is not to be believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// Asks, prints; exit code 1 where nobody can answer.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let offers = runtime.block_on(offers(&args, json))?;
    let some = offers.iter().any(|offer| offer.quote.is_some() && offer.refused.is_none());
    let value = serde_json::json!({ "model": args.model, "requests": args.requests, "tokens": args.tokens, "offers": offers });
    facts(json, &value, || human(&args, &offers))?;
    Ok(if some { Outcome::Fine } else { Outcome::Mismatch })
}

async fn offers(args: &Args, json: bool) -> Result<Vec<Offer>> {
    let chain = args.chain.open()?;
    let book = chain.look(&[]).await?;
    // It is over before anything could change.
    let (verifier, wanted) = keep(&args.target, &args.wanted, Part::Proxy, |_| ())?;
    let (_running, stop) = watch::channel(false);
    let quiet = Arc::new(|_: client::gateway::Event<'_>| ());
    let shared = Arc::new(Shared {
        me: Arc::new(Endpoint::anonymous()),
        verifier,
        wanted,
        global_id: chain.network.global_id,
        root: chain.root,
        report: if json { quiet } else { report(false) },
        stop,
    });
    let prices = Arc::new(book.prices);
    let mut asked = JoinSet::new();
    for (pool, listed) in book.proxies {
        let (shared, prices, asking) = (shared.clone(), prices.clone(), asking(args));
        asked.spawn(async move {
            let offer = Offer {
                endpoint: listed.endpoint.clone(),
                pool: pool.to_string(),
                simulated: None,
                phase: None,
                free: None,
                quote: None,
                refused: None,
            };
            ask(&shared, pool, &listed.endpoint, &asking, &prices, offer).await
        });
    }
    let mut offers = asked.join_all().await;
    offers.sort_by(|a, b| (total(a), &a.endpoint).cmp(&(total(b), &b.endpoint)));
    Ok(offers)
}

fn total(offer: &Offer) -> u64 {
    offer.quote.as_ref().filter(|_| offer.refused.is_none()).map_or(u64::MAX, |quote| quote.total)
}

/// What all are asked.
#[derive(Clone)]
struct Asking {
    model: String,
    requests: u32,
    tokens: u32,
    prompt: u32,
}

fn asking(args: &Args) -> Asking {
    let prompt = args.prompt.unwrap_or(args.tokens / 2).min(args.tokens);
    Asking { model: args.model.clone(), requests: args.requests, tokens: args.tokens, prompt }
}

type Prices = std::collections::BTreeMap<[u8; 32], Price>;

async fn ask(
    shared: &Shared,
    pool: Address,
    endpoint: &str,
    asking: &Asking,
    prices: &Prices,
    mut offer: Offer,
) -> Offer {
    let visited = match visit(shared, pool, endpoint).await {
        Ok(visited) => visited,
        Err(error) => return Offer { refused: Some(error.to_string()), ..offer },
    };
    let simulated = visited.peer.appraised().verdict().platform == evidence::Platform::Simulated;
    offer.simulated = Some(simulated);
    offer.phase = Some(phase(visited.terms.phase));
    match quoted(&visited, asking, prices).await {
        Ok((free, quote, refused)) => Offer { free: Some(free), quote: Some(quote), refused, ..offer },
        Err(error) => Offer { refused: Some(error), ..offer },
    }
}

/// Free places, the quote, and why it is not to be believed, if so.
async fn quoted(
    visited: &Visited,
    Asking { model, requests, tokens, prompt }: &Asking,
    prices: &Prices,
) -> Result<(u32, Quote, Option<String>), String> {
    let (name, root) =
        model.rsplit_once('@').map_or((model.as_str(), None), |(name, root)| (name, Some(root)));
    let fits = |root_of: String| root.is_none_or(|root| root == root_of);
    let listed = visited.terms.models.iter().find(|m| m.name == name && fits(m.root.to_string()));
    let listed = listed.ok_or("it does not have this model")?;
    let path = format!("{}?model={model}&requests={requests}&tokens={tokens}&prompt={prompt}", path::QUOTE);
    let quote: Quote = get(&visited.requests, &path).await.map_err(|error: ProxyError| error.to_string())?;
    let price = prices.get(&listed.root.0).ok_or("the root's book has no price for this model")?;
    let found = quote.price;
    let said = Price {
        base: found.base,
        prompt: found.prompt,
        cached: found.cached,
        completion: found.completion,
        reasoning: found.reasoning,
    };
    let taken = Tokens { prompt: *prompt, completion: tokens - prompt, ..Tokens::default() };
    let each = price.charge(&taken).map_err(|error| error.to_string())?;
    let total = each.checked_mul(u64::from(*requests));
    let refused = match (said == *price, (quote.charge_per_request, Some(quote.total)) == (each, total)) {
        (false, _) => Some("its price is not that of the root's book".into()),
        (true, false) => {
            Some(format!("by the book one request costs {each} nanoTON, which is not what it says"))
        }
        (true, true) => None,
    };
    Ok((listed.free, quote, refused))
}

fn human(args: &Args, offers: &[Offer]) -> String {
    let mut text = format!("{}: {} requests of {} tokens\n", args.model, args.requests, args.tokens);
    text += "proxy                     each TON      total TON     tokens/s  free  \n";
    for offer in offers {
        let simulated = if offer.simulated == Some(true) { "SIMULATED " } else { "" };
        let row = match (&offer.quote, &offer.refused) {
            (Some(quote), None) => format!(
                "{:<13} {:<13} {:<9} {:<5} {simulated}",
                in_ton(quote.charge_per_request),
                in_ton(quote.total),
                quote.capacity_tokens_per_s.map_or("?".into(), |n| n.to_string()),
                offer.free.unwrap_or_default(),
            ),
            (_, reason) => format!("{simulated}REFUSED: {}", reason.as_deref().unwrap_or("no quote")),
        };
        text += &format!("{:<25} {row}\n", offer.endpoint);
    }
    text
}

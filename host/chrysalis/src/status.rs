//! `chrysalis status`: how a gateway on this machine stands, or, over an attested channel, a proxy or worker.

use crate::chain_args::in_ton;
use crate::connect::refused;
use crate::output::{Outcome, facts};
use crate::trust::Target;
use anyhow::{Context, Result, bail, ensure};
use client::gateway::{STATUS, State, Status, fetch, get, loopback, phase};
use client::{Client, ClientError};
use protocol::channel::Part;
use protocol::market::{Terms, WorkerFacts, path};
use ratls::Wanted;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest answer that is read, bytes.
const LIMIT: usize = 512 * 1024;

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `HOST:PORT` of a proxy or worker; without it, the gateway is asked.
    address: Option<String>,
    /// The gateway; a loopback address.
    #[arg(long, default_value = "127.0.0.1:8080", conflicts_with = "address")]
    gateway: SocketAddr,
    /// What the machine is: `proxy` or `worker`.
    #[arg(long, default_value = "proxy", value_parser = ["proxy", "worker"], requires = "address")]
    part: String,
    #[command(flatten)]
    target: Target,
}

/// What a proxy or worker says of itself.
#[derive(Debug, Serialize)]
struct Machine {
    platform: String,
    release: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    terms: Option<Terms>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<WorkerFacts>,
    /// By name and labels.
    metrics: BTreeMap<String, f64>,
}

/// Asks, prints.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    match &args.address {
        None => {
            let status = gateway(loopback(args.gateway).context("--gateway")?)?;
            facts(json, &status, || human(&status))?;
            Ok(Outcome::Fine)
        }
        Some(address) => {
            let part = if args.part == "worker" { Part::Worker } else { Part::Proxy };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            match runtime.block_on(machine(address, part, &args.target))? {
                Err(error) => refused(error, json),
                Ok(machine) => {
                    facts(json, &machine, || table(&machine))?;
                    Ok(Outcome::Fine)
                }
            }
        }
    }
}

fn gateway(address: SocketAddr) -> Result<Status> {
    let agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(20))).build().new_agent();
    let url = format!("http://{address}{STATUS}");
    let mut response = agent.get(&url).call().with_context(|| format!("{url}: is the gateway running?"))?;
    let text = response.body_mut().with_config().limit(LIMIT as u64).read_to_string();
    let text = text.with_context(|| format!("{url}: the answer broke off"))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{url}: expected the status of a gateway of this version"))
}

async fn machine(address: &str, part: Part, target: &Target) -> Result<Result<Machine, ClientError>> {
    let (address, trust) = target.load_at(Some(address))?;
    let client = match Client::connect_to(&address, &Wanted::part(part), &trust, target.at(), |_| ()).await {
        Ok(client) => client,
        Err(error) => return Ok(Err(error)),
    };
    let verdict = client.appraised().verdict();
    let (terms, worker) = match part {
        Part::Worker => (None, get(client.requests(), path::WORKER).await.ok()),
        _ => (get(client.requests(), path::TERMS).await.ok(), None),
    };
    let (status, body) = fetch(client.requests(), path::METRICS, LIMIT).await?;
    ensure!(status == 200, "{address}: {} was answered {status}; is it of this version?", path::METRICS);
    let text = String::from_utf8(body.to_vec()).context("metrics: not text")?;
    let platform = serde_json::to_value(verdict.platform)?.as_str().unwrap_or_default().to_owned();
    Ok(Ok(Machine { platform, release: verdict.release.clone(), terms, worker, metrics: metrics(&text)? }))
}

/// Samples of Prometheus' text form.
fn metrics(text: &str) -> Result<BTreeMap<String, f64>> {
    ensure!(text.len() <= LIMIT, "metrics: longer than {LIMIT} bytes");
    let mut out = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { bail!("metrics: a line without a value") };
        let value =
            value.parse().with_context(|| format!("metrics: {} has no number", name.escape_debug()))?;
        out.insert(name.chars().filter(|c| !c.is_control()).collect(), value);
    }
    Ok(out)
}

fn human(status: &Status) -> String {
    let mut text = format!(
        "block {} ({})\nrequests: {} settled, {} free, {} abandoned, {} REFUSED; {} TON charged\n",
        status.block,
        status.block_time,
        status.settled,
        status.free,
        status.abandoned,
        status.refused,
        in_ton(status.charged)
    );
    for proxy in &status.proxies {
        let state = match proxy.state {
            State::Connected => "connected",
            State::Away => "away",
            State::Left => "LEFT",
        };
        let simulated = if proxy.simulated == Some(true) { " SIMULATED" } else { "" };
        let reason = proxy.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let models = format!("{} models, {} under way", proxy.models, proxy.in_flight);
        text += &format!("proxy {:<24} {state}{simulated}, {models}{reason}\n", proxy.endpoint);
    }
    for vault in &status.vaults {
        let deposited = vault.deposited.map_or("?".into(), in_ton);
        text += &format!(
            "vault {}: {} of {deposited} TON used, {} allowed, {} left today, {} open\n",
            vault.vault,
            in_ton(vault.used),
            in_ton(vault.allowed),
            in_ton(vault.left_today),
            vault.open
        );
    }
    text
}

fn table(machine: &Machine) -> String {
    let simulated = if machine.platform == "simulated" { "SIMULATED platform" } else { &machine.platform };
    let mut text = format!("{simulated}; release {}\n", machine.release.as_deref().unwrap_or("unknown"));
    if let Some(terms) = &machine.terms {
        text += &format!("session {} (epoch {}), pool {}\n", phase(terms.phase), terms.epoch, terms.pool);
        for model in &terms.models {
            text += &format!("  {:<24} {} workers, {} free\n", model.name, model.workers, model.free);
        }
    }
    if let Some(worker) = &machine.worker {
        text += &format!("{} models on {}\n", worker.models.len(), worker.device.name);
    }
    machine.metrics.iter().fold(text, |text, (name, value)| text + &format!("  {name} {value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_or_refused() {
        let read = metrics("# HELP a b\na{x=\"y z\"} 3\nb 0.5\n\n").unwrap();
        assert_eq!(read, BTreeMap::from([("a{x=\"y z\"}".into(), 3.0), ("b".into(), 0.5)]));
        for wrong in ["a", "a b", "\u{1b}[31m x"] {
            assert!(metrics(wrong).is_err(), "{wrong}");
        }
    }
}

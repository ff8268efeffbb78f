//! `chrysalis connect` (also `verify`): the whole verdict on a live peer, over a connection of its own.

use crate::output::{Outcome, facts};
use crate::trust::Target;
use crate::wanted::WantedArgs;
use anyhow::{Context, Result, bail};
use client::ClientError;
use evidence::{Verdict, gpu::GpuVerdict};
use measure::Registers;
use measure::wire::{Evidence, LogFormat};
use protocol::channel::{Part, Refuse};
use ratls::{Attested, ChannelError, ConnectError, Endpoint, Refusal, Verifier};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long a TCP connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Options of `connect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `HOST:PORT` of the peer, in the place of `--endpoint`.
    address: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: WantedArgs,
    /// What the peer must be.
    #[arg(long, value_enum, default_value = "worker")]
    part: PartArg,
    /// Writes the evidence here, whatever the verdict: input of `measure explain`.
    #[arg(long)]
    save_evidence: Option<PathBuf>,
}

/// Parts that can be connected to.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PartArg {
    /// Runs inference.
    Worker,
    /// Routes requests to workers.
    Proxy,
    /// Behind a tunnel.
    Service,
}

impl From<PartArg> for Part {
    fn from(part: PartArg) -> Part {
        match part {
            PartArg::Worker => Part::Worker,
            PartArg::Proxy => Part::Proxy,
            PartArg::Service => Part::Service,
        }
    }
}

/// Everything that is known of a peer.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    verdict: Option<&'a Verdict>,
    channel: Channel,
    /// The verdict about its GPUs, where one was demanded.
    gpu: Option<&'a GpuVerdict>,
    /// Why it was refused although its machine is right, or what it answered in the place of evidence.
    refused: Option<String>,
}

/// The connection.
#[derive(Debug, Serialize)]
struct Channel {
    address: String,
    part: String,
    tls: &'static str,
    key_exchange: Option<String>,
    /// Digest of the release whose registers the peer has.
    release: Option<String>,
    application_keys: Vec<Key>,
    milliseconds: Timings,
}

#[derive(Debug, Serialize)]
struct Key {
    name: String,
    key: String,
}

/// How long each part took.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Timings {
    /// To the TCP connection.
    tcp: f64,
    /// From there to the evidence: TLS handshake, challenge, the peer's quote.
    evidence: Option<f64>,
    /// Judging it.
    appraisal: Option<f64>,
}

/// What came of the attempt.
struct Seen {
    result: Result<Attested, ConnectError>,
    timings: Timings,
    evidence: Option<Evidence>,
}

/// Connects, takes evidence bound to this connection, appraises it and prints every check.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let (address, mut trust) = args.target.load_at(args.address.as_deref())?;
    let wanted = args.wanted.resolve(args.part.into(), &mut trust)?;
    let verifier = Verifier::fixed(trust, args.target.at());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = runtime.block_on(attempt(&address, &verifier, &wanted))?;
    if let (Some(path), Some(evidence)) = (&args.save_evidence, &seen.evidence) {
        save(path, evidence)?;
    }
    show(address, wanted.part, seen, json)
}

async fn attempt(address: &str, verifier: &Verifier, wanted: &ratls::Wanted) -> Result<Seen> {
    let began = Instant::now();
    let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let tcp =
        connected.with_context(|| format!("{address}: cannot connect; is this its address and port?"))?;
    let _ = tcp.set_nodelay(true);
    let mut timings = Timings { tcp: millis(began), ..Timings::default() };
    let (asked, mut came) = (Instant::now(), None);
    let me = Endpoint::anonymous();
    let show = |claim: &ratls::Claim| came = Some((Instant::now(), claim.shown.machine.clone()));
    let result = ratls::connect_showing(tcp, &me, verifier, wanted, show).await;
    let evidence = came.map(|(at, evidence)| {
        timings.evidence = Some((at - asked).as_secs_f64() * 1e3);
        timings.appraisal = Some(millis(at));
        evidence
    });
    Ok(Seen { result, timings, evidence })
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Prints what was seen. A peer that is refused, or that says no by the protocol's own words, is a refusal; a network that
/// fails is none.
fn show(address: String, part: Part, seen: Seen, json: bool) -> Result<Outcome> {
    let channel = Channel {
        address,
        part: part.to_string(),
        tls: "1.3",
        key_exchange: None,
        release: None,
        application_keys: vec![],
        milliseconds: seen.timings,
    };
    match seen.result {
        Ok(mut attested) => {
            let key_exchange = attested.stream().key_exchange().map(|group| format!("{group:?}"));
            let peer = attested.peer();
            let key = |key: &protocol::channel::ApplicationKey| Key {
                name: key.name.clone(),
                key: hex::encode(&key.key),
            };
            let channel = Channel {
                key_exchange,
                release: peer.release().map(hex::encode),
                application_keys: peer.keys().iter().map(key).collect(),
                ..channel
            };
            let gpu = peer.gpu().map(|gpus| gpus.verdict());
            print(&Shown { verdict: Some(peer.appraised().verdict()), channel, gpu, refused: None }, json)?;
            Ok(Outcome::Fine)
        }
        Err(ConnectError::Refused(refusal)) => {
            let refused = refusal.verdict().is_none().then(|| refusal.to_string());
            let (verdict, gpu) = (refusal.verdict(), refusal.gpu_verdict());
            print(&Shown { verdict, channel, gpu, refused }, json)?;
            Ok(Outcome::Mismatch)
        }
        Err(ConnectError::Channel(error)) if is_no(&error) => {
            let refused = Some(error.to_string());
            print(&Shown { verdict: None, channel, gpu: None, refused }, json)?;
            Ok(Outcome::Mismatch)
        }
        Err(error) => bail!(ClientError::from_connect(&channel.address, error)),
    }
}

/// Whether this says that the peer is not what was wanted, as opposed to that it, or the network, can't tell now.
fn is_no(error: &ChannelError) -> bool {
    match error {
        ChannelError::Weaker { .. } => true,
        ChannelError::Refused { reason, .. } => match reason {
            Refuse::Part | Refuse::Identity | Refuse::Gpu | Refuse::Evidence => true,
            Refuse::Busy | Refuse::Admission | Refuse::Platform | Refuse::Protocol => false,
        },
        _ => false,
    }
}

fn print(shown: &Shown<'_>, json: bool) -> Result<()> {
    let mut value = serde_json::to_value(shown)?;
    // Also where the machine is right, or never came to be judged: who reads one field reads this one.
    if shown.refused.is_some() {
        value["accepted"] = false.into();
    }
    facts(json, &value, || table(shown))
}

fn table(shown: &Shown<'_>) -> String {
    let colour = std::io::stdout().is_terminal();
    let mut text = String::new();
    if let Some(refused) = &shown.refused {
        text += &format!("REFUSED: {refused}\n");
    }
    if let Some(verdict) = shown.verdict {
        text += &verdict.table(colour);
        if let Some(registers) = &verdict.registers {
            text += &registers_table(registers, verdict.release.as_deref());
        }
    }
    if let Some(gpu) = shown.gpu {
        text += &gpu.table(colour);
    }
    text + &channel_table(&shown.channel)
}

fn registers_table(registers: &Registers, release: Option<&str>) -> String {
    let mut text = format!("\nregisters, of release {}\n", release.unwrap_or("unknown"));
    text += &format!("  mrtd   {}\n", registers.mrtd);
    for (number, value) in registers.rtmr.iter().enumerate() {
        text += &format!("  rtmr{number}  {value}\n");
    }
    text
}

fn channel_table(channel: &Channel) -> String {
    let Channel { address, part, tls, key_exchange, release, application_keys, milliseconds } = channel;
    let unknown = || "unknown".to_owned();
    let mut text = format!("\nchannel to {address}, a {part}\n");
    text += &format!("  TLS               {tls}, {}\n", key_exchange.clone().unwrap_or_else(unknown));
    text += &format!("  release digest    {}\n", release.clone().unwrap_or_else(unknown));
    for Key { name, key } in application_keys {
        text += &format!("  application key   {name} = {key}\n");
    }
    let took = |millis: Option<f64>| millis.map_or_else(unknown, |millis| format!("{millis:.1} ms"));
    text += &format!(
        "  took              TCP {:.1} ms; handshake, challenge and the peer's quote {}; appraisal {}\n",
        milliseconds.tcp,
        took(milliseconds.evidence),
        took(milliseconds.appraisal)
    );
    text
}

/// Writes evidence as `measure explain` reads it (docs/reference/explain.md).
fn save(path: &Path, evidence: &Evidence) -> Result<()> {
    let file = serde_json::json!({
        "schema": 1,
        "quote": hex::encode(&evidence.quote),
        "log_format": match evidence.event_log.format {
            LogFormat::Ccel => "ccel",
            LogFormat::Tpm => "tpm",
        },
        "event_log": hex::encode(&evidence.event_log.bytes),
        "runtime": hex::encode(&evidence.runtime),
        "static_config": hex::encode(&evidence.static_config),
    });
    std::fs::write(path, format!("{file:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

/// Prints the verdict of a refused peer; any other error is passed on.
pub fn refused(error: ClientError, json: bool) -> Result<Outcome> {
    match error.refusal() {
        Some(Refusal::Evidence(refused)) => {
            let verdict = refused.verdict();
            facts(json, verdict, || verdict.table(std::io::stdout().is_terminal()))?;
            Ok(Outcome::Mismatch)
        }
        Some(other) => {
            let words = other.to_string();
            let refused = serde_json::json!({ "accepted": false, "refused": &words });
            facts(json, &refused, || format!("REFUSED: {words}"))?;
            Ok(Outcome::Mismatch)
        }
        None => bail!(error),
    }
}

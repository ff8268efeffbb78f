//! `chrysalis tunnel`: an attested channel between a program and a TCP service, each end a process of its own.
//!
//! ```text
//! program --TCP, loopback--> tunnel dial ==attested channel==> tunnel serve --TCP--> service
//! ```
//! `serve` runs in the trust domain that it speaks for; `dial` runs anywhere, and with a platform of its own is attested in turn.

use crate::connect::refused;
use crate::follow::{Followed, keep};
use crate::output::{Outcome, line};
use crate::platform::{PlatformArgs, endpoint};
use crate::trust::Target;
use crate::wanted::WantedArgs;
use anyhow::{Context, Result, ensure};
use attest::TsmAttester;
use client::tunnel::{Dialer, Event, Far, Report, near, weaker};
use protocol::channel::Part;
use ratls::session::End;
use ratls::weak::WeakCertificate;
use ratls::{Acceptor, Endpoint, Peer, Verifier, Wanted};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The two ends.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Beside the program: listen on loopback, and carry each connection to the far end.
    Dial(DialArgs),
    /// Beside the service: let attested connections in, and carry each stream to it.
    Serve(ServeArgs),
}

/// Options of `tunnel dial`.
#[derive(Debug, clap::Args)]
pub struct DialArgs {
    /// `HOST:PORT` of the far end, in the place of `--endpoint`.
    address: Option<String>,
    /// Where programs connect to; a loopback address.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: WantedArgs,
    #[command(flatten)]
    platform: PlatformArgs,
}

/// Options of `tunnel serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Where the far end is reached from the network.
    #[arg(long)]
    listen: SocketAddr,
    /// `HOST:PORT` of the service that every stream goes to.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    #[command(flatten)]
    platform: PlatformArgs,
    /// Serves the service here too, over plain TLS whose certificate carries evidence (2.23.133.5.4.9). WEAKER: whoever has the
    /// certificate's key is believed. For tools that know no attested channel; `dial` and `connect` refuse it.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "mutual")]
    weaker_listen: Option<SocketAddr>,
    /// Lets in nobody but attested services, held against the options below; without it everybody is let in.
    #[arg(long)]
    mutual: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: WantedArgs,
}

/// The same service behind a certificate with evidence inside, whose quote is made once, now.
async fn weaker_end(
    listen: SocketAddr,
    attester: Arc<TsmAttester>,
    service: String,
    json: bool,
) -> Result<impl Future<Output = ()> + Send> {
    let made = tokio::task::spawn_blocking(move || WeakCertificate::make(attester.as_ref())).await?;
    let acceptor = made.context("--weaker-listen: this machine's platform")?.acceptor(&[])?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("--weaker-listen {listen}"))?;
    let address = listener.local_addr()?;
    match json {
        true => line(&json!({ "event": "weaker_listening", "address": address }).to_string())?,
        false => line(&format!(
            "WEAKER: listening on {address} with evidence over a key, not over each connection"
        ))?,
    }
    let report = report(json);
    Ok(async move { weaker(listener, acceptor, &service, report).await })
}

/// Runs one end until it is killed; the far end drains first, if it is told to stop.
pub fn run(command: Command, json: bool) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        Command::Dial(args) => runtime.block_on(dial(&args, json)),
        Command::Serve(args) => runtime.block_on(serve(&args, json)),
    }
}

async fn dial(args: &DialArgs, json: bool) -> Result<Outcome> {
    let loopback = args.listen.ip().is_loopback();
    ensure!(
        loopback,
        "--listen {}: expected a loopback address: whoever reaches it is let through",
        args.listen
    );
    let (address, verifier, wanted) = verifier(&args.target, &args.wanted, args.address.as_deref(), json)?;
    let me = match args.platform.attester(json)? {
        Some((attester, static_config)) => endpoint(Part::Service, attester, static_config),
        None => Endpoint::anonymous(),
    };
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
    let dialer = Arc::new(Dialer::new(&address, Arc::new(me), verifier, wanted, report(json)));
    // Whom nobody would get through to is not listened for.
    if let Err(error) = dialer.session().await {
        return refused(error, json);
    }
    listening(&listener, &format!("programs; the far end is {address}"), json)?;
    near(listener, dialer).await;
    Ok(Outcome::Fine)
}

async fn serve(args: &ServeArgs, json: bool) -> Result<Outcome> {
    let platform = args.platform.attester(json)?;
    let (attester, static_config) = platform.context(
        "tunnel serve: give --static-config, the bytes that MRCONFIGID commits to; this end proves what it is",
    )?;
    if let Some(listen) = args.weaker_listen {
        let weaker = weaker_end(listen, attester.clone(), args.to.clone(), json).await?;
        tokio::spawn(weaker);
    }
    let me = Arc::new(endpoint(Part::Service, attester, static_config));
    let acceptor = Acceptor::new(me.clone()).context("an attested end can be connected to")?;
    let (acceptor, end) = match args.mutual {
        false => (acceptor.anonymous(), End::new(me)),
        true => {
            let (_, verifier, wanted) = verifier(&args.target, &args.wanted, Some(""), json)?;
            let end = End::new(me).verifying(verifier.clone(), wanted.clone());
            (acceptor.attested(verifier, wanted), end)
        }
    };
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
    let who = if args.mutual { "attested services" } else { "everybody" };
    listening(&listener, &format!("{who}; the service is {}", args.to), json)?;
    let (stop, stopped) = watch::channel(false);
    let told = told_to_stop()?;
    tokio::spawn(async move {
        told.await;
        stop.send_replace(true);
    });
    Far::new(acceptor, end, &args.to, report(json)).run(listener, stopped).await;
    Ok(Outcome::Fine)
}

/// Ends when the process is told to, by SIGTERM or SIGINT.
pub fn told_to_stop() -> Result<impl Future<Output = ()> + Send> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// What verifies a peer, following its files, and what the peer must be; `address` in the place of the target's own.
pub fn verifier(
    target: &Target,
    args: &WantedArgs,
    address: Option<&str>,
    json: bool,
) -> Result<(String, Arc<Verifier>, Wanted)> {
    let address = target.address(address)?;
    let tell = move |came| {
        let (value, words) = match came {
            Followed::Replaced => (
                json!({ "event": "trust" }),
                "policy, collateral or reference values changed, and count".into(),
            ),
            Followed::Kept(reason) => {
                let words =
                    format!("what changed does not read, so what counted before still does: {reason}");
                (json!({ "event": "trust", "reason": reason }), words)
            }
            Followed::Published { standing, releases } => {
                let words = format!("publication: {releases} release(s) accepted; {standing}");
                (json!({ "event": "publication", "releases": releases, "standing": standing }), words)
            }
        };
        say(json, &value, &words);
    };
    let (verifier, wanted) = keep(target, args, Part::Service, tell)?;
    Ok((address, verifier, wanted))
}

fn listening(listener: &TcpListener, what: &str, json: bool) -> Result<()> {
    let address = listener.local_addr()?;
    match json {
        true => line(&json!({ "event": "listening", "address": address }).to_string()),
        false => line(&format!("listening on {address} for {what}")),
    }
}

/// Tells of events: one JSON object a line on standard output, or words on standard error.
fn report(json: bool) -> Report {
    Arc::new(move |event| {
        let (value, words) = told(&event);
        say(json, &value, &words);
    })
}

/// One JSON object a line on standard output, or words on standard error.
pub fn say(json: bool, value: &Value, words: &str) {
    match json {
        // Whoever reads no more needs no word.
        true => drop(line(&value.to_string())),
        false => eprintln!("{words}"),
    }
}

fn told(event: &Event<'_>) -> (Value, String) {
    match event {
        Event::Attested(peer) => {
            let words = format!("the far end is attested: {}", headline(peer));
            (json!({ "event": "attested", "peer": facts_of(peer) }), words)
        }
        Event::LetIn(from, Some(peer)) => {
            let value = json!({ "event": "let_in", "from": from, "peer": facts_of(peer) });
            (value, format!("{from} is attested: {}", headline(peer)))
        }
        Event::LetIn(from, None) => (
            json!({ "event": "let_in", "from": from, "peer": null }),
            format!("{from} is let in as a client"),
        ),
        Event::TurnedAway(from, error) => {
            let value = json!({ "event": "turned_away", "from": from, "reason": error.to_string() });
            (value, format!("{from} is turned away: {error}"))
        }
        Event::Ended(ended) => {
            let value = json!({ "event": "ended", "reason": ended.reason.to_string(), "cut": ended.cut });
            (value, format!("session over: {}; {} streams were cut", ended.reason, ended.cut))
        }
        Event::Failed(error) => {
            (json!({ "event": "failed", "reason": error.to_string() }), format!("stream failed: {error}"))
        }
    }
}

fn facts_of(peer: &Peer) -> Value {
    let verdict = peer.appraised().verdict();
    json!({ "part": peer.part().to_string(), "platform": verdict.platform, "release": verdict.release,
        "digest": peer.release().map(hex::encode), "expires": peer.expires() })
}

/// The verdict in a line; a simulated platform is named as one there.
pub fn headline(peer: &Peer) -> String {
    let verdict = peer.appraised().verdict();
    let text = verdict.to_string();
    let release = verdict.release.as_deref().unwrap_or("unknown");
    format!("{}; release {release}", text.lines().next().unwrap_or_default())
}

//! From QEMU's start to the first attested answer, beside the bare floor, booted in turns.

use crate::machine;
use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use client::Trust;
use e2e::{DEADLINE, MODEL, Stage, connect, now};
use launcher::floor::{CMDLINE, Floor, FloorTime};
use launcher::{Settings, State, What, launch};
use protocol::channel::Part;
use ratls::{Claim, Endpoint, Verifier, Wanted};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How many times the floor the first attested answer may take.
const LIMIT: f64 = 2.5;
/// What is asked.
const TEXT: &str = "A caterpillar dissolves before it flies.";
/// Appraisals of one quote that are timed together.
const APPRAISALS: u32 = 20;

/// Times of one boot of the image.
struct Answered {
    /// Since QEMU's start.
    serving: Duration,
    connected: Duration,
    embedded: Duration,
    /// Since QEMU's start.
    answered: Duration,
    /// Of one appraisal, on the verifier.
    appraisal: Duration,
}

/// Boots each guest `boots` times, in turns.
pub fn measure(stage: &Stage, scratch: &Path, boots: u32) -> Result<Vec<Number>> {
    let (settings, foretold) = stage.foretell(&stage.fragment(scratch))?;
    let trust = stage.trust("demo", foretold.reference(&settings.static_config))?;
    let floor = Floor {
        kernel: stage.image().join("kernel"),
        busybox: machine::busybox()?,
        work_dir: scratch.join("floor"),
        vcpus: settings.vcpus,
        memory_mib: settings.memory_mib,
        firmware: settings.firmware.clone(),
    };
    let (mut floors, mut answers) = (Vec::new(), Vec::new());
    for round in 1..=boots {
        let bare = floor.measure(|name| Command::new(name), DEADLINE).context("the bare floor")?;
        let answer = answered(&settings, &trust).context("the image")?;
        let (up, first) = (bare.first_line_ms as f64 / 1e3, answer.answered.as_secs_f64());
        eprintln!("  boot {round} of {boots}: floor {up:.1} s, first attested answer {first:.1} s");
        floors.push(bare);
        answers.push(answer);
    }
    Ok(numbers(&settings, &floors, &answers))
}

fn numbers(settings: &Settings, floors: &[FloorTime], answers: &[Answered]) -> Vec<Number> {
    let of = |pick: fn(&Answered) -> Duration, scale: f64| -> Vec<f64> {
        answers.iter().map(|answer| pick(answer).as_secs_f64() * scale).collect()
    };
    let bare: Vec<f64> = floors.iter().map(|time| time.first_line_ms as f64 / 1e3).collect();
    let uki = floors.first().map_or(f64::NAN, |time| time.uki_bytes as f64 / 1e6);
    let machine = format!(
        "direct boot, {} vCPUs, {} MiB, software emulation, SIMULATED platform",
        settings.vcpus, settings.memory_mib
    );
    let floor = format!("the floor is the image's kernel and busybox as a UKI of {uki:.1} MB, `{CMDLINE}`");
    vec![
        Number::new("first attested answer", Unit::Seconds, &of(|a| a.answered, 1.0))
            .limit(Limit::TimesPeer(LIMIT))
            .beside("bare floor", &bare)
            .covers(format!("QEMU's start to the vector of one short text, verified before; {machine}; {floor}")),
        Number::new("  guest serves", Unit::Seconds, &of(|a| a.serving, 1.0))
            .beside("bare floor", &bare)
            .covers("the part up to the guest's word that it serves"),
        Number::new("  connect and verify", Unit::Milliseconds, &of(|a| a.connected, 1e3))
            .covers("TLS handshake, quote over this connection made by the guest, appraisal"),
        Number::new("  embed one text", Unit::Milliseconds, &of(|a| a.embedded, 1e3))
            .covers("one request on that connection, computed on emulated CPUs"),
        Number::new("quote verification", Unit::Milliseconds, &of(|a| a.appraisal, 1e3)).covers(format!(
            "one whole appraisal on this host: certificates, quote, event log, reference values; mean of {APPRAISALS} a boot"
        )),
    ]
}

/// Boots, verifies, asks.
fn answered(settings: &Settings, trust: &Trust) -> Result<Answered> {
    let (send, began) = mpsc::channel();
    let guest = launch(
        settings,
        |name| Command::new(name),
        move |event| {
            // The launcher's own clock, so that the image and the floor are timed alike.
            let start = Instant::now().checked_sub(Duration::from_millis(event.at_ms));
            if let (What::State(State::Serving), Some(start)) = (&event.what, start) {
                // Nobody listens if the wait below failed.
                let _ = send.send(start);
            }
        },
    )?;
    let serving = guest.wait_serving(DEADLINE)?;
    let began: Instant = began.recv().context("the launcher did not tell when the guest served")?;
    let asking = began.elapsed();
    let (runtime, mut client) = connect(&guest.endpoint(), trust, now())?;
    let verified = began.elapsed();
    let answer = runtime.block_on(client.embed(MODEL, &[TEXT.to_owned()]))?;
    let answered = began.elapsed();
    ensure!(answer.vectors.iter().flatten().any(|x| *x != 0.0), "the worker answered with zeros");
    let appraisal = appraisal(&guest.endpoint(), trust)?;
    guest.stop()?;
    Ok(Answered { serving, connected: verified - asking, embedded: answered - verified, answered, appraisal })
}

/// Time of one appraisal of fresh evidence.
fn appraisal(endpoint: &SocketAddr, trust: &Trust) -> Result<Duration> {
    let at = now();
    let mut took = Duration::ZERO;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(endpoint).await.context("nobody listens")?;
        let (me, wanted) = (Endpoint::anonymous(), Wanted::part(Part::Worker));
        let Trust { policy, collateral, reference, .. } = trust;
        let show = |claim: &Claim| {
            let (machine, report_data) = (&claim.shown.machine, &claim.report_data);
            let began = Instant::now();
            for _ in 0..APPRAISALS {
                // Whether it accepts is said by the connection, below.
                let appraised = evidence::appraise(machine, collateral, policy, reference, report_data, at);
                drop(std::hint::black_box(appraised));
            }
            took = began.elapsed() / APPRAISALS;
        };
        let verifier = Verifier::fixed(trust.clone(), at);
        let attested = ratls::connect_showing(tcp, &me, &verifier, &wanted, show);
        attested.await.map(drop).context("refused")
    })?;
    Ok(took)
}

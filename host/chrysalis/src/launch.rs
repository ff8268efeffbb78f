//! `chrysalis launch`: foretell the measurements of a machine, then boot it and report its progress.
//!
//! The prediction is finished and written down before QEMU starts; it reads the artifacts, the firmware and the shape,
//! and no log.

use crate::output::Outcome;
use crate::published::PublishedArgs;
use crate::trust::{PREDICTION_FILE, REFERENCE_FILE, RUN_FILE, Run};
use anyhow::{Context, Result};
use builder::{Checkout, Tools};
use launcher::foretell::{Foretold, foretell};
use launcher::settings::{Fragment, ModelFragment, Settings, ShapeFragment};
use launcher::{Event, Guest, What};
use protocol::progress::Stage;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A boot under software emulation takes half a minute on an idle machine; a busy one gets this long.
const DEADLINE: Duration = Duration::from_secs(600);

/// Options of `launch`. What a settings file says, an option overrides.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Settings file (TOML, `schema = 1`).
    #[arg(long)]
    settings: Option<PathBuf>,
    /// Folder of a built image.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Folder of a packed model (`model.img`, `model.json`); repeat for several.
    #[arg(long = "model")]
    models: Vec<PathBuf>,
    /// `direct` (the kernel image is handed to the firmware) or `disk` (the firmware finds it).
    #[arg(long)]
    boot: Option<String>,
    /// Virtual CPUs.
    #[arg(long)]
    vcpus: Option<u32>,
    /// Memory in MiB.
    #[arg(long)]
    memory_mib: Option<u64>,
    /// Loopback address and port where the service appears; port 0 lets the system choose.
    #[arg(long)]
    listen: Option<String>,
    /// Folder of a simulated platform's keys; only images of the debug profile have a use for it.
    #[arg(long)]
    simulated_platform: Option<PathBuf>,
    /// Folder of this run.
    #[arg(long, default_value = "out/run")]
    run: PathBuf,
    /// With these, a machine whose foretold registers no accepted release has is not started.
    #[command(flatten)]
    published: PublishedArgs,
}

/// Boots and stays until the machine ends or the launcher is told to stop.
pub fn run(args: Args, json: bool) -> Result<Outcome> {
    let settings = settings(&args)?;
    let tools = Tools::open(&Checkout::find()?, &mut |progress| eprintln!("  {progress}"))?;
    let foretold = foretell(&settings, &|path| tools.path(&path.to_string_lossy()))?;
    if let Some(source) = args.published.source()? {
        let release = source.covers(&foretold.registers)?;
        eprintln!("  published: {release}");
    }
    let reference = write_prediction(&foretold, &settings)?;
    let (events, millis) = (foretold.prediction.events.len(), foretold.took.as_millis());
    eprintln!("  foretold {events} events in {millis} ms, before the machine starts:");
    let [before_the_kernel @ .., rtmr3] = measure::Register::ALL;
    for register in before_the_kernel {
        eprintln!("    {register:<6} {}", foretold.registers.get(register));
    }
    eprintln!("    {rtmr3:<6} the fold of the guest's own events, which it shows with its evidence");
    let commands = tools.clone();
    let guest =
        launcher::launch(&settings, move |name| commands.command(name), move |event| show(event, json))?;
    write_run(&guest, &settings, reference)?;
    let serving = guest.wait_serving(DEADLINE)?;
    eprintln!("  serving on {} after {:.1} s", guest.endpoint(), serving.as_secs_f32());
    guest.wait_exit(Duration::MAX)?;
    Ok(Outcome::Fine)
}

fn settings(args: &Args) -> Result<Settings> {
    let file = match &args.settings {
        Some(path) => Fragment::read(path)?,
        None => Fragment::default(),
    };
    let model = |dir: &PathBuf| ModelFragment { image: Some(dir.join("model.img")), pin: None };
    let shape = ShapeFragment { vcpus: args.vcpus, memory_mib: args.memory_mib };
    let options = Fragment {
        image: args.image.clone(),
        boot: args.boot.clone(),
        listen: args.listen.clone(),
        simulated_platform: args.simulated_platform.clone(),
        work_dir: Some(args.run.clone()),
        shape: Some(shape),
        models: (!args.models.is_empty()).then(|| args.models.iter().map(model).collect()),
        ..Fragment::default()
    };
    Ok(file.merge(options).settle()?)
}

fn write_prediction(foretold: &Foretold, settings: &Settings) -> Result<PathBuf> {
    let dir = &settings.work_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("{}: can't make the run folder", dir.display()))?;
    let reference = dir.join(REFERENCE_FILE);
    write_json(&reference, &foretold.reference(&settings.static_config))?;
    write_json(&dir.join(PREDICTION_FILE), &foretold.prediction)?;
    Ok(reference)
}

fn write_run(guest: &Guest, settings: &Settings, reference: PathBuf) -> Result<()> {
    let endpoint: SocketAddr = guest.endpoint();
    let platform = |name: &str| settings.simulated_platform.as_ref().map(|dir| dir.join(name));
    let run = Run {
        schema: 1,
        endpoint,
        reference,
        policy: platform("policy.toml"),
        collateral: platform("collateral.json"),
    };
    write_json(&settings.work_dir.join(RUN_FILE), &run)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| format!("{}: can't write", path.display()))
}

fn show(event: &Event, json: bool) {
    if json && let Ok(line) = serde_json::to_string(event) {
        // Whoever read the output may be gone; the machine runs on.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    let seconds = event.at_ms as f64 / 1000.0;
    match &event.what {
        What::State(state) => eprintln!("  {seconds:6.1} s  {state:?}"),
        What::Progress(line) => eprintln!("  {seconds:6.1} s    guest: {}", stage(&line.stage)),
        What::Quotes { answer: true } => eprintln!("  {seconds:6.1} s  the quote service answers again"),
        What::Quotes { answer: false } => eprintln!(
            "  {seconds:6.1} s  the quote service does NOT answer: nobody new can verify this machine; restart it \
             (`systemctl restart qgsd`)"
        ),
    }
}

/// What the guest says about itself, for people; nobody relies on it.
fn stage(stage: &Stage) -> String {
    match stage {
        Stage::Started => "firmware, kernel and verified root are behind us".into(),
        Stage::ConfigMeasured { mrconfigid } => {
            format!("configuration equals MRCONFIGID {mrconfigid:.16}...")
        }
        Stage::NetworkUp { address } => format!("network up, {address}"),
        Stage::ModelOpened { name, root } => format!("model {name} opened under root {root:.16}..."),
        Stage::Sealed { extended: true, rtmr3 } => format!("sealed, RTMR3 extended to {rtmr3:.16}..."),
        Stage::Sealed { extended: false, .. } => "sealed, RTMR3 not extended: this kernel can't".into(),
        Stage::Serving { port } => format!("serving on port {port}"),
        Stage::PeerJoined { part, simulated: false } => format!("{} attested", part.as_str()),
        Stage::PeerJoined { part, simulated: true } => {
            format!("{} attested, SIMULATED platform", part.as_str())
        }
        Stage::PeerRefused { part, reasons } => {
            format!("{} REFUSED: {}", part.as_str(), reasons.join(", "))
        }
        Stage::Publication { standing, accepted, reason, .. } => {
            let why = reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
            format!("publication {standing:?}: {accepted} release(s) accepted{why}")
        }
        Stage::PeerLeft { part } => format!("{} left", part.as_str()),
        Stage::Failed { step, reason } => format!("FAILED at {step}: {reason}"),
    }
}

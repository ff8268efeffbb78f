//! `chrysalis launch`: foretell the measurements of a machine, boot it, keep it, and report its progress.
//!
//! The prediction is finished and written down before QEMU starts; it reads the artifacts, the firmware and the shape,
//! and no log. SIGTERM and SIGINT drain the machine; a second one ends it at once. `chrysalis machine` asks this process how the
//! machine stands, and exchanges its image ([`launcher::keep`]).

mod notify;
mod plan;
pub mod words;

use crate::output::Outcome;
use crate::published::PublishedArgs;
use anyhow::{Context, Result};
use launcher::HostDirs;
use launcher::keep::{self, Signal};
use launcher::settings::{Fragment, ModelFragment, ShapeFragment};
use plan::LaunchPlan;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use tokio::signal::unix::{SignalKind, signal};

/// Options of `launch`. What a settings file says, an option overrides.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Settings file (TOML, `schema = 1`); repeat to lay one over another.
    #[arg(long)]
    settings: Vec<PathBuf>,
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
    let (sender, inbox) = keep::signals();
    listen(sender.clone())?;
    let mut plan = LaunchPlan::new(args, json)?;
    keep::keep(&mut plan, &HostDirs::default(), (sender, inbox))?;
    Ok(Outcome::Fine)
}

/// Passes the process's signals on, from a thread that lives as long as the process.
fn listen(sender: Sender<Signal>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    let _guard = runtime.enter();
    let [mut term, mut int] = [signal(kinds[0])?, signal(kinds[1])?];
    drop(_guard);
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if sender.send(Signal::Told).is_err() {
                    return;
                }
            }
        });
    })?;
    Ok(())
}

impl Args {
    /// All settings: files in order, what an upgrade chose, options, and this image if one is given.
    fn fragment(&self, image: Option<&Path>) -> Result<Fragment> {
        let mut all = Fragment::default();
        for path in &self.settings {
            all = all.merge(Fragment::read(path)?);
        }
        let upgraded = self.run.join(plan::UPGRADED);
        if upgraded.exists() {
            all = all.merge(Fragment::read(&upgraded)?);
        }
        all = all.merge(self.options());
        if let Some(image) = image {
            let image = std::path::absolute(image).with_context(|| format!("{}", image.display()))?;
            all = all.merge(Fragment { image: Some(image), ..Fragment::default() });
        }
        Ok(all)
    }

    fn options(&self) -> Fragment {
        let model = |dir: &PathBuf| ModelFragment { image: Some(dir.join("model.img")), pin: None };
        let shape = ShapeFragment { vcpus: self.vcpus, memory_mib: self.memory_mib };
        Fragment {
            image: self.image.clone(),
            boot: self.boot.clone(),
            listen: self.listen.clone(),
            simulated_platform: self.simulated_platform.clone(),
            work_dir: Some(self.run.clone()),
            shape: Some(shape),
            models: (!self.models.is_empty()).then(|| self.models.iter().map(model).collect()),
            ..Fragment::default()
        }
    }
}

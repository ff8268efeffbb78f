//! What `launch` puts under a keeper: settings from files and options, predictions, the publication that must cover them, and
//! the files of the run for the other subcommands.

use super::{Args, notify, words};
use crate::published::Source;
use crate::trust::{PREDICTION_FILE, REFERENCE_FILE, RUN_FILE, Run};
use anyhow::{Context, Result};
use builder::{Checkout, Tools};
use launcher::foretell::{Foretold, foretell};
use launcher::keep::{Plan, Settle};
use launcher::machine::Platform;
use launcher::{Event, Guest, LaunchError, Settings, What};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Name of the settings file in a run folder that says which image an upgrade chose.
pub const UPGRADED: &str = "upgraded.toml";

/// The plan of one `launch`.
pub struct LaunchPlan {
    json: bool,
    shared: Arc<Shared>,
}

/// What a thread that foretells a machine has in common with the one that keeps it.
struct Shared {
    args: Args,
    source: Option<Source>,
    /// Opened when the first machine needs it.
    tools: OnceLock<Programs>,
    /// By kernel image: an upgrade that fails goes back to the one before.
    foretold: Mutex<BTreeMap<PathBuf, Foretold>>,
}

/// Where QEMU and its like come from.
#[derive(Clone)]
enum Programs {
    /// A root that is pinned with the source.
    Root(Box<Tools>),
    /// The host's own.
    Host,
}

impl Programs {
    /// The pinned root is for emulation; a trust domain needs a QEMU that was built for it.
    fn open(settings: &Settings) -> Result<Self> {
        match (&settings.platform, Checkout::find()) {
            (Platform::Emulated, Ok(checkout)) => {
                let tools = Tools::open(&checkout, &mut |progress| eprintln!("  {progress}"))?;
                Ok(Programs::Root(Box::new(tools)))
            }
            (Platform::Emulated, Err(_)) | (Platform::Tdx(_), _) => Ok(Programs::Host),
        }
    }

    fn command(&self, name: &str) -> Command {
        match self {
            Programs::Root(tools) => tools.command(name),
            Programs::Host => Command::new(name),
        }
    }

    fn path(&self, path: &Path) -> PathBuf {
        match self {
            Programs::Root(tools) => tools.path(&path.to_string_lossy()),
            Programs::Host => path.to_owned(),
        }
    }
}

impl LaunchPlan {
    /// Of these options; nothing but the publication's settings is read yet.
    pub fn new(args: Args, json: bool) -> Result<Self> {
        let source = args.published.source()?;
        let shared = Shared { args, source, tools: OnceLock::new(), foretold: Mutex::default() };
        Ok(LaunchPlan { json, shared: Arc::new(shared) })
    }

    fn write_run(&self, guest: &Guest, settings: &Settings) -> Result<()> {
        let dir = &settings.work_dir;
        let platform = |name: &str| settings.simulated_platform.as_ref().map(|dir| dir.join(name));
        let run = Run {
            schema: 1,
            endpoint: guest.endpoint(),
            reference: dir.join(REFERENCE_FILE),
            policy: platform("policy.toml"),
            collateral: platform("collateral.json"),
        };
        write_json(&dir.join(RUN_FILE), &run)
    }
}

impl Shared {
    fn prepare(&self, image: Option<&Path>) -> Result<Settings> {
        let settings = self.args.fragment(image)?.settle()?;
        if self.tools.get().is_none() {
            // Whoever was quicker opened the same.
            let _ = self.tools.set(Programs::open(&settings)?);
        }
        let tools = self.tools();
        let foretold = foretell(&settings, &|path| tools.path(path))?;
        if let Some(source) = &self.source {
            let release = source.covers_machine(&settings, &foretold, &|path| tools.path(path))?;
            eprintln!("  published: {release}");
        }
        words::foretold(&foretold);
        self.foretold().insert(settings.image.uki.clone(), foretold);
        Ok(settings)
    }

    fn tools(&self) -> Programs {
        self.tools.get().cloned().unwrap_or(Programs::Host)
    }

    fn foretold(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Foretold>> {
        // An insert that panicked leaves a map that is whole.
        self.foretold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan for LaunchPlan {
    fn settle(&self, image: Option<&Path>) -> Settle {
        let (shared, image) = (Arc::clone(&self.shared), image.map(Path::to_owned));
        Box::new(move || shared.prepare(image.as_deref()).map_err(unprepared))
    }

    fn starts(&mut self, settings: &Settings) -> Result<(), LaunchError> {
        let foretold = self.shared.foretold();
        let Some(foretold) = foretold.get(&settings.image.uki) else { return Ok(()) };
        let dir = &settings.work_dir;
        let reference = foretold.reference(&settings.static_config);
        let written = write_json(&dir.join(REFERENCE_FILE), &reference)
            .and_then(|()| write_json(&dir.join(PREDICTION_FILE), &foretold.prediction));
        written.map_err(unprepared)
    }

    fn started(&mut self, guest: &Guest, settings: &Settings) -> Result<(), LaunchError> {
        self.write_run(guest, settings).map_err(unprepared)?;
        eprintln!("  listening on {}", guest.endpoint());
        Ok(())
    }

    fn event(&mut self, event: &Event) {
        if self.json
            && let Ok(line) = serde_json::to_string(event)
        {
            // Whoever read the output may be gone; the machine runs on.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        words::event(event);
        if let What::State(state) = event.what {
            notify::state(state);
        }
    }

    fn adopt(&mut self, image: &Path) -> Result<(), LaunchError> {
        let path = self.shared.args.run.join(UPGRADED);
        let image = std::path::absolute(image).map_err(|e| unprepared(e.into()))?;
        let text = format!(
            "# Written by `chrysalis machine upgrade`: lies over the settings files. Remove it to go back to what they name.\n\
             schema = 1\nimage = {:?}\n",
            image.display().to_string()
        );
        let scratch = path.with_extension("toml.new");
        let written = std::fs::write(&scratch, text).and_then(|()| std::fs::rename(&scratch, &path));
        written.with_context(|| format!("{}: can't write", path.display())).map_err(unprepared)
    }

    fn tools(&self) -> Box<dyn Fn(&str) -> Command + Send> {
        let tools = self.shared.tools();
        Box::new(move |name| tools.command(name))
    }

    fn say(&mut self, words: &str) {
        eprintln!("  {words}");
    }
}

fn unprepared(error: anyhow::Error) -> LaunchError {
    LaunchError::Unprepared { reason: format!("{error:#}") }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("{}: can't make the run folder", dir.display()))?;
    }
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| format!("{}: can't write", path.display()))
}

//! The life of a kept machine, with real boots: launched as foretold, an upgrade that does not boot is rolled back to a machine
//! that proves itself again, health comes out of the guest, and SIGTERM's drain ends it from inside.

use anyhow::{Context, Result};
use builder::artifacts::names;
use e2e::{DEADLINE, Stage, alone, connect, now, tamper};
use launcher::foretell::Foretold;
use launcher::keep::{self, Ask, Plan, Reply, Settle, Signal, Status, Step};
use launcher::settings::Fragment;
use launcher::{Event, Guest, HostDirs, LaunchError, Settings, State};
use protocol::control::Service;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The stage's machine, or the same with the image of another folder.
#[derive(Clone)]
struct Story {
    stage: Stage,
    fragment: Fragment,
}

impl Story {
    fn foretold(&self, image: Option<&Path>) -> Result<(Settings, Foretold)> {
        let over = Fragment { image: image.map(Path::to_owned), ..Fragment::default() };
        self.stage.foretell(&self.fragment.clone().merge(over))
    }
}

impl Plan for Story {
    fn settle(&self, image: Option<&Path>) -> Settle {
        let (story, image) = (self.clone(), image.map(Path::to_owned));
        Box::new(move || {
            let settled = story.foretold(image.as_deref()).map(|(settings, _)| settings);
            settled.map_err(|e| LaunchError::Unprepared { reason: format!("{e:#}") })
        })
    }

    fn starts(&mut self, _: &Settings) -> Result<(), LaunchError> {
        Ok(())
    }

    fn started(&mut self, _: &Guest, _: &Settings) -> Result<(), LaunchError> {
        Ok(())
    }

    fn event(&mut self, event: &Event) {
        eprintln!("    {event:?}");
    }

    fn adopt(&mut self, _: &Path) -> Result<(), LaunchError> {
        Ok(())
    }

    fn tools(&self) -> Box<dyn Fn(&str) -> Command + Send> {
        Box::new(|name| Command::new(name))
    }

    fn say(&mut self, words: &str) {
        eprintln!("    {words}");
    }
}

/// Asks until `done`.
fn until(run: &Path, what: &str, done: impl Fn(&Status) -> bool) -> Result<Status> {
    let limit = Instant::now() + DEADLINE;
    loop {
        if let Ok((status, true)) = keep::read_status(run)
            && let Ok(Reply::Status(status)) = keep::ask(&status.control, &Ask::Status)
            && done(&status)
        {
            return Ok(*status);
        }
        anyhow::ensure!(Instant::now() < limit, "never {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A copy of the image with one wrong bit in its verified root.
fn broken(stage: &Stage, scratch: &Path) -> Result<PathBuf> {
    let folder = scratch.join("broken");
    std::fs::create_dir(&folder)?;
    for name in [names::UKI, names::DISK] {
        std::fs::copy(stage.image().join(name), folder.join(name)).context("a copy of the image")?;
    }
    let disk = folder.join(names::DISK);
    tamper::flip_bit(&disk, tamper::super_block(&stage.image().join(names::ROOT), &disk)?)?;
    Ok(folder)
}

fn verified(story: &Story, status: &Status) -> Result<()> {
    let (settings, foretold) = story.foretold(None)?;
    let trust = story.stage.trust("demo", foretold.reference(&settings.static_config))?;
    let endpoint = status.endpoint.context("a machine that serves has an endpoint")?;
    let (_runtime, client) = connect(&endpoint, &trust, now())?;
    anyhow::ensure!(client.appraised().verdict().accepted);
    Ok(())
}

#[test]
fn a_bad_upgrade_is_rolled_back_to_a_machine_that_proves_itself_and_a_drain_ends_it_from_inside() {
    let _alone = alone();
    let stage = Stage::open().unwrap();
    let scratch = stage.scratch("kept").unwrap();
    let fragment = stage.fragment(&scratch);
    let bad = broken(&stage, &scratch).unwrap();
    let run = scratch.join("run");
    let mut story = Story { stage, fragment };
    let asked = Story { stage: Stage::open().unwrap(), fragment: story.fragment.clone() };
    let (sender, inbox) = keep::signals();
    let ours = sender.clone();
    let keeper = std::thread::spawn(move || keep::keep(&mut story, &HostDirs::default(), (ours, inbox)));
    let serving = |status: &Status| status.step == Step::Machine(State::Serving);
    let status = until(&run, "serving", serving).unwrap();
    verified(&asked, &status).unwrap();

    let reply = keep::ask(&status.control, &Ask::Upgrade { image: bad }).unwrap();
    let Reply::RolledBack { reason } = reply else { panic!("{reply:?}") };
    assert!(reason.contains("chrysalis initrd: stopped") || reason.contains("Kernel panic"), "{reason}");
    let told = |status: &Status| serving(status) && status.health.is_some();
    let status = until(&run, "healthy", told).unwrap();
    assert_eq!(status.starts, 3);
    verified(&asked, &status).unwrap();
    let health = status.health.unwrap();
    assert_eq!(health.daemon, Service::Running);
    assert!(health.attestation.sealed && health.attestation.simulated && health.memory_kib > 0, "{health:?}");

    sender.send(Signal::Told).unwrap();
    keeper.join().unwrap().unwrap();
    let (status, lives) = keep::read_status(&run).unwrap();
    assert_eq!((status.step, lives), (Step::Stopped, false));
}

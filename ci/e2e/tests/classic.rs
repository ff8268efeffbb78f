//! The classic form: kernel, initrd and command line apart, as `-kernel`, `-initrd`, `-append`. The launcher has no such
//! form; the three are taken out of the UKI, and two options are added to QEMU's.

use anyhow::{Context, Result, anyhow};
use e2e::{DEADLINE, Stage, alone, evidence_of, now};
use launcher::Settings;
use launcher::foretell::{self, Foretold};
use measure::uki::{Uki, UkiSection};
use measure::{Boot, Event, Inputs, Linux, Payload, Platform};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What a UKI holds, each part a file or a text of its own.
struct Parts {
    kernel: PathBuf,
    initrd: PathBuf,
    cmdline: String,
}

impl Parts {
    fn of(uki: &Path, scratch: &Path) -> Result<Self> {
        let bytes = std::fs::read(uki)?;
        let uki = Uki::parse(&bytes)?;
        let section = |section: UkiSection| {
            uki.section(section).map(|m| m.bytes).with_context(|| format!("no {}", section.name()))
        };
        let (kernel, initrd) = (scratch.join("kernel"), scratch.join("initrd"));
        std::fs::write(&kernel, section(UkiSection::Linux)?)?;
        std::fs::write(&initrd, section(UkiSection::Initrd)?)?;
        let cmdline = std::str::from_utf8(section(UkiSection::Cmdline)?)?.trim_matches(['\0', '\n', ' ']);
        Ok(Parts { kernel, initrd, cmdline: cmdline.to_owned() })
    }

    fn foretell(&self, settings: &Settings) -> Result<Foretold> {
        let began = Instant::now();
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("{}", path.display()));
        let (kernel, initrd) = (read(&self.kernel)?, read(&self.initrd)?);
        let linux = Linux { kernel: &kernel, initrd: Some(&initrd), cmdline: &self.cmdline };
        let prediction = foretell::predict(&Inputs {
            platform: Platform::Emulated,
            boot: Boot::Direct,
            shape: &settings.shape(),
            firmware_code: &read(&settings.firmware.code)?,
            firmware_vars: &read(settings.firmware.vars.as_deref().context("no variable store")?)?,
            payload: Some(Payload::Linux(linux)),
            disk_head: None,
        })?;
        let registers = prediction.registers().map_err(|open| anyhow!("{open:?} are not foretold"))?;
        Ok(Foretold { prediction, registers, name: "classic boot".into(), took: began.elapsed() })
    }
}

#[test]
fn a_kernel_with_initrd_and_command_line_apart_measures_as_foretold() {
    let _alone = alone();
    let stage = Stage::open().unwrap();
    let scratch = stage.scratch("classic").unwrap();
    let mut settings = stage.fragment(&scratch).settle().unwrap();
    let parts = Parts::of(&settings.image.uki, &scratch).unwrap();
    let foretold = parts.foretell(&settings).unwrap();
    let trust = stage.trust("demo", foretold.reference(&settings.static_config)).unwrap();
    settings.image.uki = parts.kernel.clone();
    let (initrd, cmdline) = (parts.initrd.clone(), parts.cmdline.clone());
    let tools = move |name: &str| {
        let mut command = Command::new(name);
        if name == "qemu-system-x86_64" {
            command.arg("-initrd").arg(&initrd).arg("-append").arg(&cmdline);
        }
        command
    };
    let guest = launcher::launch(&settings, tools, |event| eprintln!("    {event:?}")).unwrap();
    guest.wait_serving(DEADLINE).unwrap();
    let evidence = evidence_of(&guest.endpoint(), &trust, now()).unwrap();
    let log = measure::tcg::EventLog::parse(&evidence.event_log.bytes).unwrap();
    let differences = measure::compare(&foretold.prediction, &log);
    assert!(differences.is_empty(), "{differences:#?}");
    let events = &foretold.prediction.events;
    for event in [Event::DirectKernel, Event::LoadOptions, Event::Initrd] {
        assert!(events.iter().any(|e| e.event == event), "{event}: {events:#?}");
    }
}

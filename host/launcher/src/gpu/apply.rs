//! Carries plans out: all devices or none, and back where a step fails.

use super::chip::{Kind, Mode};
use super::error::GpuError;
use super::journal::{self, Held, Journal, State};
use super::plan::{self, Step, Target};
use super::tool::Admin;
use super::tree::{Device, Sysfs, devices, file, observe};
use std::path::Path;
use std::time::Duration;

/// How often a device is looked at until its firmware has started again; with [`Patience::default`] for 15 s.
const LOOKS: u32 = 150;

/// How long to wait between two looks at a device that starts.
#[derive(Debug, Clone, Copy)]
pub struct Patience(pub Duration);

impl Default for Patience {
    fn default() -> Self {
        Patience(Duration::from_millis(100))
    }
}

/// Devices of this host, and what it takes to change them.
pub struct Board<'a> {
    /// The files.
    pub sysfs: &'a dyn Sysfs,
    /// Sets modes; without one, plans that need it are refused before anything is changed.
    pub admin: Option<&'a dyn Admin>,
    /// The state folder.
    pub state: &'a Path,
    /// This boot of the host, `/proc/sys/kernel/random/boot_id`.
    pub boot: &'a str,
    /// Between two looks.
    pub patience: Patience,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// In order.
    pub steps: Vec<Step>,
    /// What is to be said.
    pub warnings: Vec<String>,
}

impl Board<'_> {
    /// What [`Board::apply`] would do now; changes nothing and takes no lock.
    pub fn plan(&self, mode: Mode) -> Result<Done, GpuError> {
        let now = self.now(journal::read(&journal::path(self.state))?.as_ref())?;
        let steps = plan::steps(&now, &plan::for_guest(&now, mode)?);
        Ok(Done { warnings: plan::warnings(&now, &steps), steps })
    }

    /// All devices into `mode` and to vfio-pci. What was before is written down first; after a crash the same call does the rest.
    pub fn apply(&self, mode: Mode) -> Result<Done, GpuError> {
        let state = State::open(self.state, self.boot)?;
        let earlier = state.journal()?;
        let now = self.now(earlier.as_ref())?;
        let targets = plan::for_guest(&now, mode)?;
        let _held = Held::take(self.state, now.iter().map(|d| d.address.as_str()))?;
        let steps = plan::steps(&now, &targets);
        self.preflight(&steps)?;
        let mut journal = match earlier {
            // An earlier call got somewhere, or was cut short: before is what was before that.
            Some(journal) if state.is_of_this_boot(&journal) => journal,
            earlier => {
                let mut journal = begin(&state, &now, earlier);
                self.overlay_taken(&mut journal)?;
                journal
            }
        };
        state.write(&journal)?;
        self.forget_taken()?;
        let warnings = plan::warnings(&now, &steps);
        match self.carry_out(&steps, &state, &mut journal) {
            Ok(()) => Ok(Done { steps, warnings }),
            Err(failure) => Err(self.undo(failure, &mut journal, &state)),
        }
    }

    /// What [`Board::restore`] would do now.
    pub fn plan_restore(&self) -> Result<Done, GpuError> {
        let Some(journal) = self.with_taken(journal::read(&journal::path(self.state))?)? else {
            return Ok(Done { steps: Vec::new(), warnings: Vec::new() });
        };
        let now = self.now(Some(&journal))?;
        let steps = plan::steps(&now, &self.targets_back(&journal, &now));
        Ok(Done { warnings: plan::warnings(&now, &steps), steps })
    }

    /// All devices as they were before the first [`Board::apply`], those that a launcher took and did not give back included.
    pub fn restore(&self) -> Result<Done, GpuError> {
        let state = State::open(self.state, self.boot)?;
        let Some(mut journal) = self.with_taken(state.journal()?)? else {
            return Ok(Done { steps: Vec::new(), warnings: Vec::new() });
        };
        let now = self.now(Some(&journal))?;
        let _held = Held::take(self.state, now.iter().map(|d| d.address.as_str()))?;
        let steps = plan::steps(&now, &self.targets_back(&journal, &now));
        self.preflight(&steps)?;
        self.carry_out(&steps, &state, &mut journal)?;
        if let Some(lost) = journal.before.iter().find(|t| !now.iter().any(|d| d.address == t.address)) {
            return Err(GpuError::Gone { address: lost.address.clone() });
        }
        if state.is_of_this_boot(&journal) {
            self.forget_taken()?;
        }
        state.forget()?;
        Ok(Done { warnings: plan::warnings(&now, &steps), steps })
    }

    /// The devices. Of one in which a mode was stored the registers do not tell what its next reset brings.
    pub(super) fn now(&self, journal: Option<&Journal>) -> Result<Vec<Device>, GpuError> {
        let mut now = devices(self.sysfs)?;
        for device in &mut now {
            if journal.is_some_and(|journal| journal.stored.contains(&device.address)) {
                device.mode = Some(Err("a change of its mode was cut short".into()));
            }
        }
        Ok(now)
    }

    /// What was before; of another boot of the host only the modes, since bindings are gone with it.
    fn targets_back(&self, journal: &Journal, now: &[Device]) -> Vec<Target> {
        let mut before = journal.before.clone();
        if !journal.is_of(self.boot) {
            for target in &mut before {
                let device = now.iter().find(|d| d.address == target.address);
                target.driver = device.and_then(|d| d.driver.clone());
                target.driver_override = device.and_then(|d| d.driver_override.clone());
                target.power = None;
            }
        }
        before
    }

    /// What would stop a plan in its middle and can be seen before.
    pub(super) fn preflight(&self, steps: &[Step]) -> Result<(), GpuError> {
        let refused = |reason: String| Err(GpuError::Refused { reason });
        for step in steps {
            let address = step.address();
            match step {
                Step::SetMode { .. } if self.admin.is_none() => {
                    return refused(format!(
                        "{address} has to change its mode, which NVIDIA's admin tool does: name a copy of gpu-admin-tools and its pin"
                    ));
                }
                Step::Reset { .. } => {
                    let ways = self.sysfs.read(&file(address, "reset_method"))?.unwrap_or_default();
                    // What a switch has instead is a reset of its own bus, on which it is alone.
                    let other = !ways.is_empty() && self.device(address)?.kind == Some(Kind::Switch);
                    if ways.split_whitespace().next() != Some("flr") && !other {
                        return refused(format!(
                            "{address} can't be reset by function (reset_method is `{ways}`); write `flr` to it if it can, else this needs a host reboot"
                        ));
                    }
                }
                Step::Probe { driver, .. }
                    if self.sysfs.names(&format!("bus/pci/drivers/{driver}")).is_empty() =>
                {
                    return refused(format!("driver {driver} is not loaded; run `modprobe {driver}`"));
                }
                _ => (),
            }
        }
        Ok(())
    }

    /// Modes are compared when all devices were reset: protected PCIe is a matter of the whole board.
    fn carry_out(&self, steps: &[Step], state: &State, journal: &mut Journal) -> Result<(), GpuError> {
        let mut reset: Vec<(&str, Mode)> = Vec::new();
        for step in steps {
            match step {
                Step::Reset { address, mode: Some(mode) } => reset.push((address, *mode)),
                _ => self.all_started(&mut reset, state, journal)?,
            }
            if let Step::SetMode { address, .. } = step
                && !journal.stored.contains(address)
            {
                journal.stored.push(address.clone());
                state.write(journal)?;
            }
            self.step(step)?;
        }
        self.all_started(&mut reset, state, journal)
    }

    /// Each that was reset runs in its mode, so that what is stored is what is active.
    fn all_started(
        &self,
        reset: &mut Vec<(&str, Mode)>,
        state: &State,
        journal: &mut Journal,
    ) -> Result<(), GpuError> {
        for (address, mode) in reset.drain(..) {
            self.started(address, mode)?;
            if journal.stored.iter().any(|stored| stored == address) {
                journal.stored.retain(|stored| stored != address);
                state.write(journal)?;
            }
        }
        Ok(())
    }

    /// After a failure: every device back, as far as it goes.
    fn undo(&self, failure: GpuError, journal: &mut Journal, state: &State) -> GpuError {
        let mut left = Vec::new();
        for target in journal.before.clone() {
            // Each for itself: one that is gone does not keep the others.
            let back = self.now(Some(journal)).and_then(|now| {
                if !now.iter().any(|d| d.address == target.address) {
                    return Err(GpuError::Gone { address: target.address.clone() });
                }
                let steps = plan::steps(&now, std::slice::from_ref(&target));
                self.carry_out(&steps, state, journal)
            });
            left.extend(back.err().map(|e| e.to_string()));
        }
        let after = if left.is_empty() {
            match state.forget() {
                Ok(()) => "all devices are as they were before".into(),
                Err(e) => e.to_string(),
            }
        } else {
            let left = left.join("; ");
            format!("not all devices are as they were before: {left}. `chrysalis gpu restore` tries again")
        };
        GpuError::Undone { failure: Box::new(failure), after }
    }

    /// One step, and a look at whether it led where it does.
    pub(super) fn step(&self, step: &Step) -> Result<(), GpuError> {
        let address = step.address().to_owned();
        let write = |name: &str, value: &str| self.sysfs.write(&file(&address, name), value);
        let done = match step {
            Step::Power { control, .. } => write("power/control", control),
            Step::Claim { driver, .. } => write("driver_override", &format!("{driver}\n")),
            Step::Release { .. } => write("driver/unbind", &address),
            Step::Probe { .. } => self.sysfs.write("bus/pci/drivers_probe", &address),
            Step::Reset { .. } => write("reset", "1"),
            Step::SetMode { mode, before, .. } => self.set_mode(&address, *mode, *before),
        };
        // A device that went says so first: what failed then is only a consequence.
        let device = observe(self.sysfs, address.clone(), None)?;
        done?;
        let expected = match step {
            Step::Probe { driver, .. } => Some(driver.clone()),
            Step::Release { .. } => None,
            _ => return Ok(()),
        };
        if device.driver == expected {
            return Ok(());
        }
        let say = |driver: &Option<String>| driver.clone().unwrap_or_else(|| "no driver".into());
        let reason = format!("{} holds it, expected {}; see `dmesg`", say(&device.driver), say(&expected));
        Err(GpuError::Step { address, reason })
    }

    pub(super) fn device(&self, address: &str) -> Result<Device, GpuError> {
        let found = devices(self.sysfs)?.into_iter().find(|d| d.address == address);
        found.ok_or_else(|| GpuError::Gone { address: address.into() })
    }

    fn set_mode(&self, address: &str, mode: Mode, before: Option<Mode>) -> Result<(), GpuError> {
        match (self.admin, self.device(address)?.kind) {
            (Some(admin), Some(kind)) => admin.set_mode(address, kind, mode, before),
            _ => Err(GpuError::Refused { reason: format!("{address}: nothing here sets its mode") }),
        }
    }

    /// Waits until the firmware has started, and compares the mode.
    fn started(&self, address: &str, wanted: Mode) -> Result<(), GpuError> {
        let mut found = String::from("not readable");
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(self.patience.0);
            }
            match self.device(address)?.mode {
                Some(Ok(mode)) if mode == wanted => return Ok(()),
                // The firmware has started, and with another mode.
                Some(Ok(mode)) => {
                    return Err(GpuError::Reboot {
                        address: address.into(),
                        wanted,
                        found: mode.to_string(),
                    });
                }
                Some(Err(why)) => found = why,
                None => return Ok(()),
            }
        }
        Err(GpuError::Reboot { address: address.into(), wanted, found })
    }
}

/// A new journal; modes that an earlier boot of the host remembers are those to come back to.
fn begin(state: &State, now: &[Device], earlier: Option<Journal>) -> Journal {
    let mut journal = state.begin(plan::as_now(now));
    if let Some(earlier) = earlier {
        for target in &mut journal.before {
            let known = earlier.before.iter().find(|t| t.address == target.address);
            target.mode = known.and_then(|t| t.mode).or(target.mode);
        }
        journal.stored = earlier.stored;
    }
    journal
}

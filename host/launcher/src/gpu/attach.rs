//! Devices for one machine: taken when it starts, given back when it is over.
//!
//! ```text
//!  somebody's --journal, claim, release--> loose --reset--> in its mode --probe--> vfio-pci's --> QEMU
//!      ^                                                                                |
//!      '------ the same towards what was before: give back, undo, `gpu restore` --------'
//! ```
//! A journal a device says what was before, on disk before the first change, under that device's lock: so several launchers take
//! theirs at the same time, and one that was killed in the middle is continued by the next, or undone by `gpu restore`.
//!
//! Deliberately absent: changing modes. One that is not the machine's is refused; a mode is a matter of all devices of the host.

use super::apply::{Board, Done};
use super::chip::{Kind, Mode};
use super::error::GpuError;
use super::journal::{self, Held, Journal};
use super::plan::{self, Step, Target};
use super::tree::{Device, devices, file, slot};

/// How often a device is looked at until its firmware has started again; with the board's patience for 15 s.
const LOOKS: u32 = 150;

/// Devices of one machine, each with the other functions of its card; nobody else gets them until this is dropped.
#[derive(Debug)]
pub struct Attached {
    addresses: Vec<String>,
    files: Vec<String>,
    _held: Held,
}

impl Attached {
    /// Names below `/dev/vfio/devices` of what QEMU opens.
    pub fn files(&self) -> &[String] {
        &self.files
    }
}

/// The identifier of this boot of the host, as [`Board::boot`] takes it.
pub fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
}

impl Board<'_> {
    /// Takes the locks of these devices and of the other functions of their cards; changes nothing.
    pub fn hold(&self, named: &[&str]) -> Result<Held, GpuError> {
        Held::take(self.state, self.cards(named)?.iter().map(|device| device.address.as_str()))
    }

    /// What [`Board::attach`] would do now; changes nothing and takes no lock.
    pub fn plan_attach(&self, named: &[&str], mode: Mode) -> Result<Done, GpuError> {
        let cards = self.cards(named)?;
        let targets = plan::for_guest(&cards, mode)?;
        self.in_mode(&cards, &targets, mode)?;
        if mode == Mode::ProtectedPcie {
            self.whole_board(&cards)?;
        }
        let steps = plan::to_guest(&cards, &targets);
        self.preflight(&steps)?;
        Ok(Done { steps, warnings: Vec::new() })
    }

    /// Devices for one guest, which starts when this returns: each is vfio-pci's, in `mode`, and reset by function. If a step fails,
    /// all are as they were before.
    pub fn attach(&self, held: Held, named: &[&str], mode: Mode) -> Result<Attached, GpuError> {
        let cards = self.cards(named)?;
        let Done { steps, .. } = self.plan_attach(named, mode)?;
        let addresses: Vec<String> = cards.iter().map(|device| device.address.clone()).collect();
        let written = cards.iter().try_for_each(|device| self.remember(device, &steps));
        match written.and_then(|()| self.take(&addresses, &steps)) {
            Ok(files) => Ok(Attached { addresses, files, _held: held }),
            Err(failure) => Err(self.untake(failure, &addresses)),
        }
    }

    /// Gives devices to whom they belonged before they were taken. Each for itself: one that is gone does not keep the others.
    pub fn give_back(&self, attached: Attached) -> Result<Done, GpuError> {
        let (steps, failure) = self.all_back(&attached.addresses);
        match failure {
            None => Ok(Done { steps, warnings: Vec::new() }),
            Some(failure) => Err(GpuError::Undone {
                failure: Box::new(failure),
                after: "not all devices were given back; `chrysalis gpu restore` tries again".into(),
            }),
        }
    }

    /// GPUs and switches of these names, with the other functions of their cards.
    fn cards(&self, named: &[&str]) -> Result<Vec<Device>, GpuError> {
        let mut all = devices(self.sysfs)?;
        for name in named {
            if all.iter().any(|device| device.address == *name && device.kind.is_some()) {
                continue;
            }
            let address = (*name).to_owned();
            return Err(match self.sysfs.read(&file(name, "vendor"))? {
                None => GpuError::Gone { address },
                Some(_) => GpuError::Refused {
                    reason: format!(
                        "{address} is no NVIDIA GPU or NVSwitch; `chrysalis gpu status` lists those of this host"
                    ),
                },
            });
        }
        all.retain(|device| named.iter().any(|name| slot(name) == slot(&device.address)));
        Ok(all)
    }

    /// No device is known to be in another mode than the machine's. What can't be read yet is read after the reset.
    fn in_mode(&self, cards: &[Device], targets: &[Target], mode: Mode) -> Result<(), GpuError> {
        let stored = journal::read(&journal::path(self.state))?.map(|journal| journal.stored);
        for (device, target) in cards.iter().zip(targets) {
            let found = match (&device.mode, target.mode) {
                _ if stored.iter().flatten().any(|address| *address == device.address) => {
                    "a change of its mode was cut short".to_owned()
                }
                (Some(Ok(found)), Some(wanted)) if *found != wanted => format!("it is in mode {found}"),
                _ => continue,
            };
            return Err(other_mode(&device.address, &found, mode));
        }
        Ok(())
    }

    /// Protected PCIe is one guest's with all of the board.
    fn whole_board(&self, cards: &[Device]) -> Result<(), GpuError> {
        let left = |device: &Device| {
            matches!(device.kind, Some(Kind::Gpu(_) | Kind::Switch))
                && !cards.iter().any(|card| card.address == device.address)
        };
        match devices(self.sysfs)?.into_iter().find(left) {
            None => Ok(()),
            Some(device) => Err(GpuError::Refused {
                reason: format!(
                    "{} is not among the machine's devices, and in protected PCIe all GPUs and switches are one guest's; name it too",
                    device.address
                ),
            }),
        }
    }

    /// Writes down how a device is, if it will be changed and an earlier launcher of this boot has not done so.
    fn remember(&self, device: &Device, steps: &[Step]) -> Result<(), GpuError> {
        let changes = |step: &Step| step.address() == device.address && !matches!(step, Step::Reset { .. });
        let path = journal::taken(self.state, &device.address);
        let known = journal::read(&path)?.is_some_and(|journal| journal.is_of(self.boot));
        if known || !steps.iter().any(changes) {
            return Ok(());
        }
        let mut before = plan::as_now(std::slice::from_ref(device));
        before.iter_mut().for_each(|target| target.mode = None);
        journal::write(&path, &Journal::new(self.boot, before))
    }

    /// The steps, then a look at where they led; the files that QEMU opens.
    fn take(&self, addresses: &[String], steps: &[Step]) -> Result<Vec<String>, GpuError> {
        steps.iter().try_for_each(|step| self.step(step))?;
        for step in steps {
            if let Step::Reset { address, mode: Some(mode) } = step {
                self.runs_in(address, *mode)?;
            }
        }
        addresses.iter().map(|address| self.device_file(address)).collect()
    }

    /// Waits until the firmware has started, and compares the mode.
    fn runs_in(&self, address: &str, wanted: Mode) -> Result<(), GpuError> {
        let mut found = String::new();
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(self.patience.0);
            }
            match self.device(address)?.mode {
                Some(Ok(mode)) if mode != wanted => {
                    return Err(other_mode(
                        address,
                        &format!("after its reset it is in mode {mode}"),
                        wanted,
                    ));
                }
                Some(Err(why)) => found = why,
                Some(Ok(_)) | None => return Ok(()),
            }
        }
        Err(other_mode(address, &found, wanted))
    }

    /// The device's file for iommufd: `vfio-dev` in Linux' `Documentation/ABI/testing/sysfs-devices-vfio-dev`.
    fn device_file(&self, address: &str) -> Result<String, GpuError> {
        let files = self.sysfs.names(&file(address, "vfio-dev"));
        files.into_iter().next().ok_or_else(|| GpuError::Step {
            address: address.into(),
            reason: "vfio-pci has no file of its own for it, which iommufd needs; take a kernel with VFIO_DEVICE_CDEV (6.6 or later)"
                .into(),
        })
    }

    fn untake(&self, failure: GpuError, addresses: &[String]) -> GpuError {
        let after = match self.all_back(addresses).1 {
            None => "all devices are as they were before".into(),
            Some(left) => {
                format!(
                    "not all devices are as they were before: {left}. `chrysalis gpu restore` tries again"
                )
            }
        };
        GpuError::Undone { failure: Box::new(failure), after }
    }

    /// The steps that were taken, and the first failure.
    fn all_back(&self, addresses: &[String]) -> (Vec<Step>, Option<GpuError>) {
        let (mut steps, mut failure) = (Vec::new(), None);
        for address in addresses {
            match self.back(address) {
                Ok(done) => steps.extend(done),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        (steps, failure)
    }

    /// One device as its journal has it; nothing if this boot has none.
    fn back(&self, address: &str) -> Result<Vec<Step>, GpuError> {
        let path = journal::taken(self.state, address);
        let Some(journal) = journal::read(&path)?.filter(|journal| journal.is_of(self.boot)) else {
            return Ok(Vec::new());
        };
        let steps = plan::steps(&[self.device(address)?], &journal.before);
        self.preflight(&steps)?;
        steps.iter().try_for_each(|step| self.step(step))?;
        journal::forget(&path)?;
        Ok(steps)
    }

    /// How devices were that launchers of this boot took and did not give back.
    fn taken(&self) -> Result<Vec<Target>, GpuError> {
        let mut before = Vec::new();
        for path in journal::all_taken(self.state) {
            let journal = journal::read(&path)?.filter(|journal| journal.is_of(self.boot));
            before.extend(journal.into_iter().flat_map(|journal| journal.before));
        }
        Ok(before)
    }

    /// A journal that begins now: a device that a launcher took was somebody else's before.
    pub(super) fn overlay_taken(&self, journal: &mut Journal) -> Result<(), GpuError> {
        for taken in self.taken()? {
            if let Some(target) = journal.before.iter_mut().find(|target| target.address == taken.address) {
                *target = Target { mode: target.mode, ..taken };
            }
        }
        Ok(())
    }

    /// A journal with what launchers left beside it; one of theirs alone, where there is none.
    pub(super) fn with_taken(&self, journal: Option<Journal>) -> Result<Option<Journal>, GpuError> {
        let mut taken = self.taken()?;
        if taken.is_empty() {
            return Ok(journal);
        }
        match journal {
            None => Ok(Some(Journal::new(self.boot, taken))),
            // That one's modes first: what it says of drivers is gone with its boot.
            Some(journal) if !journal.is_of(self.boot) => Ok(Some(journal)),
            Some(mut journal) => {
                // The older one says what was first.
                taken.retain(|taken| !journal.before.iter().any(|target| target.address == taken.address));
                journal.before.extend(taken);
                Ok(Some(journal))
            }
        }
    }

    /// What they left is put right, or written down elsewhere.
    pub(super) fn forget_taken(&self) -> Result<(), GpuError> {
        journal::all_taken(self.state).iter().try_for_each(|path| journal::forget(path))
    }
}

fn other_mode(address: &str, found: &str, wanted: Mode) -> GpuError {
    let reason = format!("{found}; `chrysalis gpu apply --mode {wanted}` makes it ready for a guest");
    GpuError::Step { address: address.into(), reason }
}

#[cfg(test)]
mod tests;

//! From how devices are to how they shall be: a list of steps, made from what is seen and nothing else.
//!
//! ```text
//!  held by a host driver --claim, release--> loose --set mode--> mode stored --reset--> mode active --probe--> held by vfio-pci
//!          ^                                                                                                        |
//!          \_______________________________ the same steps towards what was before (`restore`) ____________________/
//! ```
//! A plan that was cut short is not continued: a new one is made from what is seen then, which is the rest.

use super::chip::{Kind, Mode};
use super::error::GpuError;
use super::tree::Device;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The driver that hands devices to guests.
pub const VFIO: &str = "vfio-pci";

/// How a device shall be, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `0000:17:00.0`.
    pub address: String,
    /// Its mode; `None` leaves it.
    pub mode: Option<Mode>,
    /// Who holds it.
    pub driver: Option<String>,
    /// Who alone may.
    pub driver_override: Option<String>,
    /// `on` or `auto`; `None` leaves it.
    pub power: Option<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Keep it from sleeping, or let it again.
    Power {
        /// Which device.
        address: String,
        /// `on` or `auto`.
        control: String,
    },
    /// Say which driver alone may hold it; empty: any.
    Claim {
        /// Which device.
        address: String,
        /// The driver.
        driver: String,
    },
    /// Take it from its driver.
    Release {
        /// Which device.
        address: String,
        /// The driver.
        driver: String,
    },
    /// Store a mode in it, by NVIDIA's tool; it becomes active with a reset.
    SetMode {
        /// Which device.
        address: String,
        /// The mode.
        mode: Mode,
        /// The mode before, where it can be read.
        before: Option<Mode>,
    },
    /// Function-level reset; afterwards the mode is this one.
    Reset {
        /// Which device.
        address: String,
        /// What its registers must say.
        mode: Option<Mode>,
    },
    /// Let a driver take it.
    Probe {
        /// Which device.
        address: String,
        /// The driver that must have it then.
        driver: String,
    },
}

impl Step {
    /// The device.
    pub fn address(&self) -> &str {
        match self {
            Step::Power { address, .. }
            | Step::Claim { address, .. }
            | Step::Release { address, .. }
            | Step::SetMode { address, .. }
            | Step::Reset { address, .. }
            | Step::Probe { address, .. } => address,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address();
        match self {
            Step::Power { control, .. } => write!(f, "{address}  power control {control}"),
            Step::Claim { driver, .. } if driver.is_empty() => write!(f, "{address}  any driver may take it"),
            Step::Claim { driver, .. } => write!(f, "{address}  only {driver} may take it"),
            Step::Release { driver, .. } => write!(f, "{address}  release it from {driver}"),
            Step::SetMode { mode, before, .. } => {
                let before = before.map_or("unknown".into(), |mode| mode.to_string());
                write!(f, "{address}  set mode {mode} (now {before}) with NVIDIA's tool")
            }
            Step::Reset { .. } => write!(f, "{address}  function-level reset"),
            Step::Probe { driver, .. } => write!(f, "{address}  bind to {driver}"),
        }
    }
}

/// Devices for a guest in `mode`: all of them, or a reason why not.
pub fn for_guest(devices: &[Device], mode: Mode) -> Result<Vec<Target>, GpuError> {
    let refused = |reason: String| Err(GpuError::Refused { reason });
    if mode == Mode::Devtools {
        return refused(
            "devtools lets a host look into a guest's GPU; no guest is run so. Use `on` or `protected-pcie`"
                .into(),
        );
    }
    if !devices.iter().any(|d| matches!(d.kind, Some(Kind::Gpu(_) | Kind::OldGpu))) {
        return refused("there is no NVIDIA GPU on the PCI bus".into());
    }
    let mut targets = Vec::new();
    for device in devices {
        if let Some(stranger) = device.strangers.first() {
            let address = &device.address;
            return refused(format!(
                "{address} shares its IOMMU group with {stranger}, which would go into the guest with it; use another slot, or turn ACS on"
            ));
        }
        let wanted = match device.kind {
            // Only protected PCIe is a switch's business.
            Some(Kind::Switch) if mode == Mode::On => Some(Mode::Off),
            Some(_) => Some(mode),
            None => None,
        };
        // A switch of an earlier generation has no mode to be off.
        let blind = device.kind == Some(Kind::Switch)
            && wanted == Some(Mode::Off)
            && matches!(device.mode, Some(Err(_)));
        if let (Some(kind), Some(mode)) = (device.kind, wanted)
            && !kind.can(mode)
        {
            return refused(format!(
                "{} can't be in mode {mode}; take it out, or choose another mode for all",
                device.address
            ));
        }
        targets.push(Target {
            address: device.address.clone(),
            mode: wanted.filter(|_| !blind),
            driver: Some(VFIO.into()),
            driver_override: Some(VFIO.into()),
            power: None,
        });
    }
    Ok(targets)
}

/// Steps that make devices ready for a guest that starts next: awake, vfio-pci's, and freshly reset, whoever had them. Modes are
/// not changed; each must be in that of its target afterwards.
pub fn to_guest(devices: &[Device], targets: &[Target]) -> Vec<Step> {
    let pairs: Vec<(&Device, &Target)> =
        devices.iter().filter_map(|d| Some((d, targets.iter().find(|t| t.address == d.address)?))).collect();
    let phases: [fn(&Device, &Target) -> Vec<Step>; 4] = [wake, take, reset_always, bind];
    phases.iter().flat_map(|phase| pairs.iter().flat_map(|(d, t)| phase(d, t))).collect()
}

fn wake(device: &Device, _: &Target) -> Vec<Step> {
    let sleeps = device.power.as_deref() == Some("auto");
    sleeps
        .then(|| Step::Power { address: device.address.clone(), control: "on".into() })
        .into_iter()
        .collect()
}

fn take(device: &Device, target: &Target) -> Vec<Step> {
    let mut out = Vec::new();
    // Before the release, so that no other driver takes it in between.
    if device.driver_override.as_deref() != Some(VFIO) {
        out.push(Step::Claim { address: device.address.clone(), driver: VFIO.into() });
    }
    if let Some(driver) = device.driver.clone().filter(|_| moves(device, target)) {
        out.push(Step::Release { address: device.address.clone(), driver });
    }
    out
}

fn reset_always(device: &Device, target: &Target) -> Vec<Step> {
    let reset = Step::Reset { address: device.address.clone(), mode: target.mode };
    device.kind.map(|_| reset).into_iter().collect()
}

fn bind(device: &Device, target: &Target) -> Vec<Step> {
    let probe = Step::Probe { address: device.address.clone(), driver: VFIO.into() };
    moves(device, target).then_some(probe).into_iter().collect()
}

/// How devices are now, to come back to.
pub fn as_now(devices: &[Device]) -> Vec<Target> {
    devices
        .iter()
        .map(|device| Target {
            address: device.address.clone(),
            // What can't be read can't be come back to.
            mode: device.mode.as_ref().and_then(|mode| mode.as_ref().ok()).copied(),
            driver: device.driver.clone(),
            driver_override: device.driver_override.clone(),
            power: device.power.clone(),
        })
        .collect()
}

/// Steps from what is seen to the targets: nothing for what is so already. Phases are those of the diagram, each over all
/// devices, because protected PCIe becomes active only when GPUs and switches of a board carry it.
pub fn steps(devices: &[Device], targets: &[Target]) -> Vec<Step> {
    let pairs: Vec<(&Device, &Target)> =
        devices.iter().filter_map(|d| Some((d, targets.iter().find(|t| t.address == d.address)?))).collect();
    let phases: [fn(&Device, &Target) -> Vec<Step>; 4] = [loosen, set_mode, reset, hand_over];
    phases.iter().flat_map(|phase| pairs.iter().flat_map(|(d, t)| phase(d, t))).collect()
}

fn mode_differs(device: &Device, target: &Target) -> bool {
    target.mode.is_some_and(|mode| device.mode != Some(Ok(mode)))
}

fn moves(device: &Device, target: &Target) -> bool {
    device.driver != target.driver
}

/// The mode is changed while no driver of the host holds the device; vfio-pci without a guest leaves it alone.
fn loosen(device: &Device, target: &Target) -> Vec<Step> {
    let address = device.address.clone();
    let mut out = Vec::new();
    if mode_differs(device, target) && device.power.as_deref() == Some("auto") {
        out.push(Step::Power { address: address.clone(), control: "on".into() });
    }
    let held =
        moves(device, target) || (mode_differs(device, target) && device.driver.as_deref() != Some(VFIO));
    if held {
        // Before the release, so that no other driver takes it in between.
        let driver =
            target.driver.clone().or_else(|| target.driver_override.clone()).unwrap_or_else(|| VFIO.into());
        if device.driver_override.as_ref() != Some(&driver) {
            out.push(Step::Claim { address: address.clone(), driver });
        }
        if let Some(driver) = &device.driver {
            out.push(Step::Release { address, driver: driver.clone() });
        }
    }
    out
}

fn set_mode(device: &Device, target: &Target) -> Vec<Step> {
    match target.mode.filter(|_| mode_differs(device, target)) {
        Some(mode) => {
            let before = device.mode.clone().and_then(Result::ok);
            vec![Step::SetMode { address: device.address.clone(), mode, before }]
        }
        None => Vec::new(),
    }
}

/// What was in a device's memory stays with whom it belonged: whoever takes it next finds it reset.
fn reset(device: &Device, target: &Target) -> Vec<Step> {
    if device.kind.is_some() && (mode_differs(device, target) || moves(device, target)) {
        vec![Step::Reset { address: device.address.clone(), mode: target.mode }]
    } else {
        Vec::new()
    }
}

fn hand_over(device: &Device, target: &Target) -> Vec<Step> {
    let address = &device.address;
    let released =
        moves(device, target) || (mode_differs(device, target) && device.driver.as_deref() != Some(VFIO));
    let mut out = Vec::new();
    if let Some(driver) = target.driver.clone().filter(|_| released) {
        out.push(Step::Probe { address: address.clone(), driver });
    }
    // Where it was claimed for the way only, or stands otherwise from an earlier try.
    let claimed = if released {
        target.driver.clone().or_else(|| target.driver_override.clone()).or_else(|| Some(VFIO.into()))
    } else {
        device.driver_override.clone()
    };
    if claimed != target.driver_override {
        out.push(Step::Claim {
            address: address.clone(),
            driver: target.driver_override.clone().unwrap_or_default(),
        });
    }
    if let Some(control) =
        target.power.clone().filter(|_| target.power != device.power || mode_differs(device, target))
    {
        out.push(Step::Power { address: address.clone(), control });
    }
    out
}

/// What is to be said of a plan before anybody agrees to it.
pub fn warnings(devices: &[Device], steps: &[Step]) -> Vec<String> {
    let blackwell = |address: &str| {
        devices
            .iter()
            .any(|d| d.address == address && matches!(d.kind, Some(Kind::Gpu(chip)) if !chip.is_hopper()))
    };
    let toggled = steps.iter().filter_map(|step| match step {
        Step::SetMode { address, before: Some(Mode::On | Mode::Off), .. } if blackwell(address) => Some(format!(
            "{address}: after a change of mode its evidence was seen not to verify until a host reboot (NVIDIA/nvtrust issue 150)"
        )),
        _ => None,
    });
    toggled.collect()
}

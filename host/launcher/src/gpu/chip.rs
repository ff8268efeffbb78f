//! Which chips there are, and how their registers say which mode they are in.
//!
//! Device ranges, register offsets and bits are those of NVIDIA's gpu-admin-tools (github.com/NVIDIA/gpu-admin-tools,
//! v2026.02.24: `gpu/devid_chips.py`, `query_cc_mode_hopper`, `query_cc_mode_blackwell`, `query_ppcie_mode`,
//! `NV_THERM_I2CS_SCRATCH_FSP_BOOT_COMPLETE`). Not validated on hardware.

use serde::{Deserialize, Serialize};
use std::fmt;

/// NVIDIA's PCI vendor number.
pub const NVIDIA: u16 = 0x10de;
/// What a register reads when nobody answers on the bus.
const NOBODY: u32 = u32::MAX;
/// Upper half of what a register reads that the device keeps from this reader.
const REFUSED: u32 = 0xbadf;
/// The firmware has started.
const BOOTED: u32 = 0xff;

/// What a device runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// No confidential computing.
    Off,
    /// Confidential computing: the bus of this GPU is encrypted.
    On,
    /// Confidential computing with debugging: never for guests.
    Devtools,
    /// Protected PCIe: GPUs and switches of one board for one guest.
    ProtectedPcie,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Off => "off",
            Mode::On => "on",
            Mode::Devtools => "devtools",
            Mode::ProtectedPcie => "protected-pcie",
        })
    }
}

/// Kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A GPU of a generation that has confidential computing.
    Gpu(Chip),
    /// A GPU without.
    OldGpu,
    /// An NVSwitch.
    Switch,
}

/// One chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// Its name, as in `GH100`.
    pub name: &'static str,
    /// Hopper, or later.
    hopper: bool,
    /// Says whether its firmware has started.
    boot: u32,
}

impl Chip {
    /// Whether it is of the first generation with confidential computing.
    pub fn is_hopper(&self) -> bool {
        self.hopper
    }
}

const fn chip(name: &'static str, hopper: bool, boot: u32) -> Chip {
    Chip { name, hopper, boot }
}

/// Device numbers, inclusive.
const CHIPS: &[(u16, u16, Chip)] = &[
    (0x22f0, 0x237f, chip("GH100", true, 0x200bc)),
    (0x2900, 0x297f, chip("GB100", false, 0x200bc)),
    (0x2980, 0x29ff, chip("GB102", false, 0x200bc)),
    (0x3180, 0x31ff, chip("GB110", false, 0x200bc)),
    (0x3200, 0x327f, chip("GB112", false, 0x200bc)),
    (0x2b80, 0x2bff, chip("GB202", false, 0xad00bc)),
];

/// What an NVSwitch of the third generation says of itself in register 0; earlier ones have no modes.
const SWITCH_GEN3: u32 = 0x7000a1;
/// Its register of the mode, and of its start.
const SWITCH_MODE: u32 = 0x28c50;
const SWITCH_BOOT: u32 = 0x660bc;

impl Kind {
    /// From PCI device number and class; `None` for what is neither GPU nor switch, such as an audio function.
    pub fn of(device: u16, class: u32) -> Option<Kind> {
        match class >> 8 {
            0x0300 | 0x0302 => {
                let found = CHIPS.iter().find(|(from, to, _)| (*from..=*to).contains(&device));
                Some(found.map_or(Kind::OldGpu, |(.., chip)| Kind::Gpu(*chip)))
            }
            0x0680 => Some(Kind::Switch),
            _ => None,
        }
    }

    /// Whether it can be in this mode. Devtools is nobody's.
    pub fn can(&self, mode: Mode) -> bool {
        match (self, mode) {
            (_, Mode::Devtools)
            | (Kind::OldGpu, Mode::On | Mode::ProtectedPcie)
            | (Kind::Switch, Mode::On) => false,
            (Kind::Gpu(chip), Mode::ProtectedPcie) => chip.hopper,
            _ => true,
        }
    }

    /// The mode, from its registers; why not, in words.
    pub fn mode(&self, read: &dyn Fn(u32) -> Result<u32, String>) -> Result<Mode, String> {
        if matches!(self, Kind::Switch) && good(read(0)?, 0)? != SWITCH_GEN3 {
            return Err("an NVSwitch of a generation without protected PCIe".into());
        }
        let (boot, state) = match self {
            Kind::Gpu(Chip { boot, hopper: true, .. }) => (*boot, 0x1182cc),
            Kind::Gpu(Chip { boot, hopper: false, .. }) => (*boot, 0x590),
            Kind::Switch => (SWITCH_BOOT, SWITCH_MODE),
            Kind::OldGpu => return Ok(Mode::Off),
        };
        match good(read(boot)?, boot)? {
            BOOTED => (),
            other => return Err(format!("its firmware has not started (register {boot:#x} is {other:#x})")),
        }
        let value = good(read(state)?, state)?;
        match (self, value & 3) {
            (Kind::Switch, bits) => Ok(if bits & 1 == 1 { Mode::ProtectedPcie } else { Mode::Off }),
            (Kind::Gpu(Chip { hopper: true, .. }), 0) if value & 0x20 != 0 => Ok(Mode::ProtectedPcie),
            (_, 0) => Ok(Mode::Off),
            (_, 1) => Ok(Mode::On),
            (_, 3) => Ok(Mode::Devtools),
            _ => Err(format!(
                "register {state:#x} is {value:#x}: devtools alone, left by an interrupted change; set a mode anew"
            )),
        }
    }
}

/// A value that a device gave, rather than the bus.
fn good(value: u32, offset: u32) -> Result<u32, String> {
    match value {
        NOBODY => Err(format!("register {offset:#x} reads all ones: the device is asleep, in reset or gone")),
        _ if value >> 16 == REFUSED => {
            Err(format!("register {offset:#x} is kept from this reader ({value:#x})"))
        }
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(device: u16, class: u32, boot: u32, state: u32) -> Result<Mode, String> {
        let kind = Kind::of(device, class).unwrap();
        kind.mode(&|offset| {
            Ok(match offset {
                0 => SWITCH_GEN3,
                0x200bc | 0xad00bc | SWITCH_BOOT => boot,
                _ => state,
            })
        })
    }

    #[test]
    fn each_state_of_the_registers_is_a_mode_or_a_reason() {
        let hopper = |state| mode(0x2330, 0x30200, 0xff, state);
        assert_eq!(
            [hopper(0), hopper(1), hopper(3), hopper(0x20)],
            [Ok(Mode::Off), Ok(Mode::On), Ok(Mode::Devtools), Ok(Mode::ProtectedPcie)]
        );
        assert!(hopper(2).unwrap_err().contains("interrupted"));
        assert_eq!(mode(0x2bb5, 0x30000, 0xff, 0x20), Ok(Mode::Off), "only Hopper has protected PCIe");
        assert_eq!(mode(0x22a3, 0x68000, 0xff, 1), Ok(Mode::ProtectedPcie));
        assert_eq!(mode(0x20b0, 0x30200, 0, 7), Ok(Mode::Off), "A100");
        for (boot, state, word) in [
            (0, 1, "not started"),
            (u32::MAX, 1, "asleep"),
            (0xff, u32::MAX, "asleep"),
            (0xff, 0xbadf5040, "kept"),
        ] {
            assert!(mode(0x2330, 0x30200, boot, state).unwrap_err().contains(word), "{boot:#x} {state:#x}");
        }
    }

    #[test]
    fn nobody_can_be_put_into_devtools() {
        for device in [0x2330, 0x2901, 0x20b0] {
            assert!(!Kind::of(device, 0x30200).unwrap().can(Mode::Devtools));
        }
        assert_eq!(Kind::of(0x22ba, 0x40300), None, "an audio function");
    }
}

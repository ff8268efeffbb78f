//! The control port ([`crate::names::CONTROL_PORT`]): health from guest to host, orders from host to guest. One JSON object a line.
//!
//! ```text
//! host  --{"order":"drain"}-->             guest     finish what is under way, take nothing new, power off
//! host  <--{"uptime_ms":..,"daemon":..}--  guest     every few seconds, whether or not anybody reads
//! ```
//! Closed vocabularies both ways: no text of a user, of a log or of an error fits into a health line, and no order does more than
//! the host can do anyway, which is to end the machine. Each side believes nothing of it; health is for people and for restarts.
//!
//! Coarse on purpose: memory in steps of [`MEMORY_STEP_KIB`], so that a line tells less of what a request was than the host's own
//! counters do.

use serde::{Deserialize, Serialize};

/// Longest line either side reads, in bytes.
pub const MAX_LINE: usize = 4096;
/// Memory is told in multiples of this, in KiB.
pub const MEMORY_STEP_KIB: u64 = 16 * 1024;
/// A GPU's memory is told in multiples of this, in MiB.
pub const GPU_STEP_MIB: u64 = 256;
/// Most GPUs that a line tells of.
pub const MAX_GPUS: usize = 8;
/// Seconds between two lines of health.
pub const INTERVAL_SECONDS: u64 = 5;

/// What a host may ask of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Finish the requests under way, take no new ones, then power off.
    Drain,
}

/// An order as a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderLine {
    order: Order,
}

impl Order {
    /// One JSON line with its newline.
    pub fn to_line(self) -> String {
        line(&OrderLine { order: self })
    }

    /// Reads one line; `None` if it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        read::<OrderLine>(text).map(|line| line.order)
    }
}

/// How the guest's daemon stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// It runs.
    Running,
    /// It was told to end, and finishes what is under way.
    Draining,
    /// No process of it is there.
    Gone,
}

/// What the guest's evidence rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Whether the guest's own events are measured and sealed.
    pub sealed: bool,
    /// Whether RTMR3 holds them.
    pub extended: bool,
    /// Whether the platform is a simulated one, which proves nothing about hardware.
    pub simulated: bool,
    /// What became of the GPUs; guests of before did not say.
    #[serde(default)]
    pub gpu: Gpus,
}

/// What became of a guest's GPUs at its gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gpus {
    /// None is used: none is configured, or the guest serves without those that were refused.
    #[default]
    None,
    /// Their evidence was accepted and measured.
    Accepted,
}

/// One GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuHealth {
    /// Whether it accepts work: its evidence was accepted, it was set ready, and it is so still.
    pub ready: bool,
    /// Degrees Celsius.
    pub celsius: Option<i32>,
    /// Memory in use, MiB, in steps of [`GPU_STEP_MIB`].
    pub used_mib: Option<u64>,
}

/// How a guest stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// The daemon.
    pub daemon: Service,
    /// The evidence.
    pub attestation: Attestation,
    /// All memory, KiB, in steps.
    pub memory_kib: u64,
    /// Memory that is free or can be freed, KiB, in steps.
    pub available_kib: u64,
    /// Runnable tasks, averaged over a minute, in hundredths.
    pub load_percent: u32,
    /// The GPUs, in the order of their slots.
    pub gpus: Vec<GpuHealth>,
}

impl Health {
    /// One JSON line with its newline.
    pub fn to_line(&self) -> String {
        line(self)
    }

    /// Reads one line; `None` if it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        read::<Health>(text).filter(|health| health.gpus.len() <= MAX_GPUS)
    }
}

/// Rounds down to a step.
pub fn coarse(kib: u64) -> u64 {
    kib / MEMORY_STEP_KIB * MEMORY_STEP_KIB
}

fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    if text.len() > MAX_LINE {
        return None;
    }
    serde_json::from_str(text.trim_end()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn health() -> Health {
        Health {
            uptime_ms: 7,
            daemon: Service::Running,
            attestation: Attestation { sealed: true, extended: false, simulated: true, gpu: Gpus::Accepted },
            memory_kib: coarse(2_000_000),
            available_kib: coarse(1_000_000),
            load_percent: 112,
            gpus: vec![GpuHealth { ready: true, celsius: Some(40), used_mib: None }],
        }
    }

    #[test]
    fn lines_are_read_back() {
        assert_eq!(Health::parse(&health().to_line()), Some(health()));
        assert_eq!(Order::Drain.to_line(), "{\"order\":\"drain\"}\n");
        assert_eq!(Order::parse(&Order::Drain.to_line()), Some(Order::Drain));
    }

    #[test]
    fn a_line_of_a_guest_that_does_not_speak_of_gpus_is_read() {
        let older = health().to_line().replace(",\"gpu\":\"accepted\"", "");
        assert_eq!(Health::parse(&older).unwrap().attestation.gpu, Gpus::None);
        let other = health().to_line().replace("\"accepted\"", "\"a prompt\"");
        assert_eq!(Health::parse(&other), None);
    }

    #[test]
    fn nothing_but_the_vocabulary_is_read() {
        for text in ["", "{}", "{\"order\":\"reboot\"}", "{\"order\":\"drain\",\"prompt\":\"x\"}", "drain"] {
            assert_eq!(Order::parse(text), None, "{text}");
        }
        let more = health().to_line().replace("\"gpus\"", "\"log\":\"a prompt\",\"gpus\"");
        assert_eq!(Health::parse(&more), None);
        let many = Health { gpus: vec![health().gpus[0]; MAX_GPUS + 1], ..health() };
        assert_eq!(Health::parse(&many.to_line()), None);
        let long = health().to_line().replace(":7,", &format!(":{}7,", " ".repeat(MAX_LINE)));
        assert_eq!(Health::parse(&long), None);
    }

    #[test]
    fn a_full_line_fits() {
        let gpu = GpuHealth { ready: false, celsius: Some(i32::MIN), used_mib: Some(u64::MAX) };
        let full = Health {
            uptime_ms: u64::MAX,
            memory_kib: u64::MAX,
            available_kib: u64::MAX,
            load_percent: u32::MAX,
            gpus: vec![gpu; MAX_GPUS],
            ..health()
        };
        assert_eq!(Health::parse(&full.to_line()), Some(full));
    }

    proptest! {
        #[test]
        fn hostile_lines_never_panic(text in ".{0,200}") {
            let _ = (Order::parse(&text), Health::parse(&text));
        }
    }
}

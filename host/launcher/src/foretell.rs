//! What a machine of given settings will measure, computed before it starts.
//!
//! One shape, two readers: the same [`Settings`] make QEMU's arguments and this prediction. It reads the firmware, the
//! kernel image and the front of the disk, and no log of any boot. The firmware's own part is kept between runs
//! ([`ProfileCache`]).

mod profile;

pub use profile::ProfileCache;

use crate::error::LaunchError;
use crate::settings::Settings;
use evidence::{Reference, Release, Rtmr3};
use measure::{Boot, Inputs, MeasureError, Payload, Platform, Prediction, Registers, TdxOptions};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of the disk's front that hold its partition table.
const DISK_HEAD: u64 = 1024 * 1024;

/// A finished prediction.
#[derive(Debug, Clone)]
pub struct Foretold {
    /// Every event, in measurement order.
    pub prediction: Prediction,
    /// What the events add up to.
    pub registers: Registers,
    /// For people: image and shape.
    pub name: String,
    /// How long it took, files read included.
    pub took: Duration,
}

impl Foretold {
    /// Reference values that accept this machine with this static configuration, and nothing else.
    pub fn reference(&self, static_config: &[u8]) -> Reference {
        let release = Release {
            name: self.name.clone(),
            mrtd: self.registers.mrtd,
            rtmr0: self.registers.rtmr[0],
            rtmr1: self.registers.rtmr[1],
            rtmr2: self.registers.rtmr[2],
            // What runs on an emulated machine is the debug profile, whose platform plays RTMR3. The kernel of a
            // production image can't extend it, so there it stays zero.
            rtmr3: (self.prediction.platform == Platform::Emulated).then_some(Rtmr3::Events),
        };
        let mrconfigid = measure::Digest384(measure::wire::mrconfigid(static_config));
        Reference { schema: 1, releases: vec![release], mrconfigid: Some(mrconfigid) }
    }
}

/// Foretells the machine of `settings`. `seen` says where a file of the tools root lies for this process.
pub fn foretell(settings: &Settings, seen: &dyn Fn(&Path) -> PathBuf) -> Result<Foretold, LaunchError> {
    let began = Instant::now();
    let code = read("firmware", &seen(&settings.firmware.code))?;
    let vars = match &settings.firmware.vars {
        Some(vars) => read("variable store", &seen(vars))?,
        None => Vec::new(),
    };
    let uki = read("kernel image", &settings.image.uki)?;
    let (boot, front) = match (settings.boot, &settings.image.disk) {
        (Boot::Disk, Some(disk)) => (Boot::Disk, Some(disk_head(disk)?)),
        (boot, _) => (boot, None),
    };
    let shape = settings.shape();
    let inputs = Inputs {
        platform: Platform::from(&settings.platform),
        boot,
        shape: &shape,
        firmware_code: &code,
        firmware_vars: &vars,
        payload: Some(Payload::Uki(&uki)),
        disk_head: front.as_deref(),
    };
    let prediction = predict(&inputs)?;
    let registers = prediction.registers().map_err(|open| LaunchError::NotForetold {
        registers: open.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    })?;
    let name = format!("{} vCPU, {} MiB, {boot:?} boot", shape.vcpus, shape.memory_mib);
    Ok(Foretold { prediction, registers, name, took: began.elapsed() })
}

/// As [`measure::predict`]; remembers the firmware's part in the user's cache.
pub fn predict(inputs: &Inputs<'_>) -> Result<Prediction, MeasureError> {
    match ProfileCache::of_user() {
        Some(cache) => cache.predict(inputs),
        None => measure::predict(inputs),
    }
}

/// As [`measure::predict_tdx`]; remembers the firmware's profile in the user's cache.
pub fn predict_tdx(inputs: &Inputs<'_>, options: &TdxOptions<'_>) -> Result<Prediction, MeasureError> {
    match ProfileCache::of_user() {
        Some(cache) => cache.predict_tdx(inputs, options),
        None => measure::predict_tdx(inputs, options),
    }
}

/// The front of a disk, which holds its partition table.
pub fn disk_head(disk: &Path) -> Result<Vec<u8>, LaunchError> {
    let file = File::open(disk).map_err(LaunchError::file("root disk", disk))?;
    let mut head = Vec::new();
    file.take(DISK_HEAD).read_to_end(&mut head).map_err(LaunchError::file("root disk", disk))?;
    Ok(head)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, LaunchError> {
    std::fs::read(path).map_err(LaunchError::file(what, path))
}

//! A fake PCI tree: sysfs in a folder, registers in files, and a driver model that answers writes as the kernel does.

use super::apply::{Board, Patience};
use super::chip::{Kind, Mode};
use super::error::GpuError;
use super::plan::VFIO;
use super::tool::Admin;
use super::tree::{Sysfs, devices};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

pub(crate) const GPUS: [&str; 2] = ["0000:17:00.0", "0000:65:00.0"];
pub(crate) const SWITCH: &str = "0000:0a:00.0";
pub(crate) const AUDIO: &str = "0000:17:00.1";

/// What happens at a write or at a run of the tool, counted together from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails with nothing done.
    Fails,
    /// It says that it worked, and nothing is done.
    Lies,
    /// The device leaves the bus.
    Vanishes,
    /// It is done, and this process dies: nothing after it works.
    Crashes,
}

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) stored: Mutex<BTreeMap<String, Mode>>,
    pub(crate) count: Mutex<usize>,
    pub(crate) fault: Mutex<Option<(usize, Fault)>>,
    pub(crate) dead: Mutex<bool>,
    cdev: Mutex<bool>,
}

impl Fake {
    /// Two H100 with the host's driver, one with an audio function, and a switch.
    pub(crate) fn new() -> Self {
        // In memory where that can be had: the journal is synced thousands of times.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let sys = dir.path().join("sys");
        for driver in ["nvidia", VFIO, "snd_hda_intel", "nvidia-nvswitch"] {
            let path = sys.join("bus/pci/drivers").join(driver);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("unbind"), "").unwrap();
        }
        std::fs::write(sys.join("bus/pci/drivers_probe"), "").unwrap();
        let fake = Fake {
            dir,
            stored: Mutex::default(),
            count: Mutex::new(0),
            fault: Mutex::new(None),
            dead: Mutex::new(false),
            cdev: Mutex::new(true),
        };
        fake.add(GPUS[0], "0x2330", "0x030200", "nvidia");
        fake.add(AUDIO, "0x22ba", "0x040300", "snd_hda_intel");
        fake.add(GPUS[1], "0x2330", "0x030200", "nvidia");
        fake.add(SWITCH, "0x22a3", "0x068000", "nvidia-nvswitch");
        fake
    }

    pub(crate) fn device(&self, address: &str) -> PathBuf {
        self.root().join("bus/pci/devices").join(address)
    }

    pub(crate) fn add(&self, address: &str, device: &str, class: &str, driver: &str) {
        let path = self.device(address);
        std::fs::create_dir_all(path.join("power")).unwrap();
        std::fs::create_dir_all(path.join("iommu_group/devices").join(address)).unwrap();
        for (name, text) in [
            ("vendor", "0x10de\n"),
            ("device", device),
            ("class", class),
            ("driver_override", "(null)\n"),
            ("reset", ""),
            ("reset_method", "flr bus\n"),
            ("power/control", "auto\n"),
            ("own_driver", driver),
        ] {
            std::fs::write(path.join(name), text).unwrap();
        }
        self.bind(address, Some(driver));
        self.registers(address, Some(Mode::Off));
    }

    pub(crate) fn bind(&self, address: &str, driver: Option<&str>) {
        let link = self.device(address).join("driver");
        let _ = std::fs::remove_file(&link);
        if let Some(driver) = driver {
            symlink(self.root().join("bus/pci/drivers").join(driver), &link).unwrap();
        }
        let (name, of_device) = (address.replace([':', '.'], ""), self.device(address).join("vfio-dev"));
        let _ = std::fs::remove_dir_all(&of_device);
        if driver == Some(VFIO) && *self.cdev.lock().unwrap() {
            std::fs::create_dir_all(of_device.join(format!("vfio{name}"))).unwrap();
            let files = self.dir.path().join("dev/vfio/devices");
            std::fs::create_dir_all(&files).unwrap();
            std::fs::write(files.join(format!("vfio{name}")), "").unwrap();
        }
    }

    /// From now on vfio-pci makes no files of devices, as kernels before 6.6.
    pub(crate) fn no_device_files(&self) {
        *self.cdev.lock().unwrap() = false;
    }

    /// All GPUs and switches in a mode, as `chrysalis gpu apply` and a reset leave them.
    pub(crate) fn all_in(&self, mode: Mode) {
        for device in self.seen() {
            let mode = if device.kind == Some(Kind::Switch) && mode == Mode::On { Mode::Off } else { mode };
            if device.kind.is_some() {
                self.registers(&device.address, Some(mode));
            }
        }
    }

    /// Region 0 of a device that has started, or of one that is asleep.
    pub(crate) fn registers(&self, address: &str, mode: Option<Mode>) {
        let region = std::fs::File::create(self.device(address).join("resource0")).unwrap();
        region.set_len(0x119000).unwrap();
        let put = |offset: u64, value: u32| {
            std::os::unix::fs::FileExt::write_all_at(&region, &value.to_le_bytes(), offset).unwrap()
        };
        let state = match mode {
            None => return [0, 0x200bc, 0x660bc].into_iter().for_each(|offset| put(offset, u32::MAX)),
            Some(Mode::Off) => 0,
            Some(Mode::On) => 1,
            Some(Mode::Devtools) => 3,
            Some(Mode::ProtectedPcie) => 0x20,
        };
        put(0, 0x7000a1);
        put(0x200bc, 0xff);
        put(0x660bc, 0xff);
        put(0x1182cc, state);
        put(0x28c50, state >> 5);
    }

    /// Counts an action and says which fault it meets.
    fn next(&self, address: &str) -> Result<bool, GpuError> {
        let fails = |reason: &str| GpuError::Sysfs { path: address.into(), reason: reason.into() };
        if *self.dead.lock().unwrap() {
            return Err(fails("the process is dead"));
        }
        let mut count = self.count.lock().unwrap();
        let now = *count;
        *count += 1;
        match *self.fault.lock().unwrap() {
            Some((at, fault)) if at == now => match fault {
                Fault::Fails => Err(fails("made to fail")),
                Fault::Lies => Ok(false),
                Fault::Vanishes => {
                    // The card, with all its functions.
                    let card = address.split('.').next().unwrap();
                    for name in self.names("bus/pci/devices").iter().filter(|name| name.starts_with(card)) {
                        std::fs::remove_dir_all(self.device(name)).unwrap();
                    }
                    Err(fails("No such device"))
                }
                Fault::Crashes => {
                    *self.dead.lock().unwrap() = true;
                    Ok(true)
                }
            },
            _ => Ok(true),
        }
    }

    /// Everything that the host can see, without what only this fake has.
    pub(crate) fn seen(&self) -> Vec<super::tree::Device> {
        devices(self).unwrap()
    }

    pub(crate) fn board<'a>(&'a self, state: &'a Path) -> Board<'a> {
        Board { sysfs: self, admin: Some(self), state, boot: "boot-1", patience: Patience(Duration::ZERO) }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }
}

impl Sysfs for Fake {
    fn root(&self) -> &Path {
        // A leak of one short path a test.
        Box::leak(self.dir.path().join("sys").into_boxed_path())
    }

    fn write(&self, path: &str, value: &str) -> Result<(), GpuError> {
        let value = value.trim();
        let address = path
            .strip_prefix("bus/pci/devices/")
            .map_or(value, |rest| rest.split('/').next().unwrap())
            .to_owned();
        if !self.root().join(path).exists() {
            return Err(GpuError::Sysfs { path: path.into(), reason: "No such file or directory".into() });
        }
        if !self.next(&address)? {
            return Ok(());
        }
        match path.rsplit('/').next().unwrap() {
            "unbind" => self.bind(&address, None),
            "drivers_probe" => {
                let text = |name: &str| {
                    std::fs::read_to_string(self.device(&address).join(name)).unwrap_or_default()
                };
                let own = text("own_driver");
                let wanted = match text("driver_override").trim() {
                    "" | "(null)" => own,
                    driver => driver.to_owned(),
                };
                if self.link(&format!("bus/pci/devices/{address}/driver")).is_none() {
                    self.bind(&address, Some(&wanted));
                }
            }
            "reset" => {
                let stored = self.stored.lock().unwrap().get(&address).copied();
                if let Some(mode) = stored {
                    self.registers(&address, Some(mode));
                }
            }
            _ => std::fs::write(self.root().join(path), if value.is_empty() { "(null)" } else { value })
                .unwrap(),
        }
        Ok(())
    }
}

impl Admin for Fake {
    fn set_mode(&self, address: &str, kind: Kind, mode: Mode, _: Option<Mode>) -> Result<(), GpuError> {
        assert!(kind.can(mode), "{address} {mode}");
        assert_ne!(
            self.link(&format!("bus/pci/devices/{address}/driver")).as_deref(),
            Some("nvidia"),
            "changed under a driver"
        );
        if self.next(address)? {
            self.stored.lock().unwrap().insert(address.into(), mode);
        }
        Ok(())
    }
}

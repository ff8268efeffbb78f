//! A fake PCI tree: sysfs in a folder, registers in files, and a driver model that answers writes as the kernel does.

use super::apply::{Board, Done, Patience};
use super::chip::{Kind, Mode};
use super::error::GpuError;
use super::journal::Held;
use super::plan::{Step, VFIO};
use super::tool::Admin;
use super::tree::{Sysfs, devices};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

const GPUS: [&str; 2] = ["0000:17:00.0", "0000:65:00.0"];
const SWITCH: &str = "0000:0a:00.0";
const AUDIO: &str = "0000:17:00.1";

/// What happens at a write or at a run of the tool, counted together from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It fails with nothing done.
    Fails,
    /// It says that it worked, and nothing is done.
    Lies,
    /// The device leaves the bus.
    Vanishes,
    /// It is done, and this process dies: nothing after it works.
    Crashes,
}

struct Fake {
    dir: tempfile::TempDir,
    stored: Mutex<BTreeMap<String, Mode>>,
    count: Mutex<usize>,
    fault: Mutex<Option<(usize, Fault)>>,
    dead: Mutex<bool>,
}

impl Fake {
    /// Two H100 with the host's driver, one with an audio function, and a switch.
    fn new() -> Self {
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
        };
        fake.add(GPUS[0], "0x2330", "0x030200", "nvidia");
        fake.add(AUDIO, "0x22ba", "0x040300", "snd_hda_intel");
        fake.add(GPUS[1], "0x2330", "0x030200", "nvidia");
        fake.add(SWITCH, "0x22a3", "0x068000", "nvidia-nvswitch");
        fake
    }

    fn device(&self, address: &str) -> PathBuf {
        self.root().join("bus/pci/devices").join(address)
    }

    fn add(&self, address: &str, device: &str, class: &str, driver: &str) {
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

    fn bind(&self, address: &str, driver: Option<&str>) {
        let link = self.device(address).join("driver");
        let _ = std::fs::remove_file(&link);
        if let Some(driver) = driver {
            symlink(self.root().join("bus/pci/drivers").join(driver), &link).unwrap();
        }
    }

    /// Region 0 of a device that has started, or of one that is asleep.
    fn registers(&self, address: &str, mode: Option<Mode>) {
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
    fn seen(&self) -> Vec<super::tree::Device> {
        devices(self).unwrap()
    }

    fn board<'a>(&'a self, state: &'a Path) -> Board<'a> {
        Board { sysfs: self, admin: Some(self), state, boot: "boot-1", patience: Patience(Duration::ZERO) }
    }

    fn state(&self) -> PathBuf {
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

fn is_for_guest(fake: &Fake, mode: Mode) -> bool {
    fake.seen().iter().all(|device| {
        let wanted = match device.kind {
            Some(Kind::Switch) if mode == Mode::On => Some(Ok(Mode::Off)),
            Some(_) => Some(Ok(mode)),
            None => None,
        };
        device.driver.as_deref() == Some(VFIO)
            && device.driver_override.as_deref() == Some(VFIO)
            && device.mode == wanted
    })
}

#[test]
fn all_devices_go_into_the_mode_and_to_vfio_and_come_back() {
    for mode in [Mode::On, Mode::ProtectedPcie, Mode::Off] {
        let fake = Fake::new();
        let before = fake.seen();
        let state = fake.state();
        let board = fake.board(&state);
        let planned = board.plan(mode).unwrap();
        assert_eq!(fake.seen(), before, "a plan changes nothing");
        assert!(!state.exists());
        let done = board.apply(mode).unwrap();
        assert_eq!(done, planned);
        assert!(is_for_guest(&fake, mode), "{mode}: {:#?}", fake.seen());
        assert_eq!(board.apply(mode).unwrap().steps, [], "again: nothing to do");
        board.restore().unwrap();
        assert_eq!(fake.seen(), before, "{mode}");
        assert_eq!(board.restore().unwrap().steps, []);
    }
}

#[test]
fn every_device_is_reset_between_owners_and_after_its_mode_was_set() {
    let fake = Fake::new();
    let state = fake.state();
    let Done { steps, .. } = fake.board(&state).apply(Mode::ProtectedPcie).unwrap();
    let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().rposition(wanted).unwrap();
    for address in [GPUS[0], GPUS[1], SWITCH] {
        let of = |step: &Step| step.address() == address;
        let release = at(&|s| of(s) && matches!(s, Step::Release { .. }));
        let set = at(&|s| of(s) && matches!(s, Step::SetMode { .. }));
        let reset = at(&|s| of(s) && matches!(s, Step::Reset { .. }));
        let probe = at(&|s| of(s) && matches!(s, Step::Probe { .. }));
        assert!(release < set && set < reset && reset < probe, "{steps:#?}");
    }
    let last_set = at(&|s| matches!(s, Step::SetMode { .. }));
    let first_reset = steps.iter().position(|s| matches!(s, Step::Reset { .. })).unwrap();
    assert!(last_set < first_reset, "a board is set as a whole before any of it is reset");
}

/// How many writes and runs a whole change takes.
fn actions(mode: Mode) -> usize {
    let fake = Fake::new();
    fake.board(&fake.state()).apply(mode).unwrap();
    fake.count.into_inner().unwrap()
}

#[test]
fn a_failure_at_any_step_leaves_all_devices_as_they_were() {
    for (mode, fault) in [(Mode::ProtectedPcie, Fault::Fails), (Mode::On, Fault::Lies)] {
        {
            for at in 0..actions(mode) {
                let fake = Fake::new();
                let before = fake.seen();
                *fake.fault.lock().unwrap() = Some((at, fault));
                let state = fake.state();
                match fake.board(&state).apply(mode) {
                    Err(GpuError::Undone { after, failure }) => {
                        assert!(after.contains("as they were before"), "{fault:?} {at}: {failure}; {after}");
                        assert_eq!(fake.seen(), before, "{mode} {fault:?} {at}: {failure}");
                    }
                    Err(other) => panic!("{fault:?} {at}: {other}"),
                    // A lie that does not matter in the end, such as about sleep.
                    Ok(_) => assert!(fault == Fault::Lies, "{mode} {at} went unnoticed"),
                }
            }
        }
    }
}

#[test]
fn after_a_crash_at_any_step_the_same_command_does_the_rest_and_restore_knows_what_was() {
    for again in [true, false] {
        for at in 0..actions(Mode::On) {
            let fake = Fake::new();
            let before = fake.seen();
            *fake.fault.lock().unwrap() = Some((at, Fault::Crashes));
            let state = fake.state();
            let _ = fake.board(&state).apply(Mode::On);
            *fake.dead.lock().unwrap() = false;
            let board = fake.board(&state);
            if again {
                board.apply(Mode::On).unwrap_or_else(|e| panic!("{at}: {e}"));
                assert!(is_for_guest(&fake, Mode::On), "{at}: {:#?}", fake.seen());
            }
            board.restore().unwrap_or_else(|e| panic!("{at}: {e}"));
            let plain = |seen: Vec<super::tree::Device>| {
                seen.into_iter().map(|d| (d.address, d.driver, d.driver_override, d.mode)).collect::<Vec<_>>()
            };
            assert_eq!(plain(fake.seen()), plain(before), "{at}");
        }
    }
}

#[test]
fn a_gpu_that_vanishes_is_named_and_the_others_come_back() {
    for at in 0..actions(Mode::On) {
        let fake = Fake::new();
        let before = fake.seen();
        *fake.fault.lock().unwrap() = Some((at, Fault::Vanishes));
        let state = fake.state();
        let refused = fake.board(&state).apply(Mode::On).unwrap_err().to_string();
        assert!(refused.contains("is gone from the PCI bus"), "{at}: {refused}");
        let now = fake.seen();
        assert!(now.len() < before.len());
        assert!(now.iter().all(|device| before.contains(device)), "{at}: {now:#?}");
        let still = fake.board(&state).restore().unwrap_err().to_string();
        assert!(still.contains("is gone"), "{at}: {still}");
    }
}

#[test]
fn a_mode_that_does_not_become_active_says_that_the_host_must_be_rebooted() {
    let fake = Fake::new();
    let state = fake.state();
    struct Forgets;
    impl Admin for Forgets {
        fn set_mode(&self, _: &str, _: Kind, _: Mode, _: Option<Mode>) -> Result<(), GpuError> {
            Ok(())
        }
    }
    let board = Board { admin: Some(&Forgets), ..fake.board(&state) };
    let refused = board.apply(Mode::On).unwrap_err().to_string();
    assert!(refused.contains("needs a host reboot") && refused.contains("as they were before"), "{refused}");
}

#[test]
fn a_change_of_mode_on_blackwell_is_warned_about_in_the_plan() {
    let fake = Fake::new();
    fake.add("0000:99:00.0", "0x2bb5", "0x030200", "nvidia");
    // Its registers are elsewhere: booted, and off.
    let region =
        std::fs::OpenOptions::new().write(true).open(fake.device("0000:99:00.0").join("resource0")).unwrap();
    region.set_len(0xad1000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&region, &0xff_u32.to_le_bytes(), 0xad00bc).unwrap();
    let plan = fake.board(&fake.state()).plan(Mode::On).unwrap();
    assert!(
        plan.warnings.iter().any(|w| w.contains("host reboot") && w.contains("0000:99")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_changed() {
    let check = |spoil: &dyn Fn(&Fake), mode: Mode, word: &str| {
        let fake = Fake::new();
        spoil(&fake);
        let before = fake.seen();
        let refused = fake.board(&fake.state()).apply(mode).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
        assert_eq!((fake.seen(), *fake.count.lock().unwrap()), (before, 0), "{word}");
    };
    check(&|_| (), Mode::Devtools, "devtools");
    check(
        &|f| f.add("0000:99:00.0", "0x20b0", "0x030200", "nvidia"),
        Mode::On,
        "0000:99:00.0 can't be in mode on",
    );
    check(
        &|f| std::fs::create_dir(f.device(GPUS[0]).join("iommu_group/devices/0000:18:00.0")).unwrap(),
        Mode::On,
        "shares its IOMMU group",
    );
    check(
        &|f| std::fs::write(f.device(GPUS[1]).join("reset_method"), "bus\n").unwrap(),
        Mode::On,
        "host reboot",
    );
    check(
        &|f| std::fs::remove_dir_all(f.root().join("bus/pci/drivers/vfio-pci")).unwrap(),
        Mode::On,
        "modprobe vfio-pci",
    );
    check(
        &|f| f.seen().iter().for_each(|d| std::fs::remove_dir_all(f.device(&d.address)).unwrap()),
        Mode::On,
        "no NVIDIA GPU",
    );
    let fake = Fake::new();
    let board = Board { admin: None, ..fake.board(Path::new("/nonexistent")) };
    assert!(
        Board { state: &fake.state(), ..board }
            .apply(Mode::On)
            .unwrap_err()
            .to_string()
            .contains("gpu-admin-tools")
    );
}

#[test]
fn two_launchers_do_not_get_one_gpu() {
    let fake = Fake::new();
    let state = fake.state();
    let one = Held::take(&state, [GPUS[1]]).unwrap();
    assert!(Held::take(&state, GPUS).unwrap_err().to_string().contains(GPUS[1]));
    let _other = Held::take(&state, [GPUS[0]]).expect("the try above let go of it");
    assert!(matches!(fake.board(&state).apply(Mode::On), Err(GpuError::Busy { .. })), "a guest has it");
    assert_eq!(*fake.count.lock().unwrap(), 0);
    drop((one, _other));
    fake.board(&state).apply(Mode::On).unwrap();
}

#[test]
fn a_guest_gets_devices_that_are_ready_and_freshly_reset_and_holds_them() {
    let fake = Fake::new();
    let state = fake.state();
    let board = fake.board(&state);
    let refused = board.attach(&GPUS, Mode::On).unwrap_err().to_string();
    assert!(refused.contains("chrysalis gpu apply"), "{refused}");
    board.apply(Mode::On).unwrap();
    let writes = || *fake.count.lock().unwrap();
    let before = writes();
    let held = board.attach(&GPUS, Mode::On).unwrap();
    assert_eq!(writes() - before, GPUS.len(), "a reset each");
    assert!(matches!(board.attach(&GPUS[..1], Mode::On), Err(GpuError::Busy { .. })));
    assert!(matches!(board.apply(Mode::Off), Err(GpuError::Busy { .. })));
    drop(held);
    assert!(board.attach(&GPUS, Mode::ProtectedPcie).unwrap_err().to_string().contains("mode on"));
    assert!(matches!(board.attach(&["0000:99:00.0"], Mode::On), Err(GpuError::Gone { .. })));
}

#[test]
fn half_bound_devices_are_put_right() {
    let fake = Fake::new();
    // Claimed and not released; released and not probed; asleep in vfio-pci's hands.
    std::fs::write(fake.device(GPUS[0]).join("driver_override"), "vfio-pci\n").unwrap();
    std::fs::write(fake.device(AUDIO).join("driver_override"), "vfio-pci\n").unwrap();
    fake.bind(AUDIO, None);
    fake.bind(GPUS[1], Some(VFIO));
    fake.registers(GPUS[1], None);
    let state = fake.state();
    fake.board(&state).apply(Mode::On).unwrap();
    assert!(is_for_guest(&fake, Mode::On), "{:#?}", fake.seen());
}

#[test]
fn after_a_reboot_only_the_modes_are_put_back() {
    let fake = Fake::new();
    let state = fake.state();
    fake.board(&state).apply(Mode::On).unwrap();
    for device in fake.seen() {
        std::fs::write(fake.device(&device.address).join("driver_override"), "(null)").unwrap();
        fake.bind(&device.address, None);
    }
    let board = Board { boot: "boot-2", ..fake.board(&state) };
    board.restore().unwrap();
    assert!(
        fake.seen()
            .iter()
            .all(|d| d.driver.is_none() && d.kind.is_none_or(|_| d.mode == Some(Ok(Mode::Off)))),
        "{:#?}",
        fake.seen()
    );
}

#[test]
fn what_was_before_is_known_across_reboots_and_further_changes() {
    let fake = Fake::new();
    let state = fake.state();
    fake.board(&state).apply(Mode::On).unwrap();
    fake.board(&state).apply(Mode::ProtectedPcie).unwrap();
    for device in fake.seen() {
        std::fs::write(fake.device(&device.address).join("driver_override"), "(null)").unwrap();
        fake.bind(&device.address, Some("nvidia"));
    }
    let board = Board { boot: "boot-2", ..fake.board(&state) };
    board.apply(Mode::On).unwrap();
    assert!(is_for_guest(&fake, Mode::On));
    board.restore().unwrap();
    assert!(fake.seen().iter().all(|d| d.driver.as_deref() == Some("nvidia")), "{:#?}", fake.seen());
    assert!(
        fake.seen().iter().all(|d| d.kind.is_none() || d.mode == Some(Ok(Mode::Off))),
        "{:#?}",
        fake.seen()
    );
}

#[test]
fn a_switch_that_is_reset_otherwise_is_no_obstacle() {
    let fake = Fake::new();
    std::fs::write(fake.device(SWITCH).join("reset_method"), "bus\n").unwrap();
    fake.board(&fake.state()).apply(Mode::ProtectedPcie).unwrap();
    assert!(is_for_guest(&fake, Mode::ProtectedPcie));
}

#[test]
fn a_state_file_that_is_not_ours_stops_everything() {
    for text in [
        "",
        "{",
        "{\"schema\":1,\"boot\":\"b\",\"before\":[],\"stored\":[],\"more\":1}",
        "{\"schema\":1,\"boot\":\"boot-1\",\"before\":[{\"address\":\"../../x\",\"mode\":null,\"driver\":null,\"driver_override\":null,\"power\":null}],\"stored\":[]}",
        "{\"schema\":1,\"boot\":\"boot-1\",\"before\":[{\"address\":\"0000:17:00.0\",\"mode\":null,\"driver\":\"a b\",\"driver_override\":null,\"power\":null}],\"stored\":[]}",
    ] {
        let fake = Fake::new();
        let state = fake.state();
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(state.join("before.json"), text).unwrap();
        for outcome in [fake.board(&state).apply(Mode::On), fake.board(&state).restore()] {
            assert!(matches!(outcome, Err(GpuError::Journal { .. })), "{text}: {outcome:?}");
        }
        assert_eq!(*fake.count.lock().unwrap(), 0);
    }
}

//! Devices change hands on a fake PCI tree: whole, cut short at each step, and lied to.

use super::apply::{Board, Done};
use super::chip::{Kind, Mode};
use super::error::GpuError;
use super::fake::{AUDIO, Fake, Fault, GPUS, SWITCH};
use super::journal::Held;
use super::plan::{Step, VFIO};
use super::tool::Admin;
use super::tree::Sysfs;
use std::path::Path;

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

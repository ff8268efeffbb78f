//! One machine's devices on the fake tree: taken and given back, cut short at each step, wanted by two, and lied about.

use super::*;
use crate::gpu::VFIO;
use crate::gpu::fake::{AUDIO, Fake, Fault, GPUS, SWITCH};
use crate::gpu::tree::Sysfs;
use proptest::prelude::*;
use std::path::Path;

const CARD: [&str; 2] = [GPUS[0], AUDIO];

/// A host whose devices are in this mode, and in the hands of its own drivers.
fn fake(mode: Mode) -> Fake {
    let fake = Fake::new();
    fake.all_in(mode);
    fake
}

/// As a launcher does: holds, then takes.
fn attach(board: &Board<'_>, named: &[&str], mode: Mode) -> Result<Attached, GpuError> {
    let held = board.hold(named)?;
    board.attach(held, named, mode)
}

/// Whether each is ready for a guest.
fn ready(fake: &Fake, addresses: &[&str]) -> bool {
    let seen = fake.seen();
    let of = |address: &&str| seen.iter().find(|device| device.address == **address).cloned().unwrap();
    addresses.iter().map(of).all(|d| {
        d.driver.as_deref() == Some(VFIO)
            && d.driver_override.as_deref() == Some(VFIO)
            && d.power.as_deref() == Some("on")
    })
}

fn writes(fake: &Fake) -> usize {
    *fake.count.lock().unwrap()
}

/// How many writes it takes to attach one card, and to give it back.
fn actions() -> [usize; 2] {
    let fake = fake(Mode::On);
    let state = fake.state();
    let board = fake.board(&state);
    let attached = attach(&board, &GPUS[..1], Mode::On).unwrap();
    let there = writes(&fake);
    board.give_back(attached).unwrap();
    [there, writes(&fake) - there]
}

fn journals(state: &Path) -> usize {
    journal::all_taken(state).len()
}

#[test]
fn a_machines_devices_go_to_vfio_with_their_whole_card_and_come_back_and_no_other_is_touched() {
    let fake = fake(Mode::On);
    let before = fake.seen();
    let state = fake.state();
    let board = fake.board(&state);
    let planned = board.plan_attach(&GPUS[..1], Mode::On).unwrap();
    assert_eq!((fake.seen(), writes(&fake)), (before.clone(), 0), "a plan changes nothing");
    assert!(planned.steps.iter().all(|step| CARD.contains(&step.address())), "{planned:?}");
    let attached = attach(&board, &GPUS[..1], Mode::On).unwrap();
    assert!(ready(&fake, &CARD), "{:#?}", fake.seen());
    assert_eq!(writes(&fake), planned.steps.len());
    assert_eq!(attached.files(), ["vfio000017000", "vfio000017001"]);
    let others = |seen: Vec<Device>| {
        seen.into_iter().filter(|d| !CARD.contains(&d.address.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(others(fake.seen()), others(before.clone()));
    board.give_back(attached).unwrap();
    assert_eq!((fake.seen(), journals(&state)), (before, 0));
}

#[test]
fn every_device_is_reset_between_its_owners() {
    let fake = fake(Mode::On);
    let state = fake.state();
    let board = fake.board(&state);
    let steps = board.plan_attach(&GPUS, Mode::On).unwrap().steps;
    let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
    for address in GPUS {
        let of = |step: &Step| step.address() == address;
        let release = at(&|s| of(s) && matches!(s, Step::Release { .. }));
        let reset = at(&|s| of(s) && matches!(s, Step::Reset { .. }));
        let probe = at(&|s| of(s) && matches!(s, Step::Probe { .. }));
        assert!(release < reset && reset < probe, "{steps:#?}");
    }
    let attached = attach(&board, &GPUS, Mode::On).unwrap();
    let back = board.give_back(attached).unwrap().steps;
    for address in GPUS {
        assert!(
            back.iter().any(|s| matches!(s, Step::Reset { address: of, .. } if of == address)),
            "{back:#?}"
        );
    }
    // Between two machines too, where there is nothing else to do.
    let kept = attach(&board, &GPUS, Mode::On).unwrap();
    drop(kept);
    let steps = board.plan_attach(&GPUS, Mode::On).unwrap().steps;
    assert_eq!(steps.len(), GPUS.len());
    assert!(steps.iter().all(|step| matches!(step, Step::Reset { .. })), "{steps:#?}");
}

#[test]
fn two_machines_take_different_gpus_and_never_one() {
    let fake = fake(Mode::On);
    let state = fake.state();
    let board = fake.board(&state);
    let one = attach(&board, &GPUS[..1], Mode::On).unwrap();
    let two = attach(&board, &GPUS[1..], Mode::On).unwrap();
    let count = writes(&fake);
    for named in [&GPUS[..1], &GPUS[1..], &GPUS[..]] {
        assert!(matches!(attach(&board, named, Mode::On), Err(GpuError::Busy { .. })));
    }
    for changed in [board.apply(Mode::Off), board.restore()] {
        assert!(matches!(changed, Err(GpuError::Busy { .. })), "a guest has it");
    }
    assert_eq!(writes(&fake), count);
    board.give_back(one).unwrap();
    board.give_back(two).unwrap();
    let _again = attach(&board, &GPUS, Mode::On).unwrap();
}

#[test]
fn a_failure_or_a_lie_at_any_step_leaves_the_devices_as_they_were() {
    for fault in [Fault::Fails, Fault::Lies] {
        for at in 0..actions()[0] {
            let fake = fake(Mode::On);
            let before = fake.seen();
            *fake.fault.lock().unwrap() = Some((at, fault));
            let state = fake.state();
            match attach(&fake.board(&state), &GPUS[..1], Mode::On) {
                Err(GpuError::Undone { after, failure }) => {
                    assert!(after.contains("as they were before"), "{fault:?} {at}: {failure}; {after}");
                    assert_eq!((fake.seen(), journals(&state)), (before, 0), "{fault:?} {at}: {failure}");
                }
                Err(other) => panic!("{fault:?} {at}: {other}"),
                // About sleep, of a device that is awake; about a reset, which leaves no trace.
                Ok(_) => assert!(fault == Fault::Lies, "{at} went unnoticed"),
            }
        }
    }
}

#[test]
fn after_a_crash_at_any_step_the_next_launcher_does_the_rest_and_gives_back_what_was_first() {
    let [there, back] = actions();
    for restore in [false, true] {
        for at in 0..there + back {
            let fake = fake(Mode::On);
            let before = fake.seen();
            *fake.fault.lock().unwrap() = Some((at, Fault::Crashes));
            let state = fake.state();
            let board = fake.board(&state);
            if let Ok(attached) = attach(&board, &GPUS[..1], Mode::On) {
                let _ = board.give_back(attached);
            }
            *fake.dead.lock().unwrap() = false;
            if restore {
                board.restore().unwrap_or_else(|e| panic!("{at}: {e}"));
            } else {
                let attached = attach(&board, &GPUS[..1], Mode::On).unwrap_or_else(|e| panic!("{at}: {e}"));
                assert!(ready(&fake, &CARD), "{at}: {:#?}", fake.seen());
                board.give_back(attached).unwrap_or_else(|e| panic!("{at}: {e}"));
            }
            assert_eq!((fake.seen(), journals(&state)), (before, 0), "{restore} {at}");
        }
    }
}

#[test]
fn a_gpu_that_vanishes_at_any_step_is_named_and_the_other_card_comes_back() {
    let [there, _] = actions();
    for at in 0..2 * there {
        let fake = fake(Mode::On);
        let before = fake.seen();
        *fake.fault.lock().unwrap() = Some((at, Fault::Vanishes));
        let state = fake.state();
        let Err(refused) = attach(&fake.board(&state), &GPUS, Mode::On) else { continue };
        let refused = refused.to_string();
        assert!(refused.contains("is gone from the PCI bus"), "{at}: {refused}");
        let now = fake.seen();
        assert!(now.len() < before.len());
        assert!(now.iter().all(|device| before.contains(device)), "{at}: {now:#?}");
    }
}

#[test]
fn what_a_machine_cannot_have_is_refused_before_anything_is_changed() {
    let check = |spoil: &dyn Fn(&Fake), named: &[&str], mode: Mode, words: &str| {
        let fake = fake(Mode::On);
        spoil(&fake);
        let (before, state) = (fake.seen(), fake.state());
        let refused = attach(&fake.board(&state), named, mode).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
        assert_eq!((fake.seen(), writes(&fake), journals(&state)), (before, 0, 0), "{words}");
    };
    let one = &GPUS[..1];
    check(&|f| f.all_in(Mode::Off), one, Mode::On, "it is in mode off; `chrysalis gpu apply --mode on`");
    check(&|f| f.all_in(Mode::Devtools), one, Mode::On, "it is in mode devtools");
    check(&|_| (), one, Mode::Devtools, "devtools lets a host look");
    check(&|f| f.all_in(Mode::ProtectedPcie), one, Mode::ProtectedPcie, "name it too");
    check(&|_| (), &["0000:99:00.0"], Mode::On, "is gone from the PCI bus");
    check(&|_| (), &[AUDIO], Mode::On, "is no NVIDIA GPU or NVSwitch");
    let group = |f: &Fake| f.device(GPUS[0]).join("iommu_group/devices/0000:18:00.0");
    check(&|f| std::fs::create_dir(group(f)).unwrap(), one, Mode::On, "shares its IOMMU group");
    let way = |f: &Fake| std::fs::write(f.device(GPUS[0]).join("reset_method"), "bus\n").unwrap();
    check(&way, one, Mode::On, "can't be reset by function");
    let unload = |f: &Fake| std::fs::remove_dir_all(f.root().join("bus/pci/drivers/vfio-pci")).unwrap();
    check(&unload, one, Mode::On, "modprobe vfio-pci");
}

#[test]
fn a_whole_board_in_protected_pcie_is_one_machines() {
    let fake = fake(Mode::ProtectedPcie);
    let (before, state) = (fake.seen(), fake.state());
    let board = fake.board(&state);
    let all = [GPUS[0], GPUS[1], SWITCH];
    let attached = attach(&board, &all, Mode::ProtectedPcie).unwrap();
    assert!(ready(&fake, &all) && ready(&fake, &CARD));
    board.give_back(attached).unwrap();
    assert_eq!(fake.seen(), before);
}

#[test]
fn a_change_of_mode_that_was_cut_short_is_not_taken_for_done() {
    let fake = fake(Mode::On);
    let state = fake.state();
    std::fs::create_dir_all(&state).unwrap();
    let mut cut = Journal::new("boot-1", Vec::new());
    cut.stored.push(GPUS[0].into());
    journal::write(&journal::path(&state), &cut).unwrap();
    let refused = attach(&fake.board(&state), &GPUS[..1], Mode::On).unwrap_err().to_string();
    assert!(refused.contains("cut short") && refused.contains("gpu apply"), "{refused}");
    assert_eq!(writes(&fake), 0);
}

#[test]
fn a_gpu_that_sleeps_or_lost_its_driver_is_made_ready() {
    let fake = fake(Mode::On);
    // Released by a launcher that was killed; asleep in vfio-pci's hands.
    fake.bind(GPUS[0], None);
    fake.bind(GPUS[1], Some(VFIO));
    fake.registers(GPUS[1], None);
    fake.stored.lock().unwrap().insert(GPUS[1].into(), Mode::On);
    let state = fake.state();
    let _attached = attach(&fake.board(&state), &GPUS, Mode::On).unwrap();
    assert!(ready(&fake, &CARD));
}

#[test]
fn a_gpu_that_does_not_come_up_again_goes_back() {
    let fake = fake(Mode::On);
    fake.registers(GPUS[0], None);
    let (before, state) = (fake.seen(), fake.state());
    let refused = attach(&fake.board(&state), &GPUS[..1], Mode::On).unwrap_err().to_string();
    assert!(refused.contains("asleep") && refused.contains("as they were before"), "{refused}");
    assert_eq!(fake.seen(), before);
}

#[test]
fn devices_that_stay_with_vfio_are_known_to_restore_and_to_apply() {
    let fake = fake(Mode::On);
    let (before, state) = (fake.seen(), fake.state());
    let board = fake.board(&state);
    drop(attach(&board, &GPUS[..1], Mode::On).unwrap());
    assert!(ready(&fake, &CARD) && journals(&state) == CARD.len());
    let planned = board.plan_restore().unwrap();
    assert_eq!(board.restore().unwrap(), planned);
    assert_eq!((fake.seen(), journals(&state)), (before.clone(), 0));

    drop(attach(&board, &GPUS[..1], Mode::On).unwrap());
    board.apply(Mode::On).unwrap();
    assert_eq!(journals(&state), 0, "what was first is in the journal of all");
    let attached = attach(&board, &GPUS, Mode::On).unwrap();
    board.give_back(attached).unwrap();
    board.restore().unwrap();
    assert_eq!(fake.seen(), before);
}

#[test]
fn what_an_earlier_boot_wrote_down_is_not_given_back() {
    let fake = fake(Mode::On);
    let state = fake.state();
    drop(attach(&fake.board(&state), &GPUS[..1], Mode::On).unwrap());
    // After a reboot of the host another driver has it.
    for address in CARD {
        fake.bind(address, Some("nvidia"));
        std::fs::write(fake.device(address).join("driver_override"), "(null)").unwrap();
        std::fs::write(fake.device(address).join("power/control"), "on").unwrap();
    }
    let before = fake.seen();
    let board = Board { boot: "boot-2", ..fake.board(&state) };
    let attached = attach(&board, &GPUS[..1], Mode::On).unwrap();
    board.give_back(attached).unwrap();
    assert_eq!((fake.seen(), journals(&state)), (before, 0));
}

#[test]
fn where_what_was_before_can_not_be_written_down_nothing_is_changed() {
    for full in CARD {
        let fake = fake(Mode::On);
        let (before, state) = (fake.seen(), fake.state());
        std::fs::create_dir_all(&state).unwrap();
        // Every write to it fails as on a full disk.
        let draft = journal::taken(&state, full).with_extension("draft");
        std::os::unix::fs::symlink("/dev/full", draft).unwrap();
        let refused = attach(&fake.board(&state), &GPUS[..1], Mode::On).unwrap_err().to_string();
        assert!(refused.contains("No space left") && refused.contains("nothing is changed"), "{refused}");
        assert_eq!((fake.seen(), writes(&fake), journals(&state)), (before, 0, 0), "{full}");
    }
}

#[test]
fn a_kernel_without_device_files_is_named_and_everything_goes_back() {
    let fake = fake(Mode::On);
    let (before, state) = (fake.seen(), fake.state());
    fake.no_device_files();
    let refused = attach(&fake.board(&state), &GPUS[..1], Mode::On).unwrap_err().to_string();
    assert!(refused.contains("VFIO_DEVICE_CDEV"), "{refused}");
    assert_eq!(fake.seen(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_sysfs_says_nothing_panics_and_a_refusal_leaves_no_trace(
        name in prop::sample::select(vec![
            "vendor", "device", "class", "driver_override", "reset_method", "power/control", "resource0",
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let fake = fake(Mode::On);
        std::fs::write(fake.device(GPUS[0]).join(name), bytes).unwrap();
        let before = devices(&fake).unwrap_or_default();
        let state = fake.state();
        match attach(&fake.board(&state), &GPUS[..1], Mode::On) {
            Ok(_) => prop_assert!(name == "power/control" || name == "driver_override" || name == "reset_method" || name == "device" || name == "class"),
            Err(_) => prop_assert_eq!(devices(&fake).unwrap_or_default(), before),
        }
    }
}

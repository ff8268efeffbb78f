//! The disk form, as it is flashed: the firmware finds the kernel image in the EFI partition.

use e2e::{DEADLINE, Stage, boot, connect, evidence_of, now};

#[test]
fn a_flashed_disk_boots_as_foretold_and_is_accepted() {
    let stage = Stage::open().unwrap();
    let scratch = stage.scratch("disk").unwrap();
    let mut fragment = stage.fragment(&scratch);
    fragment.boot = Some("disk".into());
    let (settings, foretold) = stage.foretell(&fragment).unwrap();
    let trust = stage.trust("demo", foretold.reference(&settings.static_config)).unwrap();
    let guest = boot(&settings).unwrap();
    guest.wait_serving(DEADLINE).unwrap();
    let evidence = evidence_of(&guest.endpoint(), &trust, now()).unwrap();
    let log = measure::tcg::EventLog::parse(&evidence.event_log.bytes).unwrap();
    let differences = measure::compare(&foretold.prediction, &log);
    assert!(differences.is_empty(), "{differences:#?}");
    let (_runtime, client) = connect(&guest.endpoint(), &trust, now()).unwrap();
    assert!(client.appraised().verdict().accepted);
}

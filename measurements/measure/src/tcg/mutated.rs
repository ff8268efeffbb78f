//! Logs of our own making, whole and mutated: what is read is bounded by the input, and a changed digest shows.

use super::samples::{ccel, log_with, tpm};
use super::*;
use crate::wire::LogFormat;
use proptest::prelude::*;

fn sample(which: bool) -> Vec<u8> {
    if which { ccel() } else { tpm() }
}

/// Everything that is done with a log from elsewhere.
fn use_all(log: &EventLog<'_>, len: usize) {
    let mut end = 0;
    for event in &log.events {
        assert!(event.offset >= end && event.offset < len, "events overlap");
        end = event.offset + 16 + event.data.len();
        let _ = (describe(event).to_string(), serde_json::to_string(&decode(event)).unwrap());
        let _ = event.data_is_hashed();
    }
    assert!(end <= len);
    for bank in log.banks() {
        let _ = log.replay_all(bank);
    }
    let _ = (emulated_registers(log), log.ccel_rtmrs(), log.format());
}

#[test]
fn every_form_of_the_samples_is_taken_apart() {
    for bytes in [ccel(), tpm()] {
        let log = EventLog::parse(&bytes).unwrap();
        assert!(log.events.len() >= 11);
        for event in &log.events {
            assert!(!matches!(decode(event), Decoded::Raw { .. }), "{}", describe(event));
            assert_eq!(event.data_is_hashed(), Some(true));
        }
    }
}

#[test]
fn the_format_shows_in_the_content() {
    let format = |bytes: &[u8]| EventLog::parse(bytes).unwrap().format().0;
    assert_eq!((format(&ccel()), format(&tpm())), (LogFormat::Ccel, LogFormat::Tpm));
    // Only low PCRs, with the firmware's version or with more banks than a CCEL has.
    let sha384 = &[Bank::Sha384][..];
    assert_eq!(format(&log_with(sha384, &[(0, EV_S_CRTM_VERSION, b"v"), (4, 4, b"")])), LogFormat::Tpm);
    assert_eq!(format(&log_with(&[Bank::Sha256], &[(1, 4, b"")])), LogFormat::Tpm);
    let locality = (0, EV_NO_ACTION, &b"StartupLocality\0\x03"[..]);
    assert_eq!(format(&log_with(sha384, &[locality, (1, 4, b"")])), LogFormat::Tpm);
    assert_eq!(format(&log_with(sha384, &[(4, 4, b"")])), LogFormat::Ccel);
}

#[test]
fn each_bank_replays_by_its_own_digests() {
    for bank in Bank::ALL {
        let bytes = log_with(&[bank], &[(2, EV_EFI_ACTION, b"a"), (3, EV_EFI_ACTION, b"b")]);
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(log.banks(), [bank]);
        let all = log.replay_all(bank).unwrap();
        let expected = bank.hash([&vec![0; bank.size()], &bank.hash([b"b", &[]])]);
        assert_eq!((all.len(), &all[&3]), (2, &expected), "{bank:?}");
        for other in Bank::ALL.into_iter().filter(|other| *other != bank) {
            assert!(log.replay_all(other).is_err(), "{other:?}");
        }
    }
}

#[test]
fn an_unknown_algorithm_is_carried_by_its_declared_size() {
    let mut bytes = log_with(&[Bank::Sha384], &[(1, EV_SEPARATOR, &[0; 4])]);
    // Both the declaration and the digest say SHA3-384.
    let positions: Vec<usize> = (0..bytes.len() - 1).filter(|i| bytes[*i..*i + 2] == [0x0c, 0]).collect();
    for at in [60, positions.into_iter().find(|at| *at > 64).unwrap()] {
        bytes[at] = 0x28;
    }
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!((log.banks().len(), log.events[0].digests[0].0), (0, 0x28));
    assert_eq!(algorithm_name(0x28), "sha3_384");
    assert!(log.events[0].data_is_hashed().is_none());
}

#[test]
fn what_a_header_repeats_or_leaves_out_is_refused_with_its_offset() {
    let twice = log_with(&[Bank::Sha384, Bank::Sha384], &[]);
    let text = EventLog::parse(&twice).unwrap_err().to_string();
    assert!(text.contains("0x40") && text.contains("declared twice"), "{text}");
    let mut vendor = log_with(&[Bank::Sha384], &[]);
    *vendor.last_mut().unwrap() = 9;
    assert!(EventLog::parse(&vendor).unwrap_err().to_string().contains("vendor information"));
    let mut many = log_with(&[Bank::Sha384], &[]);
    many[56..60].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(EventLog::parse(&many).unwrap_err().to_string().contains("4294967295 digest algorithms"));
    let text = EventLog::parse(&[0; 64]).unwrap_err().to_string();
    assert!(text.contains("expected EV_NO_ACTION (3) with a Spec ID"), "{text}");
}

#[test]
fn two_digests_of_one_algorithm_are_refused() {
    let mut bytes = log_with(&[Bank::Sha384, Bank::Sha512], &[(1, EV_SEPARATOR, &[0; 4])]);
    let event = EventLog::parse(&bytes).unwrap().events[0].offset;
    let second = event + 12 + 2 + 48;
    bytes[second..second + 2].copy_from_slice(&Bank::Sha384.id().to_le_bytes());
    let text = EventLog::parse(&bytes).unwrap_err().to_string();
    assert!(text.contains("a second digest of algorithm 0x000c"), "{text}");
}

#[test]
fn garbage_behind_the_last_event_is_refused_at_its_offset() {
    for (filling, garbage) in [(0xff, 1), (0, 1), (0xff, 0)] {
        let mut bytes = ccel();
        let end = bytes.len();
        bytes.resize(end + 64, filling);
        assert!(EventLog::parse(&bytes).is_ok());
        bytes[end + 40] = garbage;
        let error = EventLog::parse(&bytes).err();
        // Zeros that end in garbage are events of nothing, up to where they stop being any.
        let text = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(text.starts_with("event log at offset 0x"), "{filling:#x}, {garbage}: `{text}`");
    }
}

proptest! {
    #[test]
    fn a_mutated_log_is_read_within_its_bounds_or_refused(
        which: bool,
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cut in any::<usize>(),
        fill in 0usize..40,
    ) {
        let mut bytes = sample(which);
        let len = bytes.len();
        for (at, value) in changes {
            bytes[at % len] = value;
        }
        let short = &bytes[..cut % len];
        let filled = [&bytes[..], &vec![0; fill]].concat();
        for bytes in [bytes.as_slice(), short, &filled] {
            if let Ok(log) = EventLog::parse(bytes) {
                use_all(&log, bytes.len());
            }
        }
    }

    #[test]
    fn a_log_with_bytes_put_in_or_taken_out_is_read_within_its_bounds_or_refused(
        which: bool,
        at in any::<usize>(),
        taken in 0usize..70,
        put in proptest::collection::vec(any::<u8>(), 0..70),
    ) {
        let mut bytes = sample(which);
        let at = at % bytes.len();
        let end = (at + taken).min(bytes.len());
        bytes.splice(at..end, put);
        if let Ok(log) = EventLog::parse(&bytes) {
            use_all(&log, bytes.len());
        }
    }

    #[test]
    fn a_changed_digest_changes_the_replay(which: bool, event in any::<usize>(), byte in 0usize..48, bit in 0u8..8) {
        let mut bytes = sample(which);
        let log = EventLog::parse(&bytes).unwrap();
        let before = log.replay_all(Bank::Sha384).unwrap();
        let event = &log.events[event % log.events.len()];
        let digest = event.digest(Bank::Sha384).unwrap();
        let at = digest.as_ptr() as usize - bytes.as_ptr() as usize + byte;
        bytes[at] ^= 1 << bit;
        let after = EventLog::parse(&bytes).unwrap().replay_all(Bank::Sha384).unwrap();
        prop_assert_ne!(before, after);
    }
}

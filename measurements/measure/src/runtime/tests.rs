//! The encoding against fixed vectors, and what a log refuses.

use super::*;
use proptest::prelude::*;

/// The vectors of docs/reference/runtime-events.md, made by another program.
const CONFIG: &[u8] = b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n";
const VECTORS: [(&str, &str); 4] = [
    (
        "000000116368727973616c69732f72746d72332f3100000001000000307bab631118606016a0716f974ac708510aa6f979b2ddf2e43f9f7988909678edf8b47b03ef86528d5b8f4f1a4337c31a",
        "13c3092cf2033113a355ead58ac1eb7c60557ee270fa50db296afc9a1a1bae90d32ee5f6e0045b0d155e98b1ca952e40",
    ),
    (
        "000000116368727973616c69732f72746d72332f3100000002000000016d00000020000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "d8174adddf3d0eabcf72e8c2e9ffbf3dd5ab7679218f2c566902210b7539c11f55e45042c8d0d7867ae27cb598f5f6ed",
    ),
    (
        "000000116368727973616c69732f72746d72332f31000000030000003038b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b00000000",
        "a56725cf22fd00cd6ce2d5861e764cc85f5709d6105be87b214e59557b637a72797cc4d667fbcf5a9031610403c2425b",
    ),
    (
        "000000116368727973616c69732f72746d72332f3100000004",
        "e02a0f3b18702e1ec676a0693e83045ea85e2854e9d36c0957a109e39cb4c8f44948812159d25169379c34c22af9addf",
    ),
];
const RECORD_SHA384: &str =
    "d3171dcd1dd9abc798d1acf05e04deaa4656783f479868e6658405c94107445a0427bea36a490e63cefabcf937dd5c46";

fn root() -> [u8; 32] {
    std::array::from_fn(|i| i as u8)
}

fn sealed() -> RuntimeLog<Sealed> {
    let (mut log, _) = RuntimeLog::begin(Digest384::of(CONFIG));
    log.model("m", root()).unwrap();
    log.gpu(GpuEvidence::none()).unwrap();
    log.seal().unwrap().0
}

fn record() -> RuntimeRecord {
    RuntimeRecord { extension: Extension::Extended, log: sealed() }
}

fn refused(events: &[RuntimeEvent]) -> RuntimeError {
    RuntimeRecord::from_bytes(&encode(Extension::Extended, events)).unwrap_err()
}

#[test]
fn events_and_folds_are_those_of_the_specification() {
    let log = sealed();
    for (n, (event, (bytes, rtmr3))) in log.events().iter().zip(VECTORS).enumerate() {
        assert_eq!(hex::encode(event.to_bytes()), bytes);
        assert_eq!(fold(&log.events()[..=n]).to_string(), rtmr3);
    }
    assert_eq!(log.rtmr3().to_string(), VECTORS[3].1);
    let bytes = record().to_bytes();
    assert_eq!((bytes.len(), Digest384::of(&bytes).to_string().as_str()), (281, RECORD_SHA384));
}

#[test]
fn the_digests_to_extend_are_those_that_the_log_folds() {
    let mut register = Digest384::ZERO;
    let (mut log, first) = RuntimeLog::begin(Digest384::of(CONFIG));
    register.extend(&first);
    register.extend(&log.model("m", root()).unwrap());
    register.extend(&log.gpu(GpuEvidence::none()).unwrap());
    let (log, last) = log.seal().unwrap();
    register.extend(&last);
    assert_eq!(register, log.rtmr3());
}

#[test]
fn an_accepted_gpu_survives_the_wire() {
    let digest = Digest384::of(b"verdict");
    let gpu = GpuEvidence { policy: Digest384::of(b"policy"), verdict: GpuVerdict::Accepted(digest) };
    let (mut log, _) = RuntimeLog::begin(Digest384::ZERO);
    log.gpu(gpu).unwrap();
    let record = RuntimeRecord { extension: Extension::NotExtended, log: log.seal().unwrap().0 };
    assert_eq!(RuntimeRecord::from_bytes(&record.to_bytes()).unwrap(), record);
    assert_eq!(
        RuntimeEvent::Gpu(gpu).digest().to_string(),
        "ad676ada410a5145eced509c4e8c61ee3a171f9cc65624c97d9674929f724c918248e026091e305b0e38eb0195909c75"
    );
}

#[test]
fn a_log_without_its_gpu_event_can_not_be_sealed() {
    let (log, _) = RuntimeLog::begin(Digest384::ZERO);
    let error = log.seal().unwrap_err();
    assert_eq!(error, RuntimeError::Order { index: 1, found: Kind::Sealed, expected: "model or gpu".into() });
}

#[test]
fn dropped_moved_and_repeated_events_are_refused_by_place_and_name() {
    let events = sealed().events().to_vec();
    for dropped in [0, 2] {
        let mut fewer = events.clone();
        fewer.remove(dropped);
        assert!(matches!(refused(&fewer), RuntimeError::Order { index, .. } if index == dropped));
    }
    // A GPU event may stand right after the configuration: there the model after it is the one out of place.
    for (a, noticed) in [(0, 0), (1, 2), (2, 2)] {
        let mut moved = events.clone();
        moved.swap(a, a + 1);
        assert!(matches!(refused(&moved), RuntimeError::Order { index, .. } if index == noticed));
    }
    for (repeated, at) in [(0, 1), (2, 3)] {
        let mut more = events.clone();
        more.insert(at, events[repeated].clone());
        assert!(matches!(refused(&more), RuntimeError::Order { index, .. } if index == at));
    }
    let mut twice = events.clone();
    twice.insert(2, RuntimeEvent::Model { name: "m".into(), root: [9; 32] });
    assert_eq!(refused(&twice), RuntimeError::Duplicate { index: 2, name: "m".into() });
}

#[test]
fn an_unsealed_log_and_one_that_goes_on_after_the_seal_are_refused() {
    let events = sealed().events().to_vec();
    assert_eq!(refused(&events[..3]), RuntimeError::Unsealed { events: 3 });
    assert_eq!(refused(&[]), RuntimeError::Unsealed { events: 0 });
    for late in events.clone() {
        let found = Kind::of(&late);
        let more = [events.clone(), vec![late]].concat();
        assert_eq!(refused(&more), RuntimeError::AfterSeal { index: 4, found });
    }
}

#[test]
fn names_that_no_configuration_has_are_refused() {
    for name in ["", "a b", "a/b", "a\u{e9}", &"x".repeat(65)] {
        let (mut log, _) = RuntimeLog::begin(Digest384::ZERO);
        assert!(log.model(name, root()).is_err(), "accepted {name:?}");
        let mut events = sealed().events().to_vec();
        events[1] = RuntimeEvent::Model { name: name.into(), root: root() };
        assert!(RuntimeRecord::from_bytes(&encode(Extension::Extended, &events)).is_err(), "read {name:?}");
    }
}

#[test]
fn more_models_than_fit_are_refused_and_the_most_fit_the_bound() {
    let (mut log, _) = RuntimeLog::begin(Digest384::ZERO);
    for n in 0..MAX_MODELS {
        log.model(&format!("{n:064}"), root()).unwrap();
    }
    assert_eq!(log.model("one-more", root()), Err(RuntimeError::TooManyModels));
    log.gpu(GpuEvidence::none()).unwrap();
    let record = RuntimeRecord { extension: Extension::Extended, log: log.seal().unwrap().0 };
    let bytes = record.to_bytes();
    assert!(bytes.len() <= MAX_RECORD, "{}", bytes.len());
    assert_eq!(RuntimeRecord::from_bytes(&bytes).unwrap(), record);
}

#[test]
fn a_record_cut_anywhere_or_with_a_byte_more_is_refused() {
    let bytes = record().to_bytes();
    for end in 0..bytes.len() {
        assert!(RuntimeRecord::from_bytes(&bytes[..end]).is_err(), "accepted {end} of {}", bytes.len());
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(
        RuntimeRecord::from_bytes(&longer),
        Err(RuntimeError::Codec(CodecError::Trailing { extra: 1, .. }))
    ));
}

#[test]
fn a_gigantic_count_is_refused() {
    let mut bytes = record().to_bytes();
    bytes[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let text = RuntimeRecord::from_bytes(&bytes).unwrap_err().to_string();
    assert!(text.contains("number of events at byte 12") && text.contains("at most 259"), "{text}");
}

fn any_event() -> impl Strategy<Value = RuntimeEvent> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|b| RuntimeEvent::StaticConfig { sha384: Digest384::of(&b) }),
        ("[a-z]{0,3}", any::<[u8; 32]>()).prop_map(|(name, root)| RuntimeEvent::Model { name, root }),
        Just(RuntimeEvent::Gpu(GpuEvidence::none())),
        Just(RuntimeEvent::Sealed),
    ]
}

proptest! {
    #[test]
    fn what_is_read_is_sealed_ordered_and_encodes_to_the_same_bytes(
        events in proptest::collection::vec(any_event(), 0..6),
    ) {
        let bytes = encode(Extension::Extended, &events);
        if let Ok(record) = RuntimeRecord::from_bytes(&bytes) {
            prop_assert_eq!(record.to_bytes(), bytes);
            let kinds: Vec<Kind> = record.log.events().iter().map(Kind::of).collect();
            prop_assert!(kinds.is_sorted());
            prop_assert_eq!(kinds.iter().filter(|k| **k == Kind::Sealed).count(), 1);
            prop_assert_eq!(kinds.last(), Some(&Kind::Sealed));
        }
    }

    #[test]
    fn a_mutated_record_never_panics_and_never_keeps_its_fold(at in 0usize..281, bit in 0u8..8) {
        let mut bytes = record().to_bytes();
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = RuntimeRecord::from_bytes(&bytes) {
            prop_assert!(changed.log.rtmr3() != sealed().rtmr3() || changed.extension != Extension::Extended);
            prop_assert_eq!(changed.to_bytes(), bytes);
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = RuntimeRecord::from_bytes(&bytes);
        let _ = RuntimeRecord::from_bytes(&[RECORD_MAGIC.as_slice(), &[0, 0, 0, 1], &bytes].concat());
    }
}

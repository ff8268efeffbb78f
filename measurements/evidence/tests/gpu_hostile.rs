//! Hostile GPU evidence is refused with a reason; nothing panics.

use evidence::gpu::{
    DeviceEvidence, DeviceKind, OcspResponse, Opaque, Report, Rim, read_chain, read_report, read_rim,
    verify_gpus,
};
use proptest::prelude::*;
use simulator::gpu::{GpuCase, GpuMachine};
use std::sync::LazyLock;

static CASE: LazyLock<GpuCase> = LazyLock::new(|| GpuMachine::Hopper(1).case().unwrap());

fn accepted(change: impl FnOnce(&mut GpuCase)) -> bool {
    let mut case = CASE.clone();
    change(&mut case);
    let verdict = verify_gpus(&case.inputs(&case.policy().unwrap()));
    // Showing a verdict over hostile bytes must not fail either.
    let _ = (verdict.to_string(), serde_json::to_string(&verdict).unwrap());
    verdict.accepted
}

/// The bytes with some of them replaced, cut, or added.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    let flips = proptest::collection::vec((0..len, 1..=255u8), 1..4);
    (flips, 0..=len, 0..3usize).prop_map(move |(flips, cut, how)| {
        let mut bytes = good.clone();
        match how {
            0 => bytes.truncate(cut),
            1 => bytes.insert(cut, 0x30),
            _ => flips.iter().for_each(|(at, bits)| bytes[*at] ^= bits),
        }
        bytes
    })
}

#[test]
fn a_report_cut_anywhere_is_refused_where_it_ends() {
    let report = &CASE.devices[0].report;
    assert!(Report::parse(report, DeviceKind::Gpu).is_ok());
    for end in 0..report.len() {
        let error = Report::parse(&report[..end], DeviceKind::Gpu).unwrap_err().to_string();
        assert!(error.contains("at offset"), "{end}: {error}");
    }
}

#[test]
fn a_lying_record_length_names_the_field() {
    let mut report = CASE.devices[0].report.clone();
    report[42..45].copy_from_slice(&[0xff; 3]);
    let error = Report::parse(&report, DeviceKind::Gpu).unwrap_err().to_string();
    assert!(error.contains("measurement record at offset 45: expected 16777215 bytes"), "{error}");
}

#[test]
fn a_report_larger_than_any_is_refused_before_it_is_read() {
    let error = Report::parse(&vec![0x11; 64 * 1024 + 1], DeviceKind::Gpu).unwrap_err().to_string();
    assert!(error.contains("at most 65536 bytes, found 65537"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for kind in [DeviceKind::Gpu, DeviceKind::Switch] {
            let _ = (Report::parse(&bytes, kind), Opaque::parse(&bytes, 0, kind));
        }
        let _ = (Rim::parse(&bytes), OcspResponse::parse(&bytes), read_rim(&bytes));
        let _ = (read_chain(&bytes), read_report(&bytes), DeviceEvidence::read_envelope(&bytes));
    }

    #[test]
    fn any_markup_is_read_without_a_panic(text in "(<[a-z:]{0,4}( [a-z:]{1,5}=\"[a-z&<]{0,3}\"){0,3}/?>|</[a-z]{1,2}>|&[a-z#;]{0,4}|<!\\[CDATA\\[|x){0,40}") {
        prop_assert!(Rim::parse(text.as_bytes()).is_err());
    }

    #[test]
    fn a_damaged_report_is_refused(bytes in damaged(CASE.devices[0].report.clone())) {
        prop_assume!(bytes != CASE.devices[0].report);
        let taken = accepted(|case| {
            case.devices[0].report = bytes;
            let _ = case.devices[0].check();
        });
        prop_assert!(!taken);
    }

    #[test]
    fn a_damaged_certificate_is_refused(bytes in damaged(CASE.devices[0].chain[1].clone())) {
        prop_assume!(bytes != CASE.devices[0].chain[1]);
        let taken = accepted(|case| {
            case.devices[0].chain[1] = bytes;
            let _ = case.devices[0].check();
        });
        prop_assert!(!taken);
    }

    #[test]
    fn a_damaged_ocsp_response_is_refused(bytes in damaged(CASE.ocsp[1].clone())) {
        prop_assume!(bytes != CASE.ocsp[1]);
        prop_assert!(!accepted(|case| case.ocsp[1] = bytes));
    }

    /// White space between certificates and the like is not signed; whatever is accepted must say the same.
    #[test]
    fn a_damaged_manifest_is_refused_or_says_the_same(bytes in damaged(CASE.vbios_rims[0].clone())) {
        if accepted(|case| case.vbios_rims[0] = bytes.clone()) {
            let (now, before) = (Rim::parse(&bytes).unwrap(), Rim::parse(&CASE.vbios_rims[0]).unwrap());
            prop_assert_eq!(now.golden, before.golden);
            prop_assert_eq!((now.version, now.product), (before.version, before.product));
        }
    }
}

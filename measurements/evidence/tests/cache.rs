//! A warm cache gives the verdict of a cold one, in every word, and never outlives what it rests on.

use evidence::{Cache, CacheStats, Collateral, Inputs, Policy, PolicyFile, Verdict, verify};
use measure::wire::{EventLog, Evidence, LogFormat};
use proptest::prelude::*;
use simulator::fault::{AT, Case, Fault};
use std::sync::LazyLock;

const DAY: u64 = 24 * 60 * 60;
static CASE: LazyLock<Case> = LazyLock::new(|| Fault::None.case().unwrap());

fn both(cache: &Cache, case: &Case, policy: &Policy, at: u64) -> (Verdict, Verdict) {
    with(cache, case, &case.evidence.quote, &case.collateral, policy, at)
}

fn with(
    cache: &Cache,
    case: &Case,
    quote: &[u8],
    collateral: &Collateral,
    policy: &Policy,
    at: u64,
) -> (Verdict, Verdict) {
    let inputs = Inputs {
        quote,
        collateral,
        policy,
        event_log: Some(&case.evidence.event_log),
        static_config: Some(&case.evidence.static_config),
        runtime: Some(&case.evidence.runtime),
        reference: Some(&case.reference),
        report_data: Some(&case.report_data),
        at,
    };
    (cache.verify(&inputs), verify(&inputs))
}

/// One quote of the same platform over other report data.
fn another(case: &Case) -> Vec<u8> {
    case.requote(|td| td.report_data.0[0] ^= 1)
}

#[test]
fn a_known_platform_costs_two_checks_and_a_repeated_qe_report_one() {
    let cache = Cache::default();
    let policy = Policy::simulated(&CASE.root_der).unwrap();
    for _ in 0..3 {
        let (warm, cold) = both(&cache, &CASE, &policy, AT);
        assert!(warm.accepted && warm == cold, "{warm}");
    }
    let CacheStats { repeated, known, missed, entries, .. } = cache.stats();
    assert_eq!((repeated, known, missed, entries), (2, 0, 1, 1));
    // The same platform after a restart of its quoting enclave's service: another attestation key.
    let quote = CASE.requote_with_new_key().unwrap();
    let (warm, cold) = with(&cache, &CASE, &quote, &CASE.collateral, &policy, AT);
    assert!(warm.accepted && warm == cold, "{warm}");
    let CacheStats { repeated, known, missed, .. } = cache.stats();
    assert_eq!((repeated, known, missed), (2, 1, 1));
}

#[test]
fn every_fault_gives_the_same_verdict_on_a_warm_cache() {
    for fault in Fault::all().chain(Fault::harmless()) {
        let (good, bad) = fault.pair().unwrap();
        let cache = Cache::default();
        let policy = Policy::simulated(&bad.root_der).unwrap();
        let own = Policy::simulated(&good.root_der).unwrap();
        for (case, policy) in [(&good, &own), (&good, &own), (&bad, &policy), (&bad, &policy), (&good, &own)]
        {
            let (warm, cold) = both(&cache, case, policy, AT);
            assert_eq!(warm, cold, "{fault:?}");
        }
    }
}

#[test]
fn another_policy_on_a_known_platform_is_judged_by_itself() {
    let case = Fault::Pks.case().unwrap();
    let cache = Cache::default();
    let text = "schema = 1\nplatform = \"simulated\"\nroot = \"r\"\n[td]\nallow-attributes = [\"pks\"]\n";
    let lenient = PolicyFile::parse(text).unwrap().resolve(Some(&case.root_der)).unwrap();
    let strict = Policy::simulated(&case.root_der).unwrap();
    for (policy, accepted) in [(&lenient, true), (&strict, false), (&lenient, true)] {
        let (warm, cold) = both(&cache, &case, policy, AT);
        assert_eq!((warm.accepted, &warm), (accepted, &cold));
    }
    assert_eq!(cache.stats().missed, 1);
}

#[test]
fn nothing_is_answered_from_the_cache_outside_of_its_window() {
    let cache = Cache::default();
    let policy = Policy::simulated(&CASE.root_der).unwrap();
    let until = CASE.collateral.expires().unwrap();
    for (at, accepted) in [(AT, true), (until - 1, true), (until, false), (AT - 2 * DAY, false), (AT, true)] {
        let (warm, cold) = both(&cache, &CASE, &policy, at);
        assert_eq!((warm.accepted, &warm), (accepted, &cold), "{at}");
    }
    assert_eq!(cache.stats().repeated, 2);
}

#[test]
fn a_cache_keeps_to_its_bounds() {
    let cases: Vec<Case> = (0..4).map(|_| Fault::None.case().unwrap()).collect();
    let one = {
        let cache = Cache::default();
        both(&cache, &cases[0], &Policy::simulated(&cases[0].root_der).unwrap(), AT);
        cache.stats().bytes
    };
    for (cache, most) in
        [(Cache::new(2, usize::MAX), 2), (Cache::new(9, 3 * one + one / 2), 3), (Cache::new(0, 0), 0)]
    {
        for case in &cases {
            let (warm, _) = both(&cache, case, &Policy::simulated(&case.root_der).unwrap(), AT);
            assert!(warm.accepted);
        }
        assert_eq!(cache.stats().entries, most);
    }
}

#[test]
fn the_least_recently_used_platform_goes_first() {
    let cases: Vec<Case> = (0..3).map(|_| Fault::None.case().unwrap()).collect();
    let cache = Cache::new(2, usize::MAX);
    for at in [0, 1, 0, 2, 0] {
        both(&cache, &cases[at], &Policy::simulated(&cases[at].root_der).unwrap(), AT);
    }
    // The first one was used in between: it stayed, and the second went.
    assert_eq!((cache.stats().repeated, cache.stats().missed), (2, 3));
}

/// Judged with another log than the case's own.
fn with_log(cache: &Cache, log: &EventLog, policy: &Policy) -> (Verdict, Verdict) {
    let evidence = Evidence { event_log: log.clone(), ..CASE.evidence.clone() };
    let inputs = Inputs {
        quote: &evidence.quote,
        collateral: &CASE.collateral,
        policy,
        event_log: Some(&evidence.event_log),
        static_config: Some(&evidence.static_config),
        runtime: Some(&evidence.runtime),
        reference: Some(&CASE.reference),
        report_data: Some(&CASE.report_data),
        at: AT,
    };
    (cache.verify(&inputs), verify(&inputs))
}

#[test]
fn a_log_is_kept_only_if_it_explained_a_genuine_quote_and_known_only_by_its_very_bytes() {
    let policy = Policy::simulated(&CASE.root_der).unwrap();
    let mut forged = CASE.evidence.quote.clone();
    let last = CASE.evidence.quote.len() / 2;
    forged[last] ^= 1;
    let cache = Cache::default();
    with(&cache, &CASE, &forged, &CASE.collateral, &policy, AT);
    assert_eq!((cache.stats().known_logs, cache.stats().logs), (0, 0));
    for known in 0..3 {
        let (warm, cold) = both(&cache, &CASE, &policy, AT);
        assert!(warm.accepted && warm == cold, "{warm}");
        assert_eq!((cache.stats().known_logs, cache.stats().logs), (known, 1));
    }
    // The same events in another format, longer, and none.
    let own = &CASE.evidence.event_log;
    let other = match own.format {
        LogFormat::Ccel => LogFormat::Tpm,
        LogFormat::Tpm => LogFormat::Ccel,
    };
    for log in [
        EventLog { format: other, ..own.clone() },
        EventLog { bytes: [&own.bytes[..], b"x"].concat(), ..own.clone() },
        EventLog { bytes: vec![], ..own.clone() },
    ] {
        let (warm, cold) = with_log(&cache, &log, &policy);
        assert_eq!(warm, cold);
        assert_eq!((cache.stats().known_logs, cache.stats().logs), (2, 1));
    }
    // A quote of other registers is held against what the known log comes to.
    let quote = CASE.requote(|td| td.rtmr1.0[0] ^= 1);
    let (warm, cold) = with(&cache, &CASE, &quote, &CASE.collateral, &policy, AT);
    assert!(!warm.accepted && warm == cold, "{warm}");
    assert_eq!(cache.stats().known_logs, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_gives_the_same_verdict_on_a_warm_cache(at: prop::sample::Index, change in 1u8.., fresh: bool) {
        static CACHE: LazyLock<Cache> = LazyLock::new(Cache::default);
        let policy = Policy::simulated(&CASE.root_der).unwrap();
        both(&CACHE, &CASE, &policy, AT);
        let mut quote = if fresh { another(&CASE) } else { CASE.evidence.quote.clone() };
        let at = at.index(quote.len());
        quote[at] ^= change;
        let (warm, cold) = with(&CACHE, &CASE, &quote, &CASE.collateral, &policy, AT);
        prop_assert_eq!(warm, cold, "byte {}", at);
    }

    #[test]
    fn a_log_with_a_changed_byte_gives_the_same_verdict_on_a_warm_cache(at: prop::sample::Index, change in 1u8..) {
        static CACHE: LazyLock<Cache> = LazyLock::new(Cache::default);
        let policy = Policy::simulated(&CASE.root_der).unwrap();
        both(&CACHE, &CASE, &policy, AT);
        let mut log = CASE.evidence.event_log.clone();
        let at = at.index(log.bytes.len());
        log.bytes[at] ^= change;
        let (warm, cold) = with_log(&CACHE, &log, &policy);
        prop_assert_eq!(warm, cold, "byte {}", at);
    }
}

//! Hostile bytes are refused with a reason; nothing panics.

use evidence::{Collateral, Inputs, Policy, PolicyFile, Quote, QuoteError, Reference, verify};
use measure::wire::{EventLog, LogFormat, MAX_QUOTE};
use proptest::prelude::*;
use simulator::fault::{Case, Fault};
use std::sync::LazyLock;

static CASE: LazyLock<Case> = LazyLock::new(|| Fault::None.case().unwrap());

#[test]
fn a_quote_cut_anywhere_is_refused() {
    let quote = &CASE.evidence.quote;
    for end in 0..quote.len() {
        assert!(Quote::parse(&quote[..end]).is_err(), "accepted {end} of {} bytes", quote.len());
    }
}

#[test]
fn a_quote_larger_than_any_is_refused_before_it_is_read() {
    let bytes = vec![0; MAX_QUOTE + 1];
    assert!(matches!(Quote::parse(&bytes), Err(QuoteError::TooLong { .. })));
}

#[test]
fn a_lying_length_names_the_field() {
    let mut quote = CASE.evidence.quote.clone();
    quote[632..636].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = Quote::parse(&quote).unwrap_err();
    assert!(matches!(error, QuoteError::Truncated { what: "signature data", offset: 636, .. }), "{error}");
}

#[test]
fn an_sgx_quote_is_refused_by_its_tee_type() {
    let mut quote = CASE.evidence.quote.clone();
    quote[4] = 0;
    assert!(Quote::parse(&quote).unwrap_err().to_string().contains("expected 129 (TDX), found 0"));
}

fn verdict_of(quote: &[u8], collateral: &Collateral, log: &EventLog) -> bool {
    let policy = Policy::simulated(&CASE.root_der).unwrap();
    let verdict = verify(&Inputs {
        quote,
        collateral,
        policy: &policy,
        event_log: Some(log),
        static_config: Some(&CASE.evidence.static_config),
        runtime: Some(&CASE.evidence.runtime),
        reference: Some(&CASE.reference),
        report_data: Some(&CASE.report_data),
        at: CASE.at,
    });
    // Showing a verdict over hostile bytes must not fail either.
    let _ = (verdict.to_string(), serde_json::to_string(&verdict).unwrap());
    verdict.accepted
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn random_bytes_are_no_quote(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Quote::parse(&bytes).is_err());
    }

    #[test]
    fn random_bytes_after_a_good_header_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), five: bool) {
        let mut quote = CASE.evidence.quote[..48].to_vec();
        quote[0] = if five { 5 } else { 4 };
        quote.extend(bytes);
        let _ = Quote::parse(&quote);
    }

    #[test]
    fn random_text_is_no_policy_collateral_or_reference(text in ".{0,300}") {
        prop_assert!(PolicyFile::parse(&text).is_err());
        prop_assert!(Collateral::parse(text.as_bytes()).is_err());
        prop_assert!(Reference::parse(text.as_bytes()).is_err());
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_quote_with_one_changed_byte_is_never_accepted(at: prop::sample::Index, change in 1u8..) {
        let mut quote = CASE.evidence.quote.clone();
        let at = at.index(quote.len());
        quote[at] ^= change;
        // Not signed: the text around the certificates, and the copy of the root, which is taken from the policy. Where
        // only those change, the certificates that count are still the same ones.
        let same = Quote::parse(&quote).is_ok_and(|changed| {
            let (good, chain) = (Quote::parse(&CASE.evidence.quote).unwrap(), changed.signature.pck_chain.clone());
            let mut rest = changed;
            rest.signature.pck_chain = good.signature.pck_chain.clone();
            rest == good && certificates(&chain) == certificates(&good.signature.pck_chain)
        });
        if !same {
            prop_assert!(!verdict_of(&quote, &CASE.collateral, &CASE.evidence.event_log), "byte {at}");
        }
    }

    #[test]
    fn changed_collateral_never_panics(at: prop::sample::Index, change in 1u8..) {
        let mut json = CASE.collateral.to_json().into_bytes();
        let at = at.index(json.len());
        json[at] ^= change;
        if let Ok(collateral) = Collateral::parse(&json) {
            verdict_of(&CASE.evidence.quote, &collateral, &CASE.evidence.event_log);
        }
    }

    #[test]
    fn a_log_of_random_bytes_explains_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let log = EventLog { format: LogFormat::Tpm, bytes };
        prop_assert!(!verdict_of(&CASE.evidence.quote, &CASE.collateral, &log));
    }
}

/// The PCK certificate and its issuer in base64, without white space. What stands around PEM blocks is not read
/// (RFC 7468, section 2), and what follows these two is a copy of the root, or of nothing.
fn certificates(pem: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(pem);
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = blocks.filter_map(|block| block.split_once("-----END CERTIFICATE-----"));
    bodies.take(2).map(|(body, _)| body.split_ascii_whitespace().collect()).collect()
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

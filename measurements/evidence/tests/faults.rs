//! Each defect fails exactly the check that it should, and says what was expected and what was found.

use evidence::{
    CheckName, Inputs, Platform, Policy, PolicyError, PolicyFile, Status, Verdict, appraise, verify,
};
use simulator::fault::{Case, Fault};

fn policy(case: &Case) -> Policy {
    Policy::simulated(&case.root_der).unwrap()
}

fn verdict(case: &Case) -> Verdict {
    let result = appraise(
        &case.evidence,
        &case.collateral,
        &policy(case),
        &case.reference,
        &case.report_data,
        case.at,
    );
    match result {
        Ok(appraised) => appraised.verdict().clone(),
        Err(refused) => refused.verdict().clone(),
    }
}

#[test]
fn evidence_without_a_fault_is_appraised() {
    let case = Fault::None.case().unwrap();
    let found = appraise(
        &case.evidence,
        &case.collateral,
        &policy(&case),
        &case.reference,
        &case.report_data,
        case.at,
    );
    let appraised = found.unwrap_or_else(|refused| panic!("{}", refused.verdict()));
    let verdict = appraised.verdict();
    println!("{verdict}");
    assert!(verdict.accepted && verdict.complete);
    assert_eq!(verdict.tcb_status.as_deref(), Some("UpToDate"));
    assert_eq!(verdict.release.as_deref(), Some("simulated release"));
    assert!(appraised.expires().unwrap() > case.at);
}

#[test]
fn each_fault_fails_exactly_the_check_that_it_should() {
    for fault in Fault::all() {
        let case = fault.case().unwrap();
        let verdict = verdict(&case);
        let failed: Vec<CheckName> = verdict.failed().map(|check| check.name).collect();
        assert_eq!(failed, fault.expected(), "{fault:?}\n{verdict}");
        assert!(!verdict.accepted, "{fault:?} was accepted");
        let check = verdict.failed().next().unwrap();
        let told = [check.expected.as_str(), &check.actual, &check.source].map(|text| !text.is_empty());
        assert_eq!(told, [true; 3], "{fault:?}: {check:?}");
    }
}

#[test]
fn a_release_that_leaves_rtmr3_alone_takes_zeros_and_a_log_that_says_so() {
    let mut case = Fault::RuntimeNotExtended.case().unwrap();
    case.reference.releases[0].rtmr3 = None;
    let accepted = verdict(&case);
    assert!(accepted.accepted && accepted.complete, "{accepted}");
    let check = accepted.check(CheckName::RuntimeEvents).unwrap();
    assert!(check.actual.starts_with("not extended: static-config "), "{check:?}");
    // The same release, and a guest that used the register all the same.
    let mut case = Fault::None.case().unwrap();
    case.reference.releases[0].rtmr3 = None;
    let verdict = verdict(&case);
    let failed: Vec<CheckName> = verdict.failed().map(|check| check.name).collect();
    assert_eq!(failed, [CheckName::Registers, CheckName::RuntimeEvents], "{verdict}");
}

#[test]
fn a_runtime_log_that_does_not_replay_is_refused_with_both_values() {
    let case = Fault::RuntimeEventDropped.case().unwrap();
    let verdict = verdict(&case);
    let check = verdict.check(CheckName::RuntimeEvents).unwrap();
    let quoted = verdict.registers.unwrap().rtmr[3].to_string();
    assert!(check.actual.contains(&format!("quoted {quoted}")), "{check:?}");
    assert!(check.actual.contains("model two") && !check.actual.contains("model one"), "{check:?}");
}

#[test]
fn harmless_shapes_of_evidence_are_appraised() {
    for fault in Fault::harmless() {
        let verdict = verdict(&fault.case().unwrap());
        assert!(verdict.accepted && verdict.complete, "{fault:?}\n{verdict}");
    }
}

#[test]
fn a_refusal_says_expected_found_and_what_to_do() {
    let case = Fault::DebugBit.case().unwrap();
    let refused = appraise(
        &case.evidence,
        &case.collateral,
        &policy(&case),
        &case.reference,
        &case.report_data,
        case.at,
    );
    let text = refused.unwrap_err().to_string();
    for part in ["SIMULATED", "debug: expected DEBUG and profiling off", "found DEBUG is on", "next: "] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_simulated_quote_passes_the_same_library_as_a_real_one() {
    let case = Fault::None.case().unwrap();
    let fields = serde_json::from_str(&case.collateral.to_json()).unwrap();
    let verifier = dcap_qvl::verify::QuoteVerifier::new(case.root_der.clone());
    let report = verifier.verify(&case.evidence.quote, &fields, case.at).unwrap();
    assert_eq!(report.status, "UpToDate");
    assert!(
        dcap_qvl::verify::QuoteVerifier::new_prod().verify(&case.evidence.quote, &fields, case.at).is_err()
    );
}

#[test]
fn the_production_policy_refuses_simulated_evidence_by_its_root() {
    let case = Fault::None.case().unwrap();
    let policy = Policy::production();
    let found =
        appraise(&case.evidence, &case.collateral, &policy, &case.reference, &case.report_data, case.at);
    let verdict = found.unwrap_err().verdict().clone();
    assert_eq!(verdict.platform, Platform::Tdx);
    let failed: Vec<CheckName> = verdict.failed().map(|check| check.name).collect();
    // A TPM's log is no evidence on hardware either.
    assert_eq!(failed, [CheckName::TrustRoot, CheckName::EventLog], "{verdict}");
    let root = verdict.check(CheckName::TrustRoot).unwrap();
    assert!(root.expected.contains("Intel's root") && root.actual.contains("SIMULATED"), "{root:?}");
    assert_eq!(verdict.check(CheckName::QuoteSignature).unwrap().status, Status::Skipped);
}

#[test]
fn a_simulated_policy_takes_only_a_root_that_says_so() {
    let case = Fault::None.case().unwrap();
    let file = PolicyFile::parse("schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n").unwrap();
    assert_eq!(file.clone().resolve(Some(&case.root_der)).unwrap().platform(), Platform::Simulated);
    // The same certificate with another name: its signature no longer holds, but a trust root's is never looked at.
    let mut unmarked = case.root_der.clone();
    while let Some(at) = unmarked.windows(9).position(|window| window == b"SIMULATED") {
        unmarked[at..at + 9].copy_from_slice(b"Any Corp.");
    }
    let error = file.clone().resolve(Some(&unmarked)).unwrap_err();
    assert!(matches!(error, PolicyError::NotSimulated { .. }), "{error}");
    assert!(matches!(file.resolve(Some(b"not DER")), Err(PolicyError::BadRoot(_))));
}

#[test]
fn what_was_not_given_is_listed_as_skipped_and_is_never_an_appraisal() {
    let case = Fault::None.case().unwrap();
    let verdict = verify(&Inputs {
        quote: &case.evidence.quote,
        collateral: &case.collateral,
        policy: &policy(&case),
        event_log: None,
        static_config: None,
        runtime: None,
        reference: None,
        report_data: None,
        at: case.at,
    });
    assert!(verdict.accepted && !verdict.complete, "{verdict}");
    assert_eq!(verdict.skipped().count(), 5);
    assert!(verdict.skipped().all(|check| check.actual.contains("given")));
    assert!(verdict.to_string().starts_with("INCOMPLETE: SIMULATED"));
}

#[test]
fn a_verdict_in_json_has_the_promised_fields() {
    let json = serde_json::to_value(verdict(&Fault::LowTcb.case().unwrap())).unwrap();
    assert_eq!(json["accepted"], false);
    assert_eq!(json["complete"], true);
    assert_eq!(json["platform"], "simulated");
    assert_eq!(json["tcb_status"], "OutOfDate");
    assert_eq!(json["registers"]["mrtd"], json["td"]["mrtd"]);
    assert_eq!(json["tcb"]["platform"]["behind"], 1);
    let tcb = json["checks"].as_array().unwrap().iter().find(|check| check["name"] == "tcb").unwrap();
    assert_eq!(tcb["status"], "fail");
    assert!(tcb["expires"].as_u64().unwrap() > 0);
}

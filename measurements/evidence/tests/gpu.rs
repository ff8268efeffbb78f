//! Each defect of GPU evidence fails exactly the check that it should; a machine is accepted whole or not at all.

use evidence::gpu::{
    DeviceEvidence, GpuCheckName, GpuCollateral, GpuPlatform, GpuPolicy, GpuPolicyError, GpuSettings,
    GpuVerdict, Mode, NOT_VALIDATED, OcspRequest, appraise_gpus, ocsp_requests, verify_gpus,
};
use evidence::{Name, Status};
use simulator::gpu::{GpuCase, GpuFault, GpuMachine};

fn verdict(case: &GpuCase) -> GpuVerdict {
    verify_gpus(&case.inputs(&case.policy().unwrap()))
}

fn failed(verdict: &GpuVerdict) -> Vec<GpuCheckName> {
    verdict.failed().map(|entry| entry.check.name).collect()
}

#[test]
fn gpus_without_a_fault_are_appraised() {
    for machine in
        [GpuMachine::Hopper(1), GpuMachine::Hopper(4), GpuMachine::ProtectedPcie(3), GpuMachine::Blackwell(2)]
    {
        let case = machine.case().unwrap();
        let appraised = appraise_gpus(&case.inputs(&case.policy().unwrap()));
        let appraised = appraised.unwrap_or_else(|refused| panic!("{machine:?}\n{}", refused.verdict()));
        let verdict = appraised.verdict();
        println!("{verdict}");
        assert!(verdict.accepted && verdict.complete);
        assert_eq!(verdict.platform, GpuPlatform::Simulated);
        assert!(appraised.expires().unwrap() > case.at);
    }
}

#[test]
fn each_fault_fails_exactly_the_check_that_it_should() {
    for fault in GpuFault::ALL {
        let case = fault.case().unwrap();
        let refused = appraise_gpus(&case.inputs(&case.policy().unwrap())).expect_err("a fault is refused");
        let verdict = refused.verdict();
        let mut names = failed(verdict);
        // A manifest is used by every device, and so is its fault.
        names.dedup();
        assert_eq!(names, Vec::from_iter(fault.expected()), "{fault:?}\n{verdict}");
        assert!(!verdict.accepted, "{fault:?} was accepted");
        for entry in verdict.failed() {
            let told = [entry.check.expected.as_str(), &entry.check.actual, &entry.check.source];
            assert_eq!(told.map(|text| !text.is_empty()), [true; 3], "{fault:?}: {entry:?}");
        }
    }
}

#[test]
fn every_check_has_a_fault_of_its_own() {
    let named: Vec<_> = GpuFault::ALL.iter().filter_map(|fault| fault.expected()).collect();
    for name in GpuCheckName::LIST {
        assert!(named.contains(name), "no fault for {}", name.text());
    }
}

#[test]
fn what_was_not_given_is_skipped_and_never_appraised() {
    let case = GpuMachine::Hopper(1).case().unwrap();
    let policy = case.policy().unwrap();
    let full = case.inputs(&policy);
    use GpuCheckName as N;
    let without: [(_, &[GpuCheckName]); 4] = [
        (evidence::gpu::GpuInputs { nonce: None, ..full }, &[N::Nonce]),
        (
            evidence::gpu::GpuInputs { driver_rims: &[], ..full },
            &[
                N::DriverRimSignature,
                N::DriverRimValidity,
                N::DriverRimVersion,
                N::DriverMeasurements,
                N::Debug,
            ],
        ),
        (
            evidence::gpu::GpuInputs { vbios_rims: &[], ..full },
            &[N::VbiosRimSignature, N::VbiosRimValidity, N::VbiosRimVersion, N::VbiosMeasurements, N::Debug],
        ),
        (evidence::gpu::GpuInputs { ocsp: &[], ..full }, &[N::Revocation]),
    ];
    for (inputs, expected) in without {
        let verdict = verify_gpus(&inputs);
        assert!(verdict.accepted && !verdict.complete, "{verdict}");
        assert_eq!(verdict.skipped().map(|entry| entry.check.name).collect::<Vec<_>>(), expected);
        assert!(appraise_gpus(&inputs).is_err());
    }
}

#[test]
fn a_good_answer_never_outweighs_a_revocation_and_a_fresh_one_outweighs_a_stale_one() {
    let good = GpuMachine::Hopper(1).case().unwrap();
    for fault in [GpuFault::RevokedRimSigner, GpuFault::StaleOcsp] {
        let bad = fault.case().unwrap().ocsp;
        for ocsp in [[good.ocsp.clone(), bad.clone()].concat(), [bad, good.ocsp.clone()].concat()] {
            let verdict = verdict(&GpuCase { ocsp, ..good.clone() });
            let expected: &[GpuCheckName] =
                if fault == GpuFault::StaleOcsp { &[] } else { &[GpuCheckName::Revocation] };
            assert_eq!(failed(&verdict), expected, "{fault:?}: {verdict}");
        }
    }
}

#[test]
fn no_device_at_all_is_refused() {
    let mut case = GpuMachine::Hopper(1).case().unwrap();
    case.devices.clear();
    let verdict = verdict(&case);
    assert!(!verdict.accepted);
    assert_eq!(failed(&verdict), [GpuCheckName::Count]);
}

#[test]
fn more_devices_than_any_machine_has_are_refused() {
    let mut case = GpuMachine::Hopper(1).case().unwrap();
    case.settings.count = 64;
    case.devices = vec![case.devices[0].clone(); 65];
    let verdict = verdict(&case);
    assert_eq!(verdict.devices.len(), 64);
    assert!(failed(&verdict).contains(&GpuCheckName::Count), "{verdict}");
}

#[test]
fn a_machine_under_protected_pcie_without_its_switches_is_never_appraised() {
    let mut case = GpuMachine::ProtectedPcie(2).case().unwrap();
    case.devices.pop();
    let verdict = verdict(&case);
    let check = verdict.check(None, GpuCheckName::ProtectedPcie).unwrap();
    assert!(verdict.accepted && check.status == Status::Skipped, "{verdict}");
    assert!(check.actual.contains("5c5c5c5c5c5c5c5c"), "{check:?}");
    assert!(appraise_gpus(&case.inputs(&case.policy().unwrap())).is_err());
}

#[test]
fn what_no_hardware_has_shown_is_marked() {
    let blackwell = verdict(&GpuMachine::Blackwell(1).case().unwrap());
    assert_eq!(blackwell.not_validated_on_hardware, ["Blackwell", "DICE flags", "OCSP"]);
    let switch = verdict(&GpuMachine::ProtectedPcie(2).case().unwrap());
    assert_eq!(switch.not_validated_on_hardware, ["Ls10", "NVSwitch topology", "OCSP"]);
    assert!(blackwell.to_string().contains(NOT_VALIDATED) && switch.to_string().contains(NOT_VALIDATED));
    let mut hopper = GpuMachine::Hopper(1).case().unwrap();
    hopper.ocsp.clear();
    assert_eq!(verdict(&hopper).not_validated_on_hardware, [""; 0]);
}

#[test]
fn each_measurement_is_told_with_its_manifest() {
    let case = GpuFault::VbiosMismatch.case().unwrap();
    let verdict = verdict(&case);
    let facts = &verdict.devices[0].measurements;
    assert_eq!(facts.iter().filter(|fact| fact.status == Status::Fail).count(), 1);
    let fact = facts.iter().find(|fact| fact.status == Status::Fail).unwrap();
    assert_eq!((fact.index, fact.rim, fact.name.as_str()), (9, "vbios", "Measurement_9"));
    assert_eq!(fact.expected, ["ee".repeat(48), "0a".repeat(48)]);
    assert_eq!(fact.actual.as_deref(), Some("bb".repeat(48).as_str()));
    // Index 35 is the video decoder's, which is off.
    assert!(facts.iter().all(|fact| fact.index != 35));
}

#[test]
fn a_refusal_says_device_expected_found_and_what_to_do() {
    let case = GpuFault::StaleNonce.case().unwrap();
    let text = appraise_gpus(&case.inputs(&case.policy().unwrap())).unwrap_err().to_string();
    for words in ["gpu_nonce of device 0", &"4f".repeat(32), &"4e".repeat(32), "next: ask for a new report"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn the_table_fits_a_screen_and_paints_failures_red() {
    let text = verdict(&GpuFault::DevTools.case().unwrap()).table(true);
    assert!(text.contains("\x1b[31mFAIL  gpu_cc_mode") && text.contains("SIMULATED"), "{text}");
    assert!(text.lines().count() <= 40, "{text}");
    let many = verdict(&GpuMachine::Hopper(3).case().unwrap()).table(false);
    assert!(many.lines().count() <= 20, "{many}");
    assert!(!many.contains('\x1b'));
}

#[test]
fn the_json_has_the_shape_of_a_verdict() {
    let verdict = verdict(&GpuMachine::Hopper(1).case().unwrap());
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!((&json["accepted"], &json["complete"]), (&true.into(), &true.into()));
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(checks.len(), GpuCheckName::LIST.len());
    for check in checks {
        for field in ["name", "status", "expected", "actual", "source", "expires", "device"] {
            assert!(check.get(field).is_some(), "{field}: {check}");
        }
        assert!(check["name"].as_str().unwrap().starts_with("gpu_"));
    }
}

#[test]
fn hardware_is_never_judged_by_a_simulated_policy_nor_the_other_way_round() {
    let case = GpuMachine::Hopper(1).case().unwrap();
    let production = verify_gpus(&case.inputs(&GpuPolicy::production()));
    assert_eq!(failed(&production)[..], [GpuCheckName::TrustRoot], "{production}");
    let error = GpuPolicy::simulated(b"no certificate", &case.rim_root).unwrap_err();
    assert!(matches!(error, GpuPolicyError::BadRoot(_)), "{error}");
}

#[test]
fn settings_come_as_text_and_unknown_ones_are_refused() {
    let text = "count = 8\nmodes = [\"ppcie\"]\nmodels = [\"GH100\"]\ndriver-min = \"550.90.07\"\n";
    let settings: GpuSettings = toml::from_str(text).unwrap();
    assert_eq!((settings.count, settings.modes.as_slice()), (8, &[Mode::Ppcie][..]));
    assert!(toml::from_str::<GpuSettings>("modes = [\"off\"]").is_err());
}

/// What names the certificate in a request, inside its four outer sequences.
fn named(request: &OcspRequest) -> &[u8] {
    let mut rest = request.der.as_slice();
    for _ in 0..4 {
        assert_eq!(rest[0], 0x30);
        rest = if rest[1] < 0x80 { &rest[2..] } else { &rest[3..] };
    }
    rest
}

#[test]
fn every_answer_that_an_appraisal_needs_is_asked_for_once() {
    let case = GpuMachine::Hopper(2).case().unwrap();
    let rims = [case.driver_rims.clone(), case.vbios_rims.clone()].concat();
    let requests = ocsp_requests(&case.devices, &rims).unwrap();
    assert_eq!(requests.len(), case.ocsp.len());
    for answer in &case.ocsp {
        let asked =
            |request: &&OcspRequest| answer.windows(named(request).len()).any(|part| part == named(request));
        assert_eq!(requests.iter().filter(asked).count(), 1, "each answer names what one request asked");
    }
}

#[test]
fn what_a_sender_hands_along_is_read_from_its_envelope_and_changes_nothing_of_the_evidence() {
    let case = GpuMachine::Hopper(2).case().unwrap();
    let GpuCase { driver_rims, vbios_rims, ocsp, .. } = case.clone();
    let collateral = GpuCollateral { driver_rims, vbios_rims, ocsp };
    let plain = DeviceEvidence::to_envelope(&case.devices, &case.nonce);
    let full = DeviceEvidence::to_envelope_with(&case.devices, &case.nonce, &collateral);
    assert_eq!(DeviceEvidence::read_envelope(full.as_bytes()).unwrap(), case.devices);
    assert_eq!(GpuCollateral::of_envelope(full.as_bytes()).unwrap(), collateral);
    assert_eq!(GpuCollateral::of_envelope(plain.as_bytes()).unwrap(), GpuCollateral::default());
    let much = GpuCollateral { driver_rims: vec![b"<a/>".to_vec(); 9], ..GpuCollateral::default() };
    // Whoever keeps to the bound sends none; whoever does not is refused.
    let kept = DeviceEvidence::to_envelope_with(&case.devices, &case.nonce, &much);
    assert_eq!(GpuCollateral::of_envelope(kept.as_bytes()).unwrap(), GpuCollateral::default());
    let sent =
        full.replacen("\"driver_rims\": [", &format!("\"driver_rims\": [{}", "\"AA==\",".repeat(8)), 1);
    assert_ne!(sent, full);
    let error = GpuCollateral::of_envelope(sent.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("at most 8 driver manifests, found 9"), "{error}");
}

//! Checks against evidence from real machines, kept outside the repository (see `vectors`).

mod support;

use measure::firmware::td_hob;
use measure::firmware::tdvf::{self, Section, Vmm};
use measure::tcg::{self, Bank, EventLog};
use measure::{Boot, Digest384, Event, Inputs, Platform, Register, Shape, TdxOptions, predict_tdx};
use support::vectors;

/// RTMR0 to 3 of a version 4 TDX quote (Intel TDX DCAP quote library API, TD report body).
fn quote_rtmrs(quote: &[u8]) -> [Digest384; 4] {
    let body = &quote[48..];
    [0, 1, 2, 3].map(|i| Digest384(body[328 + 48 * i..376 + 48 * i].try_into().unwrap()))
}

fn quote_mrtd(quote: &[u8]) -> Digest384 {
    Digest384(quote[48 + 136..48 + 184].try_into().unwrap())
}

#[test]
fn a_real_ccel_replays_to_the_rtmrs_of_its_quote() {
    let Some(folder) = vectors() else { return };
    let bytes = std::fs::read(folder.join("eventlogs/cos113.ccel")).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    assert!(log.events.len() > 20, "{} events", log.events.len());
    let quote = std::fs::read(folder.join("quotes/cos113_v4.bin")).unwrap();
    assert_eq!(log.ccel_rtmrs().unwrap()[..3], quote_rtmrs(&quote)[..3]);
}

#[test]
fn logs_of_other_firmware_parse_and_their_events_have_names() {
    let Some(folder) = vectors() else { return };
    for name in ["trustee_gcp", "trustee_ovmf", "trustee_alibaba_rtmr3"] {
        let bytes = std::fs::read(folder.join(format!("eventlogs/{name}.ccel"))).unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        let unnamed: Vec<_> = log.events.iter().filter(|e| tcg::describe(e).kind == "EV_?").collect();
        assert!(!log.events.is_empty());
        assert!(unnamed.is_empty() || name == "trustee_alibaba_rtmr3", "{name}: {unnamed:?}");
        for index in 0..5 {
            let replay = log.replay(Bank::Sha384, index).unwrap();
            assert_eq!(replay.len(), 48, "{name}: {:?}", Register::from_cc_index(index));
        }
    }
}

#[test]
fn mrtd_of_a_real_td_comes_out_of_its_firmware() {
    let Some(folder) = vectors() else { return };
    let firmware = std::fs::read(folder.join("firmware/OVMF_2025.02-3ubuntu2.fd")).unwrap();
    let quote = std::fs::read(folder.join("quotes/cocoon_v4.bin")).unwrap();
    let single = tdvf::mrtd(&firmware, Vmm::SinglePass).unwrap();
    assert_eq!(single, quote_mrtd(&quote));
    assert_ne!(single, tdvf::mrtd(&firmware, Vmm::TwoPass).unwrap());
}

#[test]
fn rtmr0_of_a_real_td_comes_out_of_firmware_shape_and_captured_tables() {
    let Some(folder) = vectors() else { return };
    let firmware = std::fs::read(folder.join("firmware/OVMF_2025.02-3ubuntu2.fd")).unwrap();
    let tables = std::fs::read(folder.join("acpi/runtime_capture_8vcpu_16g/acpi_tables.bin")).unwrap();
    let quote = std::fs::read(folder.join("quotes/shape_8vcpu_16g_v4.bin")).unwrap();
    let shape = Shape::new(8, 16 * 1024);
    let inputs = Inputs {
        platform: Platform::Tdx,
        boot: Boot::Direct,
        shape: &shape,
        firmware_code: &firmware,
        firmware_vars: &[],
        payload: None,
        disk_head: None,
    };
    let blobs = measure::acpi::derive(&tables).unwrap();
    let options = TdxOptions { acpi: Some(&blobs), ..TdxOptions::default() };
    let prediction = predict_tdx(&inputs, &options).unwrap();
    assert_eq!(prediction.register(Register::Mrtd), Some(quote_mrtd(&quote)));
    assert_eq!(prediction.register(Register::Rtmr0), Some(quote_rtmrs(&quote)[0]));
    assert_eq!(prediction.register(Register::Rtmr1), None, "no kernel was given");
}

/// Accepted ranges of the OVMF build (2023) that made two of the logs; its file isn't among the vectors.
fn sections_of_2023() -> Vec<Section> {
    let section = |kind, address, memory_size| Section {
        data_offset: 0,
        raw_size: 0,
        address,
        memory_size,
        kind,
        attributes: 0,
    };
    vec![
        section(3, 0x81_0000, 0x1_0000),
        section(3, 0x80_b000, 0x2000),
        section(2, 0x80_9000, 0x2000),
        section(3, 0x80_0000, 0x6000),
    ]
}

#[test]
fn the_td_hob_of_real_logs_comes_out_of_their_memory_sizes() {
    let Some(folder) = vectors() else { return };
    let hob = |mib| Digest384::of(&td_hob::td_hob(&sections_of_2023(), &Shape::new(1, mib)).unwrap());
    let bytes = std::fs::read(folder.join("eventlogs/trustee_ovmf.ccel")).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(log.events[0].event_type, tcg::EV_EFI_HANDOFF_TABLES2);
    assert_eq!(log.events[0].sha384(), Some(hob(2048)));
    let text = std::fs::read_to_string(folder.join("quotes/dstack_quote_and_eventlog.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events: serde_json::Value = serde_json::from_str(json["event_log"].as_str().unwrap()).unwrap();
    assert_eq!(events[0]["digest"], hob(64 * 1024).to_string());
}

#[test]
fn a_log_in_another_form_replays_to_the_rtmrs_of_its_quote() {
    let Some(folder) = vectors() else { return };
    let text = std::fs::read_to_string(folder.join("quotes/dstack_quote_and_eventlog.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events: serde_json::Value = serde_json::from_str(json["event_log"].as_str().unwrap()).unwrap();
    let mut rtmrs = [Digest384::ZERO; 4];
    for event in events.as_array().unwrap() {
        let digest: Digest384 = event["digest"].as_str().unwrap().parse().unwrap();
        rtmrs[event["imr"].as_u64().unwrap() as usize].extend(&digest);
    }
    let quote = hex::decode(json["quote"].as_str().unwrap()).unwrap();
    assert_eq!(rtmrs, quote_rtmrs(&quote));
}

#[test]
fn events_that_no_artifact_changes_are_those_of_a_real_classic_boot() {
    let Some(folder) = vectors() else { return };
    let firmware = std::fs::read(folder.join("firmware/OVMF_2025.02-3ubuntu2.fd")).unwrap();
    let shape = Shape::new(16, 64 * 1024);
    let inputs = Inputs {
        platform: Platform::Tdx,
        boot: Boot::Direct,
        shape: &shape,
        firmware_code: &firmware,
        firmware_vars: &[],
        payload: None,
        disk_head: None,
    };
    let prediction = predict_tdx(&inputs, &TdxOptions::default()).unwrap();
    let separator = prediction.assumed.iter().find(|a| a.what == "separator").unwrap();
    assert_eq!(separator.value, "rtmr1", "{}", separator.because);
    assert!(separator.because.contains("code"), "{}", separator.because);
    // Secure Boot variables and their separator, boot variables, "calling", its separator: register, type, digest.
    let foretold: Vec<_> = prediction
        .events
        .iter()
        .filter(|e| {
            !matches!(e.event, Event::TdHob | Event::ConfigurationVolume | Event::Acpi(_))
                && e.digests.is_ok()
        })
        .map(|e| (e.register, e.event.event_type(), e.digests.as_ref().unwrap().sha384.to_string()))
        .collect();
    assert_eq!(foretold.len(), 10, "{foretold:#?}");
    let text = std::fs::read_to_string(folder.join("quotes/dstack_quote_and_eventlog.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events: serde_json::Value = serde_json::from_str(json["event_log"].as_str().unwrap()).unwrap();
    let registers = [Register::Rtmr0, Register::Rtmr1, Register::Rtmr2, Register::Rtmr3];
    let logged = events.as_array().unwrap().iter().map(|e| {
        let register = registers[e["imr"].as_u64().unwrap() as usize];
        (register, e["event_type"].as_u64().unwrap() as u32, e["digest"].as_str().unwrap().to_owned())
    });
    let shared: Vec<_> = logged.filter(|event| foretold.contains(event)).collect();
    assert_eq!(shared, foretold);
}

//! Checks against evidence from real machines, kept outside the repository (see `vectors`).

use measure::firmware::tdvf::{self, Vmm};
use measure::tcg::{self, Bank, EventLog};
use measure::{Digest384, Register};
use std::path::PathBuf;

/// The vectors' folder: `CHRYSALIS_VECTORS`, else `../shared/vectors` beside the repository; `None` is said loudly.
fn vectors() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!(
        "SKIPPED: no vectors at {}; set CHRYSALIS_VECTORS to check against real evidence",
        folder.display()
    );
    None
}

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

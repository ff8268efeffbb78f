//! Real evidence that nobody here made gives the verdicts that are known of it.
//!
//! The vectors lie beside the repository, or where CHRYSALIS_VECTORS says; they are not part of it. Where they are missing,
//! these tests say that they were skipped; what must always run uses evidence that the project makes itself.

use evidence::{CheckName, Collateral, Inputs, Policy, PolicyFile, Quote, Status, Verdict, verify};
use measure::wire::{EventLog, LogFormat};
use std::path::PathBuf;

fn vectors() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let folder = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no vectors at {}; set CHRYSALIS_VECTORS to their folder", folder.display());
    None
}

fn read(path: &str) -> Option<Vec<u8>> {
    let file = vectors()?.join(path);
    Some(std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
}

fn judge(quote: &[u8], collateral: &str, policy: &Policy, log: Option<&EventLog>, at: u64) -> Verdict {
    let collateral = Collateral::parse(&read(&format!("collateral/{collateral}")).unwrap()).unwrap();
    let (event_log, static_config, reference, report_data) = (log, None, None, None);
    verify(&Inputs {
        quote,
        collateral: &collateral,
        policy,
        event_log,
        static_config,
        runtime: None,
        reference,
        report_data,
        at,
    })
}

fn failed(verdict: &Verdict) -> Vec<CheckName> {
    verdict.failed().map(|check| check.name).collect()
}

#[test]
fn real_quotes_of_current_platforms_are_up_to_date() {
    let cases = [
        ("cocoon_v4.bin", "fmspc_90c06f000000_2026-03.json", 1_773_790_000),
        ("shape_8vcpu_16g_v4.bin", "fmspc_90c06f000000_2026-03.json", 1_773_790_000),
        ("dcap_qvl_v4.bin", "dcap_qvl_v4.json", 1_750_500_000),
        ("near_v4.bin", "near_v4.json", 1_757_000_000),
    ];
    for (quote, collateral, at) in cases {
        let Some(bytes) = read(&format!("quotes/{quote}")) else { return };
        let verdict = judge(&bytes, collateral, &Policy::production(), None, at);
        assert!(verdict.accepted, "{quote}\n{verdict}");
        assert!(!verdict.complete, "{quote}: reference values and the like were not given");
        assert_eq!(verdict.tcb_status.as_deref(), Some("UpToDate"), "{quote}");
        let skipped: Vec<_> = verdict.skipped().map(|check| check.name).collect();
        use CheckName::{EventLog, Mrconfigid, Registers, ReportData, RuntimeEvents};
        assert_eq!(skipped, [Mrconfigid, Registers, EventLog, RuntimeEvents, ReportData], "{quote}");
    }
}

#[test]
fn padding_of_a_real_quote_is_noted() {
    let Some(bytes) = read("quotes/cocoon_v4.bin") else { return };
    let quote = Quote::parse(&bytes).unwrap();
    assert_eq!((quote.version, quote.padding), (4, 70));
    assert!(quote.td.mrtd.to_string().starts_with("7357a10d2e2724df"));
    let verdict =
        judge(&bytes, "fmspc_90c06f000000_2026-03.json", &Policy::production(), None, 1_773_790_000);
    assert!(verdict.check(CheckName::QuoteFormat).unwrap().actual.contains("70 zero bytes"));
}

#[test]
fn a_platform_that_matches_no_level_is_refused_by_name() {
    let Some(bytes) = read("quotes/dcap_qvl_v5_no_tcb_level.bin") else { return };
    let verdict = judge(&bytes, "dcap_qvl_v5_no_tcb_level.json", &Policy::production(), None, 1_771_500_000);
    assert_eq!(failed(&verdict), [CheckName::Tcb], "{verdict}");
    assert!(verdict.check(CheckName::Tcb).unwrap().actual.contains("no TCB level matches"), "{verdict}");
}

#[test]
fn an_old_platform_is_refused_and_told_how_far_behind_it_is() {
    let Some(bytes) = read("quotes/cos113_v4.bin") else { return };
    let log = EventLog { format: LogFormat::Ccel, bytes: read("eventlogs/cos113.ccel").unwrap() };
    let (collateral, at) = ("fmspc_00806f050000_2026-01.json", 1_769_509_141);
    let verdict = judge(&bytes, collateral, &Policy::production(), Some(&log), at);
    println!("{verdict}");
    assert_eq!(failed(&verdict), [CheckName::TcbPlatform, CheckName::TcbModule, CheckName::Tcb], "{verdict}");
    let said = &verdict.check(CheckName::TcbModule).unwrap().actual;
    assert!(said.starts_with("OutOfDate, 1 level behind since 20") && said.contains("INTEL-SA-"), "{said}");
    assert_eq!(verdict.tcb_status.as_deref(), Some("OutOfDate"));
    let module = verdict.tcb.as_ref().unwrap().module.as_ref().unwrap();
    assert_eq!((module.behind, module.advisories.len()), (1, 2), "{module:?}");
    assert_eq!(verdict.check(CheckName::EventLog).unwrap().status, Status::Pass, "{verdict}");

    let text = "schema = 1\nplatform = \"tdx\"\n[tcb]\naccept = [\"UpToDate\", \"OutOfDate\"]\n";
    let lenient = PolicyFile::parse(text).unwrap().resolve(None).unwrap();
    let verdict = judge(&bytes, collateral, &lenient, Some(&log), at);
    assert!(verdict.accepted, "{verdict}");

    // The same, for as long as the grace lasts; counted from the date of the level above.
    let next = module.next.as_deref().unwrap();
    for (days, accepted) in [(3650, true), (1, false)] {
        let text = format!("schema = 1\nplatform = \"tdx\"\n[tcb]\ngrace = {{ OutOfDate = {days} }}\n");
        let policy = PolicyFile::parse(&text).unwrap().resolve(None).unwrap();
        let verdict = judge(&bytes, collateral, &policy, Some(&log), at);
        assert_eq!(verdict.accepted, accepted, "{verdict}");
        let tcb = verdict.check(CheckName::Tcb).unwrap();
        let said = if accepted { "; grace until 20" } else { "; grace ended 20" };
        assert!(tcb.actual.contains(said) && tcb.actual.contains(&next[..10]), "{tcb:?}");
    }
}

#[test]
fn a_real_log_with_one_changed_digest_explains_nothing() {
    let Some(bytes) = read("quotes/cos113_v4.bin") else { return };
    let mut log = EventLog { format: LogFormat::Ccel, bytes: read("eventlogs/cos113.ccel").unwrap() };
    // The first digest after the header event of 65 bytes: register, type, count, algorithm.
    log.bytes[65 + 14] ^= 1;
    let verdict =
        judge(&bytes, "fmspc_00806f050000_2026-01.json", &Policy::production(), Some(&log), 1_769_509_141);
    assert!(failed(&verdict).contains(&CheckName::EventLog), "{verdict}");
}

#[test]
fn a_real_quote_out_of_its_time_fails_the_window_alone() {
    let Some(bytes) = read("quotes/dcap_qvl_v4.bin") else { return };
    let verdict = judge(&bytes, "dcap_qvl_v4.json", &Policy::production(), None, 1_800_000_000);
    assert_eq!(failed(&verdict), [CheckName::CollateralWindow], "{verdict}");
    assert!(!verdict.accepted);
}

#[test]
fn a_real_quote_with_another_platforms_collateral_fails_by_fmspc() {
    let Some(bytes) = read("quotes/cocoon_v4.bin") else { return };
    let verdict =
        judge(&bytes, "fmspc_00806f050000_2026-01.json", &Policy::production(), None, 1_769_600_000);
    assert_eq!(failed(&verdict), [CheckName::Fmspc], "{verdict}");
}

#[test]
fn real_version_5_quotes_are_read() {
    let Some(bytes) = read("quotes/trustee_v5.bin") else { return };
    let quote = Quote::parse(&bytes).unwrap();
    assert_eq!(quote.version, 5);
    assert!(quote.td.v15.is_some_and(|v15| v15.mrservicetd.to_string().starts_with("383c87d3bbb047b2")));
}

#[test]
fn every_flipped_bit_of_a_real_quote_is_refused() {
    let Some(bytes) = read("quotes/dcap_qvl_v4.bin") else { return };
    let collateral = Collateral::parse(&read("collateral/dcap_qvl_v4.json").unwrap()).unwrap();
    let policy = Policy::production();
    // One bit in each field up to the certificates, and of every hundredth byte of those.
    let certificates = 48 + 584 + 4 + 128 + 6 + 450 + 32 + 6;
    let mut bits: Vec<usize> = (0..certificates).step_by(7).collect();
    bits.extend((certificates..certificates + 1500).step_by(101));
    for at in bits {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let verdict = verify(&Inputs {
            quote: &changed,
            collateral: &collateral,
            policy: &policy,
            event_log: None,
            static_config: None,
            runtime: None,
            reference: None,
            report_data: None,
            at: 1_750_500_000,
        });
        assert!(!verdict.accepted, "byte {at} flipped and accepted\n{verdict}");
    }
}

//! Quotes judged online: `evidence collateral` and `evidence verify --service` against a PCCS that serves a SIMULATED
//! platform's collateral over real HTTP, dies, and lies.

#[path = "../../../measurements/collateral/tests/support/mod.rs"]
mod support;

use evidence::{CheckName, Collateral};
use serde_json::Value;
use simulator::fault::{AT, Case, Fault};
use simulator::{Options, Part, Platform};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Mode, Pccs};
use tempfile::TempDir;

const DAY: u64 = 24 * 60 * 60;

/// Files of one platform, and the service that publishes its collateral.
struct World {
    dir: TempDir,
    pccs: Pccs,
    collateral: Collateral,
}

impl World {
    fn of(quote: &[u8], root: &[u8], collateral: Collateral) -> World {
        let dir = tempfile::tempdir().unwrap();
        let policy = "schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n";
        for (name, bytes) in [("quote", quote), ("root.der", root), ("policy.toml", policy.as_bytes())] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let pccs = Pccs::start(Mode::Good(Box::new(collateral.clone())));
        World { dir, pccs, collateral }
    }

    fn good() -> World {
        let case = Fault::None.case().unwrap();
        World::of(&case.evidence.quote, &case.root_der, case.collateral)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `chrysalis evidence WHAT` with the quote and the policy, at a time; `@NAME` is a file of this world.
    fn at(&self, at: u64, what: &str, options: &[&str]) -> Output {
        let file = |name: &str| self.file(name).to_str().unwrap().to_owned();
        let options =
            options.iter().map(|option| option.strip_prefix('@').map_or_else(|| (*option).into(), file));
        Command::new(env!("CARGO_BIN_EXE_chrysalis"))
            .args(["evidence", what, "--quote", &file("quote"), "--at", &at.to_string()])
            .args(["--policy", &file("policy.toml")])
            .args(options)
            .output()
            .expect("chrysalis starts")
    }

    /// The same as JSON, with the service and the cache.
    fn online(&self, at: u64, what: &str) -> (Option<i32>, Value) {
        let output = self.at(at, what, &["--service", &self.pccs.url, "--cache", "@cache", "--json"]);
        (output.status.code(), json(&output))
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {output:?}"))
}

fn failed(verdict: &Value) -> Vec<&str> {
    let checks = verdict["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["status"] == "fail").map(|check| check["name"].as_str().unwrap()).collect()
}

#[test]
fn collateral_is_fetched_once_written_and_judges_the_quote() {
    let world = World::good();
    let service = ["--service", &world.pccs.url, "--cache", "@cache", "--out", "@c.json", "--json"];
    let output = world.at(AT, "collateral", &service);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = json(&output);
    assert_eq!((&said["fmspc"], &said["ca"]), (&"53494d554c41".into(), &"platform".into()));
    assert_eq!((&said["genuine"], &said["source"]["from"]), (&true.into(), &"service".into()));
    assert_eq!(said["source"]["expires"], world.collateral.expires().unwrap());
    assert_eq!(said["documents"], serde_json::to_value(world.collateral.documents()).unwrap());
    let written = Collateral::parse(&std::fs::read(world.file("c.json")).unwrap()).unwrap();
    assert_eq!(written.digest(), world.collateral.digest());

    // From the file, from the cache and from a service without a cache: the same verdict.
    let asked = world.pccs.asked();
    let by_file = json(&world.at(AT, "verify", &["--collateral", "@c.json", "--json"]));
    let (code, by_cache) = world.online(AT, "verify");
    assert_eq!((code, world.pccs.asked()), (Some(0), asked), "{by_cache:#}");
    let by_service = json(&world.at(AT, "verify", &["--service", &world.pccs.url, "--json"]));
    assert_eq!(world.pccs.asked(), asked + 4);
    assert_eq!(by_file["accepted"], true);
    assert_eq!((&by_file["checks"], &by_file["checks"]), (&by_cache["checks"], &by_service["checks"]));
    assert_eq!(by_file["collateral_source"], Value::Null);
    assert_eq!(by_cache["collateral_source"]["from"], "cache");
    assert_eq!(by_service["collateral_source"]["from"], "service");
}

#[test]
fn a_dead_service_stops_nothing_before_the_held_copy_expires() {
    let world = World::good();
    assert_eq!(world.online(AT, "collateral").0, Some(0));
    world.pccs.set(Mode::Dead);
    for what in ["collateral", "verify"] {
        let (code, said) = world.online(AT + 2 * DAY, what);
        assert_eq!(code, Some(0), "{said:#}");
        let source = if what == "verify" { &said["collateral_source"] } else { &said["source"] };
        assert_eq!(source["from"], "cache-service-failed");
        assert!(source["trouble"].as_str().unwrap().contains(&world.pccs.url), "{source:#}");
    }
    let offline = world.at(AT + 2 * DAY, "verify", &["--cache", "@cache", "--json"]);
    assert_eq!(
        (offline.status.code(), &json(&offline)["collateral_source"]["from"]),
        (Some(0), &"cache".into())
    );

    let expires = world.collateral.expires().unwrap();
    let options = ["--service", &world.pccs.url, "--cache", "@cache"];
    for what in ["collateral", "verify"] {
        let output = world.at(expires, what, &options);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        // Who was asked, what is held and until when, what to do.
        for words in [&world.pccs.url, "the copy on disk", &evidence::show_time(expires), "next: repeat when"]
        {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

#[test]
fn a_service_that_comes_back_is_asked_when_the_copy_is_a_day_old() {
    let world = World::good();
    world.online(AT, "collateral");
    let asked = world.pccs.asked();
    assert_eq!(world.online(AT + DAY - 1, "collateral").1["source"]["from"], "cache");
    assert_eq!(world.pccs.asked(), asked);
    let renewed = world.online(AT + DAY, "collateral").1;
    assert_eq!(
        (&renewed["source"]["from"], &renewed["source"]["trouble"]),
        (&"service".into(), &Value::Null)
    );
    // It was kept: the next day begins now.
    assert_eq!(world.online(AT + 2 * DAY - 1, "collateral").1["source"]["from"], "cache");
}

#[test]
fn garbage_is_bad_input_and_leaves_nothing_behind() {
    let world = World::good();
    let collateral = Box::new(world.collateral.clone());
    for mode in [Mode::Garbage, Mode::NoHeader(collateral)] {
        world.pccs.set(mode);
        let output = world.at(AT, "collateral", &["--service", &world.pccs.url, "--out", "@c.json"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("is this a service of Intel's form") && said.contains(&world.pccs.url),
            "{said}"
        );
        assert!(!world.file("c.json").exists());
    }
}

#[test]
fn forged_collateral_is_refused_by_name_and_never_kept() {
    let options = Options { forged: vec![Part::TcbInfo], ..Options::valid(AT, 30) };
    let platform = Platform::with(options).unwrap();
    let identity = platform.identity().unwrap();
    let quote = identity.quote(&identity.td_report(&measure::Registers::ZERO, [0; 48], [0; 64]));
    let world = World::of(&quote, &platform.root_der().unwrap(), platform.collateral().unwrap());
    let (code, said) = world.online(AT, "collateral");
    assert_eq!((code, &said["genuine"]), (Some(1), &false.into()));
    assert!(said["why"].as_str().unwrap().starts_with("tcb_info: "), "{said:#}");
    let (code, verdict) = world.online(AT, "verify");
    assert_eq!((code, &verdict["accepted"]), (Some(1), &false.into()));
    assert!(failed(&verdict).contains(&CheckName::TcbInfo.as_str()), "{verdict:#}");
    assert!(verdict["collateral_source"]["refused"].as_str().unwrap().starts_with("tcb_info: "));
    assert_eq!(std::fs::read_dir(world.file("cache")).unwrap().count(), 0);
}

#[test]
fn a_real_quote_is_judged_online_as_with_its_recorded_collateral() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let vectors = std::env::var_os("CHRYSALIS_VECTORS").map_or_else(beside, PathBuf::from);
    if !vectors.join("README.md").is_file() {
        eprintln!("SKIPPED: no recorded evidence at {}; set CHRYSALIS_VECTORS", vectors.display());
        return;
    }
    for (quote, recorded, at) in
        [("cocoon_v4", "fmspc_90c06f000000_2026-03", 1_773_790_000), ("near_v4", "near_v4", 1_757_000_000)]
    {
        let quote = std::fs::read(vectors.join(format!("quotes/{quote}.bin"))).unwrap();
        let recorded = std::fs::read(vectors.join(format!("collateral/{recorded}.json"))).unwrap();
        let world = World::of(&quote, &[], Collateral::parse(&recorded).unwrap());
        std::fs::write(world.file("policy.toml"), "schema = 1\nplatform = \"tdx\"\n").unwrap();
        std::fs::write(world.file("c.json"), &recorded).unwrap();
        world.pccs.set(Mode::Hex(Box::new(world.collateral.clone())));
        let (code, online) = world.online(at, "verify");
        let recorded = json(&world.at(at, "verify", &["--collateral", "@c.json", "--json"]));
        assert_eq!((code, &online["accepted"]), (Some(0), &true.into()), "{online:#}");
        assert_eq!(online["collateral_source"]["from"], "service");
        assert_eq!(online["checks"], recorded["checks"]);
        assert_eq!(world.online(at, "collateral").1["source"]["from"], "cache");
    }
}

#[test]
fn a_quote_under_another_root_gets_a_whole_verdict() {
    let case: Case = Fault::ForeignRoot.case().unwrap();
    let world = World::of(&case.evidence.quote, &case.root_der, case.collateral);
    let (code, verdict) = world.online(AT, "verify");
    assert_eq!(code, Some(1), "{verdict:#}");
    assert_eq!(failed(&verdict), [CheckName::TrustRoot.as_str()]);
}

#[test]
fn a_forged_quote_is_refused_with_genuine_collateral() {
    let case = Fault::BadQuoteSignature.case().unwrap();
    let world = World::of(&case.evidence.quote, &case.root_der, case.collateral);
    assert_eq!(world.online(AT, "collateral").0, Some(0));
    let (code, verdict) = world.online(AT, "verify");
    assert_eq!((code, failed(&verdict)), (Some(1), vec![CheckName::QuoteSignature.as_str()]));
}

#[test]
fn people_are_told_what_each_document_is_and_where_it_came_from() {
    let world = World::good();
    let output = world.at(AT, "collateral", &["--service", &world.pccs.url, "--cache", "@cache"]);
    let said = String::from_utf8(output.stdout).unwrap();
    for words in ["TCB info", "QE identity", "root CA CRL", "PCK CRL", "certificate `", "days left"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let until = evidence::show_time(world.collateral.expires().unwrap());
    assert!(said.contains(&format!("fetched from {}\nholds until {until}", world.pccs.url)), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 120), "{said}");
}

#[test]
fn whom_to_ask_must_be_said_and_be_a_service() {
    let world = World::good();
    for (options, words) in [
        (&[][..], "--service <SERVICE>"),
        (&["--root-crl", "http://x", "--cache", "@cache"], "--service <SERVICE>"),
        (&["--service", "ftp://x"], "starts with https:// or http://"),
        (&["--service", "https://x", "--tls-roots", "@quote"], "quote"),
        (&["--cache", "@cache"], "name a service with --service"),
    ] {
        let output = world.at(AT, "collateral", options);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(words), "{options:?}: {said}");
    }
    std::fs::write(world.file("quote"), [0x5a; 300]).unwrap();
    let output = world.at(AT, "collateral", &["--service", &world.pccs.url]);
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("quote"));
    assert_eq!(world.pccs.asked(), 0);
}

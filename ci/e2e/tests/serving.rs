//! The main job: the image boots as foretold, proves it on the very connection, and answers. One boot serves all claims
//! here.

use anyhow::{Context, Result, bail};
use e2e::{DEADLINE, MODEL, Stage, boot, connect, evidence_of, failed, now};
use evidence::{CheckName, Reference, Verdict};
use launcher::Guest;
use launcher::foretell::Foretold;
use protocol::channel::Part;
use protocol::evidence::Evidence;
use protocol::runtime::{self, Extension, RuntimeEvent, RuntimeRecord};
use protocol::{AttestError, Attester};
use ratls::{Acceptor, Endpoint, QuoteLimits, QuoteQueue};
use std::sync::{Arc, OnceLock};

struct Serving {
    stage: Stage,
    guest: Guest,
    foretold: Foretold,
    reference: Reference,
}

fn serving() -> &'static Serving {
    static SERVING: OnceLock<Serving> = OnceLock::new();
    SERVING.get_or_init(|| start().expect("the unchanged machine serves"))
}

fn start() -> Result<Serving> {
    let stage = Stage::open()?;
    let scratch = stage.scratch("serving")?;
    let (settings, foretold) = stage.foretell(&stage.fragment(&scratch))?;
    let reference = foretold.reference(&settings.static_config);
    let guest = boot(&settings)?;
    guest.wait_serving(DEADLINE)?;
    Ok(Serving { stage, guest, foretold, reference })
}

/// The verdict of a refused connection; an error if it was accepted or failed otherwise.
fn refusal(trust: &client::Trust, at: u64) -> Result<Verdict> {
    match connect(&serving().guest.endpoint(), trust, at) {
        Ok(_) => bail!("accepted, expected a refusal"),
        Err(error) => error.verdict().cloned().with_context(|| format!("no verdict: {error}")),
    }
}

#[test]
fn every_event_of_the_boot_was_foretold() {
    let s = serving();
    let trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    let evidence = evidence_of(&s.guest.endpoint(), &trust, now()).unwrap();
    let log = measure::tcg::EventLog::parse(&evidence.event_log.bytes).unwrap();
    let differences = measure::compare(&s.foretold.prediction, &log);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn the_verdict_accepts_and_says_simulated() {
    let s = serving();
    let trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    let (_runtime, client) = connect(&s.guest.endpoint(), &trust, now()).unwrap();
    let verdict = client.appraised().verdict();
    assert!(verdict.accepted && verdict.complete, "{verdict}");
    assert!(verdict.to_string().lines().next().unwrap().contains("SIMULATED"), "{verdict}");
}

#[test]
fn the_guests_own_events_are_sealed_in_rtmr3() {
    let s = serving();
    let trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    let evidence = evidence_of(&s.guest.endpoint(), &trust, now()).unwrap();
    let record = RuntimeRecord::from_bytes(&evidence.runtime).unwrap();
    assert_eq!(record.extension, Extension::Extended);
    let names: Vec<String> = record.log.events().iter().map(ToString::to_string).collect();
    assert!(
        names[0].starts_with("static-config ") && names[1].starts_with(&format!("model {MODEL} ")),
        "{names:?}"
    );
    assert_eq!(names[2..], ["gpu none", "sealed"]);
    let (_runtime, client) = connect(&s.guest.endpoint(), &trust, now()).unwrap();
    let verdict = client.appraised().verdict();
    assert_eq!(verdict.registers.unwrap().rtmr[3], record.log.rtmr3());
    assert_eq!(verdict.check(CheckName::RuntimeEvents).unwrap().status, evidence::Status::Pass, "{verdict}");
}

#[test]
fn a_changed_runtime_log_of_a_real_boot_is_refused() {
    let s = serving();
    let trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    let good = evidence_of(&s.guest.endpoint(), &trust, now()).unwrap();
    let report_data = evidence::Quote::parse(&good.quote).unwrap().td.report_data.0;
    let events = RuntimeRecord::from_bytes(&good.runtime).unwrap().log.events().to_vec();
    let appraise = |events: &[RuntimeEvent], extension| {
        let evidence = Evidence { runtime: runtime::encode(extension, events), ..good.clone() };
        evidence::appraise(&evidence, &trust.collateral, &trust.policy, &trust.reference, &report_data, now())
    };
    assert!(appraise(&events, Extension::Extended).is_ok());
    let without_model = [&events[..1], &events[2..]].concat();
    let late = [&events[..], &[RuntimeEvent::Sealed]].concat();
    for changed in [&without_model[..], &events[..events.len() - 1], &late] {
        let refused = appraise(changed, Extension::Extended).expect_err("a changed log");
        assert_eq!(failed(refused.verdict()), [CheckName::RuntimeEvents], "{refused}");
    }
    let refused = appraise(&events, Extension::NotExtended).expect_err("a guest that denies its extends");
    assert_eq!(failed(refused.verdict()), [CheckName::RuntimeEvents], "{refused}");
}

#[test]
fn embeddings_equal_those_of_sentence_transformers() {
    let s = serving();
    let trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    let file = std::env::var_os("CHRYSALIS_REFERENCE_VECTORS").expect("set by `cargo xtask test`");
    let known: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(known["texts"].clone()).unwrap();
    let vectors: Vec<Vec<f32>> = serde_json::from_value(known["vectors"].clone()).unwrap();
    // Emulated floating point is slow: the short texts show the path, the engine's own test has them all.
    let short: Vec<usize> = (0..texts.len()).filter(|i| (1..80).contains(&texts[*i].len())).take(4).collect();
    assert_eq!(short.len(), 4);
    let asked: Vec<String> = short.iter().map(|i| texts[*i].clone()).collect();
    let (runtime, mut client) = connect(&s.guest.endpoint(), &trust, now()).unwrap();
    let answer = runtime.block_on(client.embed(MODEL, &asked)).unwrap();
    for (vector, i) in answer.vectors.iter().zip(&short) {
        let cosine = cosine(vector, &vectors[*i]);
        assert!(cosine >= 0.9999, "text {i}: cosine {cosine}");
    }
}

#[test]
fn an_unknown_model_is_refused_in_openai_form() {
    let s = serving();
    let trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    let (runtime, mut client) = connect(&s.guest.endpoint(), &trust, now()).unwrap();
    let error = runtime.block_on(client.embed("no-such-model", &["x".into()])).unwrap_err();
    assert!(error.to_string().contains("no-such-model"), "{error}");
}

#[test]
fn a_quote_of_a_foreign_simulated_root_is_refused() {
    let s = serving();
    let trust = s.stage.trust("foreign", s.reference.clone()).unwrap();
    let verdict = refusal(&trust, now()).unwrap();
    assert!(failed(&verdict).contains(&CheckName::TrustRoot), "{verdict}");
}

#[test]
fn a_production_policy_refuses_the_simulated_platform() {
    let s = serving();
    let mut trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    trust.policy = evidence::Policy::production();
    let verdict = refusal(&trust, now()).unwrap();
    assert!(failed(&verdict).contains(&CheckName::TrustRoot), "{verdict}");
}

#[test]
fn an_expired_simulated_root_is_refused() {
    let s = serving();
    let trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    let ten_years = 10 * 365 * 24 * 3600;
    let verdict = refusal(&trust, now() + ten_years).unwrap();
    assert!(!failed(&verdict).is_empty() && !verdict.accepted, "{verdict}");
    assert!(verdict.to_string().contains("expired") || verdict.to_string().contains("until"), "{verdict}");
}

#[test]
fn a_configuration_with_another_model_hash_is_refused() {
    let s = serving();
    let mut reference = s.reference.clone();
    let other = protocol::config::mrconfigid(b"schema = 1\nrole = \"worker\"\nnetwork = \"other\"\n");
    reference.mrconfigid = Some(measure::Digest384(other));
    let trust = s.stage.trust("demo", reference).unwrap();
    let verdict = refusal(&trust, now()).unwrap();
    assert_eq!(failed(&verdict), [CheckName::Mrconfigid], "{verdict}");
}

/// An attester of another key and connection that has nothing but somebody else's evidence.
struct Replay(Evidence);

impl Attester for Replay {
    fn quote(&self, _report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.quote.clone())
    }

    fn event_log(&self) -> Result<protocol::evidence::EventLog, AttestError> {
        Ok(self.0.event_log.clone())
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.runtime.clone())
    }
}

#[test]
fn a_quote_replayed_on_another_key_is_refused() {
    let s = serving();
    let trust = s.stage.trust("demo", s.reference.clone()).unwrap();
    let evidence = evidence_of(&s.guest.endpoint(), &trust, now()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let thief = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let static_config = evidence.static_config.clone();
        let quotes = QuoteQueue::new(Arc::new(Replay(evidence)), QuoteLimits::default());
        let endpoint = Endpoint::attested(Part::Worker, quotes, static_config);
        let acceptor = Acceptor::new(Arc::new(endpoint)).unwrap().anonymous();
        let (tcp, _) = listener.accept().await.unwrap();
        let _held = acceptor.accept(tcp).await;
        std::future::pending::<()>().await;
    });
    let error = connect(&thief, &trust, now()).err().expect("a refusal");
    let verdict = error.verdict().unwrap_or_else(|| panic!("no verdict: {error}"));
    assert_eq!(failed(verdict), [CheckName::ReportData], "{verdict}");
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

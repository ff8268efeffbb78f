//! What a verifier is shown by strangers, and the files that it is configured with.

use crate::{MEMORY, Target};
use evidence::{Bundle, BundlePart, Collateral, Inputs, Policy, PolicyFile, Quote, Reference};
use simulator::fault::{Case, Fault};
use std::sync::LazyLock;

/// Evidence files that `explain` reads, in whatever form people have them.
pub const EXPLAINED: Target =
    Target { name: "explained", run: run_explained, seeds: seeds_explained, memory: 4 * MEMORY };
/// TDX quotes, versions 4 and 5.
pub const QUOTE: Target = Target { name: "quote", run: run_quote, seeds: seeds_quote, memory: MEMORY };
/// Collateral files.
pub const COLLATERAL: Target =
    Target { name: "collateral", run: run_collateral, seeds: seeds_collateral, memory: MEMORY };
/// Bundles.
pub const BUNDLE: Target = Target { name: "bundle", run: run_bundle, seeds: seeds_bundle, memory: MEMORY };
/// Policy files.
pub const POLICY: Target = Target { name: "policy", run: run_policy, seeds: seeds_policy, memory: MEMORY };
/// Reference values.
pub const REFERENCE: Target =
    Target { name: "reference", run: run_reference, seeds: seeds_reference, memory: MEMORY };
/// A whole appraisal of a hostile quote beside good collateral.
pub const VERDICT: Target = Target { name: "verdict", run: run_verdict, seeds: seeds_quote, memory: MEMORY };

/// A good simulated platform's evidence: SIMULATED, made anew in each process.
#[expect(clippy::expect_used, reason = "a fuzzer without its simulated platform can only stop")]
static CASE: LazyLock<Case> = LazyLock::new(|| Fault::None.case().expect("a simulated platform can be made"));

fn run_explained(bytes: &[u8]) -> bool {
    measure::explain::Evidence::parse(bytes).is_ok()
}

fn seeds_explained() -> Vec<Vec<u8>> {
    let registers =
        "\"mrtd\":\"$\",\"rtmr0\":\"$\",\"rtmr1\":\"$\",\"rtmr2\":\"$\"".replace('$', &"ab".repeat(48));
    let event = format!("{{\"imr\":0,\"event_type\":4,\"digest\":\"{}\",\"event\":\"x\"}}", "cd".repeat(48));
    let texts =
        [format!("{{{registers}}}"), format!("{{\"registers\":{{{registers}}},\"event_log\":[{event}]}}")];
    let quote = seeds_quote();
    texts.map(String::into_bytes).into_iter().chain(quote).collect()
}

fn run_quote(bytes: &[u8]) -> bool {
    Quote::parse(bytes).is_ok()
}

fn seeds_quote() -> Vec<Vec<u8>> {
    vec![CASE.evidence.quote.clone()]
}

fn run_collateral(bytes: &[u8]) -> bool {
    Collateral::parse(bytes).is_ok()
}

fn seeds_collateral() -> Vec<Vec<u8>> {
    vec![CASE.collateral.to_json().into_bytes()]
}

fn run_bundle(bytes: &[u8]) -> bool {
    Bundle::from_bytes(bytes).is_ok_and(|bundle| bundle.collateral().is_ok() && bundle.reference().is_ok())
}

fn seeds_bundle() -> Vec<Vec<u8>> {
    let parts = vec![
        (BundlePart::Quote, CASE.evidence.quote.clone()),
        (BundlePart::Collateral, CASE.collateral.to_json().into_bytes()),
        (BundlePart::TakenAt, vec![0; 8]),
    ];
    Bundle::new(parts).map(|bundle| bundle.to_bytes()).into_iter().collect()
}

fn run_policy(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    PolicyFile::parse(text).is_ok_and(|file| file.resolve(Some(&CASE.root_der)).is_ok())
}

fn seeds_policy() -> Vec<Vec<u8>> {
    let simulated =
        "schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n[tcb]\naccept = [\"UpToDate\"]\n";
    vec![simulated.as_bytes().to_vec()]
}

fn run_reference(bytes: &[u8]) -> bool {
    Reference::parse(bytes).is_ok()
}

fn seeds_reference() -> Vec<Vec<u8>> {
    vec![serde_json::to_vec(&CASE.reference).unwrap_or_default()]
}

fn run_verdict(bytes: &[u8]) -> bool {
    let Ok(policy) = Policy::simulated(&CASE.root_der) else { return false };
    let verdict = evidence::verify(&Inputs {
        quote: bytes,
        collateral: &CASE.collateral,
        policy: &policy,
        event_log: Some(&CASE.evidence.event_log),
        static_config: Some(&CASE.evidence.static_config),
        runtime: Some(&CASE.evidence.runtime),
        reference: Some(&CASE.reference),
        report_data: Some(&CASE.report_data),
        at: CASE.at,
    });
    let _ = (verdict.to_string(), serde_json::to_string(&verdict));
    verdict.accepted
}

//! Checks from the root down to the quote's signature, and of what the signed collateral says about the platform.
//!
//! ```text
//! quote, collateral, root --look--> Endorsed --judge--> checks        look: signatures, dates, levels; no policy
//!                            ^ or from the cache                      judge: time and policy's settings
//! ```
//! Both the first look and a remembered one go through the same `judge`, so that they can't differ in words.

use crate::appraise::Inputs;
use crate::cache::{self, Cache};
use crate::certificate::Known;
use crate::chain::{self, Outcome, Step};
use crate::collateral::{Collateral, Document, PCK_CHAIN};
use crate::pck::Pck;
use crate::policy::{Platform, Policy};
use crate::quote::Quote;
use crate::tcb::{self, Evaluated, Tcb};
use crate::verdict::{Check, CheckName, Checks};
use crate::{module, tcb_checks, time};
use dcap_qvl::{QeIdentity, TcbInfo};
use std::sync::Arc;

/// What came of it.
#[derive(Default)]
pub(crate) struct Signed {
    /// Every signature holds, at the time that was asked for.
    pub(crate) verified: bool,
    pub(crate) tcb_status: Option<String>,
    pub(crate) tcb: Option<Tcb>,
    /// Every dated part.
    pub(crate) documents: Vec<Document>,
    /// What the library says of the TD's attributes, if that stopped it.
    pub(crate) attributes_fault: Option<String>,
}

/// Everything about a quote's platform that does not depend on the policy's settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endorsed {
    /// Every signature holds at the time that was asked for.
    pub(crate) verified: bool,
    /// Checks without the window's and the levels'.
    pub(crate) checks: Vec<Check>,
    pub(crate) window: Option<Result<Window, String>>,
    pub(crate) levels: Option<Levels>,
    pub(crate) attributes_fault: Option<String>,
    /// Public key of the PCK certificate, SEC1 uncompressed.
    pub(crate) pck_key: Vec<u8>,
}

/// Where the dates of all parts meet.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) documents: Vec<Document>,
    /// The latest start.
    pub(crate) from: u64,
    /// The earliest end.
    pub(crate) until: u64,
    /// Of which part that is.
    first: String,
}

/// TCB levels as found here, and what the library says to them.
#[derive(Debug, Clone)]
pub(crate) struct Levels {
    pub(crate) evaluated: Result<Evaluated, String>,
    pub(crate) library: Library,
}

/// The library's opinion of the levels.
#[derive(Debug, Clone)]
pub(crate) enum Library {
    /// This status.
    Status(String),
    /// It stopped at the levels, for this reason.
    Stopped(String),
    /// It stopped later and told no status.
    Silent,
}

impl Endorsed {
    /// Bytes that it takes in memory, about.
    pub(crate) fn size(&self) -> usize {
        let check = |check: &Check| {
            size_of::<Check>() + check.expected.len() + check.actual.len() + check.source.len()
        };
        let documents = self.window.iter().flatten().flat_map(|window| &window.documents);
        let documents = documents.map(|document| size_of::<Document>() + document.what.len());
        // The levels with their dates and advisories are a few hundred bytes.
        size_of::<Self>() + self.checks.iter().map(check).chain(documents).sum::<usize>() + 1024
    }
}

impl Window {
    pub(crate) fn holds(&self, at: u64) -> bool {
        self.from <= at && at < self.until
    }

    fn of(documents: Vec<Document>) -> Result<Self, String> {
        let from = documents.iter().map(|part| part.from).max().unwrap_or(0);
        let first = documents.iter().min_by_key(|part| part.until).ok_or("no dated part")?;
        let (until, first) = (first.until, first.what.clone());
        Ok(Window { documents, from, until, first })
    }

    /// The time that was asked for, or one at which the collateral did hold, so that the other checks can still be told
    /// apart.
    fn verify_at(&self, at: u64) -> u64 {
        if self.holds(at) || self.from >= self.until { at } else { self.from }
    }
}

/// Name, step, what is expected and where the expectation comes from.
const STEPS: [(CheckName, Step, &str, &str); 5] = [
    (CheckName::TcbInfo, Step::TcbInfo, "TCB info signed under the root", "collateral: tcb_info"),
    (CheckName::QeIdentity, Step::QeIdentity, "QE identity signed under the root", "collateral: qe_identity"),
    (
        CheckName::PckChain,
        Step::PckChain,
        "PCK certificate under the root, not revoked",
        "quote and collateral: CRLs",
    ),
    (
        CheckName::QeReport,
        Step::QeReport,
        "QE report signed by the PCK, of the QE in the QE identity, naming the attestation key",
        "collateral: qe_identity",
    ),
    (CheckName::QuoteSignature, Step::QuoteSignature, "quote signed by the attestation key", "QE report"),
];

/// Looks, or remembers, then judges.
pub(crate) fn check(
    checks: &mut Checks,
    inputs: &Inputs<'_>,
    quote: &Quote,
    cache: Option<&Cache>,
) -> Signed {
    let Some(cache) = cache else {
        return judge(checks, inputs, &look(inputs, quote));
    };
    let key = cache::key(inputs, quote);
    let endorsed = cache.known(key.as_ref(), inputs, quote).unwrap_or_else(|| {
        let found = Arc::new(look(inputs, quote));
        cache.learn(key, inputs, quote, &found);
        found
    });
    judge(checks, inputs, &endorsed)
}

/// Everything from the bytes: every chain, CRL, document and signature.
fn look(inputs: &Inputs<'_>, quote: &Quote) -> Endorsed {
    let (collateral, policy) = (inputs.collateral, inputs.policy);
    let pck = collateral.read_pck_chain(&quote.signature.pck_chain);
    let mut found = Endorsed::default();
    let mut checks = Checks::new();
    if foreign_root(&mut checks, collateral, policy, &pck) {
        found.checks = checks.into_inner();
        return found;
    }
    let window = match collateral.with_chain(&pck).and_then(Window::of) {
        Ok(window) => window,
        Err(why) => {
            found.window = Some(Err(why));
            return found;
        }
    };
    let holds = window.holds(inputs.at);
    let outcome = chain::verify(inputs.quote, collateral.fields(), policy, window.verify_at(inputs.at));
    steps(&mut checks, policy, &outcome, holds.then_some(window.until));
    found.verified = holds && matches!(outcome, Outcome::Verified(_));
    found.attributes_fault = outcome.stopped(Step::Attributes).map(str::to_owned);
    found.window = Some(Ok(window));
    if outcome.passed(Step::QuoteSignature) {
        found.levels = levels(&mut checks, collateral, quote, &pck, &outcome);
        found.pck_key =
            pck.ok().and_then(|chain| Some(chain.first()?.public_key()?.to_vec())).unwrap_or_default();
    }
    found.checks = checks.into_inner();
    found
}

fn judge(checks: &mut Checks, inputs: &Inputs<'_>, endorsed: &Endorsed) -> Signed {
    checks.extend(&endorsed.checks);
    let mut signed = Signed {
        verified: endorsed.verified,
        attributes_fault: endorsed.attributes_fault.clone(),
        ..Signed::default()
    };
    let Some(window) = &endorsed.window else { return signed };
    let until = judge_window(checks, inputs.at, window);
    if let Ok(window) = window {
        signed.documents.clone_from(&window.documents);
    }
    if let Some(levels) = &endorsed.levels {
        tcb_checks::check(checks, inputs, levels, until);
        if let Ok(evaluated) = &levels.evaluated {
            signed.tcb_status = Some(evaluated.status.to_string());
            signed.tcb = Some(evaluated.tcb.clone());
        }
    }
    signed
}

/// Until when all parts hold, if they do.
fn judge_window(checks: &mut Checks, at: u64, window: &Result<Window, String>) -> Option<u64> {
    let expected = format!("all parts hold at {}", time::show(at));
    let source = "collateral: dates of documents, CRLs and certificates";
    let window = match window {
        Ok(window) => window,
        Err(why) => {
            checks.judge(CheckName::CollateralWindow, false, &expected, why, source);
            return None;
        }
    };
    let holds = window.holds(at);
    let (from, until) = (time::show(window.from), time::show(window.until));
    let found = if holds {
        format!("all {} hold from {from} until {until} ({})", window.documents.len(), window.first)
    } else {
        let faults: Vec<String> = window.documents.iter().filter_map(|part| part.fault(at)).collect();
        faults.join("; ")
    };
    checks.judge(CheckName::CollateralWindow, holds, expected, found, source);
    checks.expires(Some(window.until));
    holds.then_some(window.until)
}

fn root_words(policy: &Policy) -> (String, &'static str) {
    let whose = match policy.platform() {
        Platform::Tdx => "Intel's root",
        Platform::Simulated => "simulated root",
    };
    (format!("{whose}, SHA-256 {}", policy.root_fingerprint()), "policy")
}

/// Whether a chain ends in a self-issued certificate that is not the policy's root. A chain need not contain its root;
/// then the signatures tell.
fn foreign_root(
    checks: &mut Checks,
    collateral: &Collateral,
    policy: &Policy,
    pck: &Result<Vec<Arc<Known>>, String>,
) -> bool {
    let own = pck.as_ref().ok().and_then(|chain| Some((PCK_CHAIN, chain.last()?.as_ref())));
    for (what, end) in own.into_iter().chain(collateral.ends()) {
        if end.other_root(policy.root_key_id()) {
            let found = format!("{what} ends in {}", end.words());
            let (expected, source) = root_words(policy);
            checks.judge(CheckName::TrustRoot, false, &expected, &found, source);
            return true;
        }
    }
    false
}

fn steps(checks: &mut Checks, policy: &Policy, outcome: &Outcome, expires: Option<u64>) {
    let (expected, source) = root_words(policy);
    let fault = outcome.stopped(Step::TrustRoot);
    checks.judge(CheckName::TrustRoot, fault.is_none(), &expected, fault.unwrap_or(&expected), source);
    for (name, step, expected, source) in STEPS {
        if outcome.passed(step) {
            checks.judge(name, true, expected, "signatures hold", source);
            checks.expires(expires);
        } else if let Some(why) = outcome.stopped(step) {
            checks.judge(name, false, expected, why, source);
        }
    }
}

/// What the signed collateral says of this platform. Only reached when the signatures hold; `None` where it is another
/// platform's.
fn levels(
    checks: &mut Checks,
    collateral: &Collateral,
    quote: &Quote,
    pck: &Result<Vec<Arc<Known>>, String>,
    outcome: &Outcome,
) -> Option<Levels> {
    let library = match outcome {
        Outcome::Verified(status) => Library::Status(status.clone()),
        Outcome::Stopped(Step::Levels, why) => Library::Stopped(why.clone()),
        Outcome::Stopped(..) => Library::Silent,
    };
    let (info, identity, pck) = match documents(collateral, pck) {
        Ok(documents) => documents,
        Err(why) => return Some(Levels { evaluated: Err(why), library }),
    };
    if !fmspc(checks, info, &pck) {
        return None;
    }
    module::check(checks, &quote.td, info);
    Some(Levels { evaluated: tcb::evaluate(info, identity, quote, &pck), library })
}

fn documents<'a>(
    collateral: &'a Collateral,
    pck: &Result<Vec<Arc<Known>>, String>,
) -> Result<(&'a TcbInfo, &'a QeIdentity, Pck), String> {
    let (info, identity) = collateral.signed()?;
    let leaf = pck.as_ref().map_err(String::clone)?.first().ok_or("PCK chain: empty")?;
    let pck = leaf.pck().map_err(|e| format!("PCK certificate: {e}"))?;
    Ok((info, identity, pck))
}

fn fmspc(checks: &mut Checks, info: &TcbInfo, pck: &Pck) -> bool {
    let expected = format!("TDX, FMSPC {}, PCE id {}", hex::encode(pck.fmspc), hex::encode(&pck.pce_id));
    let found =
        format!("{}, FMSPC {}, PCE id {}", info.id, info.fmspc.to_lowercase(), info.pce_id.to_lowercase());
    let good = found == expected && info.version >= 3;
    checks.judge(CheckName::Fmspc, good, expected, found, "PCK certificate, SGX extensions");
    good
}

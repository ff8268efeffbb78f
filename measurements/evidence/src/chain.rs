//! The quote's signatures, from the root down, through dcap-qvl.
//!
//! dcap-qvl stops at its first finding and says it in words. Its order is fixed, so the step that stopped it tells which
//! steps passed and which were not reached; a finding in unknown words counts against the very first step, so that
//! nothing is ever claimed to have passed on a guess.
//!
//! ```text
//! TrustRoot -> TcbInfo -> QeIdentity -> PckChain -> QeReport -> QuoteSignature -> Levels -> Attributes -> done
//! ```

use crate::policy::Policy;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;

/// How far the verification came, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    TrustRoot,
    TcbInfo,
    QeIdentity,
    PckChain,
    QeReport,
    QuoteSignature,
    Levels,
    Attributes,
}

/// What dcap-qvl says.
pub(crate) enum Outcome {
    /// Every signature holds; the TCB status as the library finds it.
    Verified(String),
    /// It stopped here, for this reason.
    Stopped(Step, String),
}

impl Outcome {
    /// Whether this step was passed.
    pub(crate) fn passed(&self, step: Step) -> bool {
        match self {
            Outcome::Verified(_) => true,
            Outcome::Stopped(at, _) => step < *at,
        }
    }

    /// The reason, if it stopped at this step.
    pub(crate) fn stopped(&self, step: Step) -> Option<&str> {
        match self {
            Outcome::Stopped(at, why) if *at == step => Some(why),
            _ => None,
        }
    }
}

/// Parts of dcap-qvl's findings and the step that they belong to; the first that is found counts, so the more special
/// stand before the more general.
const FINDINGS: &[(&str, Step)] = &[
    ("QE report", Step::QeReport),
    ("qe_report", Step::QeReport),
    ("QE MRSIGNER", Step::QeReport),
    ("QE ISVPRODID", Step::QeReport),
    ("QE MISCSELECT", Step::QeReport),
    ("QE ATTRIBUTES", Step::QeReport),
    ("QE ISVSVN", Step::QeReport),
    ("No TCB levels found in QE Identity", Step::QeReport),
    ("in QE Identity", Step::QeReport),
    ("Invalid QE auth data length", Step::QeReport),
    ("ISV enclave report signature", Step::QuoteSignature),
    ("Fmspc mismatch", Step::Levels),
    ("Failed to decode TCB FMSPC", Step::Levels),
    ("non-TDX TCB info", Step::Levels),
    ("No matching TCB level", Step::Levels),
    ("Unrecognized TCB status", Step::Levels),
    ("component count mismatch", Step::Levels),
    ("TDX module", Step::Levels),
    ("tdxModule", Step::Levels),
    ("current TDX TCB", Step::Levels),
    ("tcbDate", Step::Levels),
    ("TCB status is invalid: Revoked", Step::Levels),
    ("Debug mode", Step::Attributes),
    ("TD profiling", Step::Attributes),
    ("TD attributes", Step::Attributes),
    ("TD migration", Step::Attributes),
    ("SERVTD_EXT", Step::Attributes),
    ("SEPT_VE_DISABLE", Step::Attributes),
    ("MR service TD", Step::Attributes),
    ("PCK cert", Step::PckChain),
    ("too short in quote", Step::PckChain),
    ("ntel extension", Step::PckChain),
    ("Fmspc", Step::PckChain),
    ("CpuSvn", Step::PckChain),
    ("PceSvn", Step::PckChain),
    ("QE Identity", Step::QeIdentity),
    ("QeIdentity", Step::QeIdentity),
    ("qe_identity", Step::QeIdentity),
    ("TCB Info", Step::TcbInfo),
    ("TCBInfo", Step::TcbInfo),
    ("TcbInfo", Step::TcbInfo),
    ("tcb_info", Step::TcbInfo),
];
const CHAIN: &str = "Failed to verify certificate chain";

/// Verifies at `at`, with the policy's root.
pub(crate) fn verify(quote: &[u8], collateral: &QuoteCollateralV3, policy: &Policy, at: u64) -> Outcome {
    let why = match run(quote, collateral, policy, at) {
        Ok(status) => return Outcome::Verified(status),
        Err(why) => why,
    };
    if why.contains(CHAIN) {
        let step = which_chain(quote, collateral, policy, at);
        return Outcome::Stopped(step, why);
    }
    let found = FINDINGS.iter().find(|(words, _)| why.contains(words));
    Outcome::Stopped(found.map_or(Step::TrustRoot, |(_, step)| *step), why)
}

fn run(quote: &[u8], collateral: &QuoteCollateralV3, policy: &Policy, at: u64) -> Result<String, String> {
    let verifier = match policy.simulated_root() {
        None => QuoteVerifier::new_prod(),
        Some(root) => QuoteVerifier::new(root.to_vec()),
    };
    // Both are judged by checks of our own, which refuse DEBUG always; here they would only hide the TCB status.
    let verifier = verifier.allow_debug(true).allow_service_td(true);
    verifier.verify(quote, collateral, at).map(|report| report.status).map_err(|e| format!("{e:#}"))
}

/// dcap-qvl says in the same words that any of three chains is bad. Asked again with a chain of the collateral in the
/// place of a suspect, it goes on past the suspect if that was the bad one.
fn which_chain(quote: &[u8], collateral: &QuoteCollateralV3, policy: &Policy, at: u64) -> Step {
    let still_bad =
        |changed: &QuoteCollateralV3| run(quote, changed, policy, at).is_err_and(|why| why.contains(CHAIN));
    let mut changed = collateral.clone();
    changed.pck_certificate_chain = Some(collateral.tcb_info_issuer_chain.clone());
    if !still_bad(&changed) {
        return Step::PckChain;
    }
    changed.qe_identity_issuer_chain = collateral.tcb_info_issuer_chain.clone();
    if still_bad(&changed) { Step::TcbInfo } else { Step::QeIdentity }
}

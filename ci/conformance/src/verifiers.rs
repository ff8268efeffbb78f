//! The two verifiers that a case is run through.

use anyhow::Result;
use dcap_qvl::verify::QuoteVerifier;
use evidence::{Inputs, Policy, verify};
use serde::Serialize;
use simulator::fault::Case;

/// What dcap-qvl alone makes of a case, with the case's root and collateral at its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Library {
    /// It refuses, for this reason.
    Refused(String),
    /// It verifies, and says a status other than `UpToDate`: a caller who looks is warned.
    Status(String),
    /// It verifies and says `UpToDate`.
    Accepted,
    /// The case has no TDX quote.
    NotItsSubject,
}

/// The checks that fail.
pub fn ours(case: &Case) -> Result<Vec<&'static str>> {
    let policy = Policy::simulated(&case.root_der)?;
    let verdict = verify(&Inputs {
        quote: &case.evidence.quote,
        collateral: &case.collateral,
        policy: &policy,
        event_log: Some(&case.evidence.event_log),
        static_config: Some(&case.evidence.static_config),
        runtime: Some(&case.evidence.runtime),
        reference: Some(&case.reference),
        report_data: Some(&case.report_data),
        at: case.at,
    });
    Ok(verdict.failed().map(|check| check.name.as_str()).collect())
}

/// As a caller of `QuoteVerifier::verify` sees it.
pub fn library(case: &Case) -> Library {
    let verifier = QuoteVerifier::new(case.root_der.clone());
    match verifier.verify(&case.evidence.quote, case.collateral.fields(), case.at) {
        Err(error) => Library::Refused(format!("{error:#}")),
        Ok(report) if report.status == "UpToDate" => Library::Accepted,
        Ok(report) => Library::Status(report.status),
    }
}

//! The appraisal (RFC 9334): evidence, endorsements, reference values and policy in, a verdict out.
//!
//! Pure: the time is passed in, nothing is fetched. [`verify`] answers whatever was asked and says what was not;
//! [`appraise`] asks everything, and only its success makes an [`Appraised`].

use crate::cache::Cache;
use crate::collateral::Collateral;
use crate::policy::Policy;
use crate::quote::Quote;
use crate::reference::Reference;
use crate::td::TdReport;
use crate::verdict::{CheckName, Checks, Verdict};
use crate::{bound, log, runtime, signatures, td_checks};
use measure::Registers;
use measure::wire::{EventLog, Evidence};

/// What a verifier has at hand. A check whose input is missing is listed as skipped.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Raw quote.
    pub quote: &'a [u8],
    /// Collateral of the quote's platform.
    pub collateral: &'a Collateral,
    /// What is accepted.
    pub policy: &'a Policy,
    /// Event log of the boot.
    pub event_log: Option<&'a EventLog>,
    /// Bytes that MRCONFIGID should commit to.
    pub static_config: Option<&'a [u8]>,
    /// Record of the guest's own events ([`measure::runtime::RuntimeRecord`]).
    pub runtime: Option<&'a [u8]>,
    /// Registers of the releases that are accepted; without them, those that the policy brings.
    pub reference: Option<&'a Reference>,
    /// What the quote was asked to contain.
    pub report_data: Option<&'a [u8; 64]>,
    /// Unix seconds.
    pub at: u64,
}

impl<'a> Inputs<'a> {
    /// The reference values given, or those that the policy brings.
    pub(crate) fn reference(&self) -> Option<&'a Reference> {
        self.reference.or(self.policy.reference())
    }
}

/// A guest that was appraised and found right. There is no other way to one than [`appraise`].
#[derive(Debug, Clone)]
pub struct Appraised {
    verdict: Verdict,
    td: TdReport,
}

impl Appraised {
    /// The whole verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The TD report, verified.
    pub fn td(&self) -> &TdReport {
        &self.td
    }

    /// The registers, verified.
    pub fn registers(&self) -> Registers {
        self.td.registers()
    }

    /// When the appraisal must be made anew, Unix seconds.
    pub fn expires(&self) -> Option<u64> {
        self.verdict.expires()
    }
}

/// Evidence that was not accepted, with everything that was found.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Refused(Box<Verdict>);

impl Refused {
    /// The whole verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.0
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let simulated = if self.0.platform == crate::Platform::Simulated { "SIMULATED " } else { "" };
        write!(f, "{simulated}evidence refused")?;
        for check in self.0.failed() {
            let (name, next) = (check.name.as_str(), check.name.next_step());
            write!(f, "; {name}: expected {}, found {}; next: {next}", check.expected, check.actual)?;
        }
        for check in self.0.skipped().filter(|check| !check.actual.starts_with("not reached")) {
            write!(f, "; {} was not checked: {}", check.name.as_str(), check.actual)?;
        }
        Ok(())
    }
}

/// Appraises everything about a guest.
pub fn appraise(
    evidence: &Evidence,
    collateral: &Collateral,
    policy: &Policy,
    reference: &Reference,
    expected_report_data: &[u8; 64],
    at: u64,
) -> Result<Appraised, Refused> {
    appraise_with(None, evidence, collateral, policy, reference, expected_report_data, at)
}

pub(crate) fn appraise_with(
    cache: Option<&Cache>,
    evidence: &Evidence,
    collateral: &Collateral,
    policy: &Policy,
    reference: &Reference,
    expected_report_data: &[u8; 64],
    at: u64,
) -> Result<Appraised, Refused> {
    let inputs = Inputs {
        quote: &evidence.quote,
        collateral,
        policy,
        event_log: Some(&evidence.event_log),
        static_config: Some(&evidence.static_config),
        runtime: Some(&evidence.runtime),
        reference: Some(reference),
        report_data: Some(expected_report_data),
        at,
    };
    let verdict = verify_with(cache, &inputs);
    match &verdict.td {
        Some(td) if verdict.accepted && verdict.complete => {
            let td = td.clone();
            Ok(Appraised { verdict, td })
        }
        _ => Err(Refused(Box::new(verdict))),
    }
}

/// Runs every check that the inputs allow.
pub fn verify(inputs: &Inputs<'_>) -> Verdict {
    verify_with(None, inputs)
}

pub(crate) fn verify_with(cache: Option<&Cache>, inputs: &Inputs<'_>) -> Verdict {
    let mut checks = Checks::new();
    let source = "Intel TDX DCAP Quoting Library API, A.3 and A.4";
    let wanted = "a TDX quote of version 4 or 5, with nothing but zeros after it";
    let quote = match Quote::parse(inputs.quote) {
        Ok(quote) => quote,
        Err(error) => {
            checks.judge(CheckName::QuoteFormat, false, wanted, &error.to_string(), source);
            return conclude(inputs, checks, None, signatures::Signed::default());
        }
    };
    let mut found = format!("version {}, {} bytes signed", quote.version, quote.signed_len);
    if quote.padding > 0 {
        found += &format!(", {} zero bytes trail", quote.padding);
    }
    checks.judge(CheckName::QuoteFormat, true, wanted, found, source);
    let signed = signatures::check(&mut checks, inputs, &quote, cache);
    td_checks::check(&mut checks, &quote.td, inputs.policy, signed.attributes_fault.as_deref());
    let reference = inputs.reference();
    bound::mrconfigid(&mut checks, &quote.td, inputs.static_config, reference);
    bound::registers(&mut checks, &quote.td, reference);
    let (platform, replays) = (inputs.policy.platform(), cache.map(Cache::replays));
    log::check(&mut checks, &quote.td, inputs.event_log, platform, replays, signed.verified);
    runtime::check(&mut checks, &quote.td, inputs.runtime, reference);
    bound::report_data(&mut checks, &quote.td, inputs.report_data);
    conclude(inputs, checks, Some(quote.td), signed)
}

fn conclude(
    inputs: &Inputs<'_>,
    checks: Checks,
    td: Option<TdReport>,
    signed: signatures::Signed,
) -> Verdict {
    // Both must say so: no check failed, and the signatures held at the very time that was asked for.
    let accepted = signed.verified && !checks.any_failed();
    let checks = checks.finish();
    let registers = td.as_ref().map(TdReport::registers);
    let release = registers.as_ref().and_then(|r| inputs.reference()?.matching(r)).map(|r| r.name.clone());
    Verdict {
        accepted,
        complete: checks.iter().all(|check| check.status != crate::Status::Skipped),
        platform: inputs.policy.platform(),
        at: inputs.at,
        tcb_status: signed.tcb_status,
        release,
        registers,
        td,
        tcb: signed.tcb,
        collateral: signed.documents,
        checks,
    }
}

//! Checks from the root down to the quote's signature, and of what the signed collateral says about the platform.

use crate::appraise::Inputs;
use crate::chain::{self, Outcome, Step};
use crate::collateral::{self, Dated};
use crate::policy::{self, Platform};
use crate::quote::Quote;
use crate::tcb::{self, Tcb};
use crate::time;
use crate::verdict::{CheckName, Checks};
use dcap_qvl::intel::{PckExtension, parse_pck_extension_from_pem};
use dcap_qvl::{QeIdentity, TcbInfo, TcbStatus};
use x509_cert::der::Encode;

/// What came of it.
#[derive(Default)]
pub(crate) struct Signed {
    /// Every signature holds, at the time that was asked for.
    pub(crate) verified: bool,
    pub(crate) tcb_status: Option<String>,
    pub(crate) tcb: Option<Tcb>,
    /// What the library says of the TD's attributes, if that stopped it.
    pub(crate) attributes_fault: Option<String>,
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

pub(crate) fn check(checks: &mut Checks, inputs: &Inputs<'_>, quote: &Quote) -> Signed {
    let fields = &inputs.collateral.0;
    let pck_chain = collateral::pck_chain(fields, &quote.signature.pck_chain);
    if foreign_root(checks, inputs, &pck_chain) {
        return Signed::default();
    }
    let Some(window) = window(checks, inputs, &pck_chain) else { return Signed::default() };
    let outcome = chain::verify(inputs.quote, fields, inputs.policy, window.verify_at);
    root(checks, inputs, &outcome);
    for (name, step, expected, source) in STEPS {
        if outcome.passed(step) {
            checks.judge(name, true, expected, "signatures hold", source);
            checks.expires(window.expires);
        } else if let Some(why) = outcome.stopped(step) {
            checks.judge(name, false, expected, why, source);
        }
    }
    let mut signed = Signed {
        verified: matches!(outcome, Outcome::Verified(_)) && window.holds,
        attributes_fault: outcome.stopped(Step::Attributes).map(str::to_owned),
        ..Signed::default()
    };
    if outcome.passed(Step::QuoteSignature) {
        levels(checks, inputs, quote, &pck_chain, &outcome, &mut signed);
        if checks.has(CheckName::Tcb) {
            checks.expires(window.expires);
        }
    }
    signed
}

fn root_words(inputs: &Inputs<'_>) -> (String, &'static str) {
    let whose = match inputs.policy.platform() {
        Platform::Tdx => "Intel's root",
        Platform::Simulated => "simulated root",
    };
    (format!("{whose}, SHA-256 {}", inputs.policy.root_fingerprint()), "policy")
}

/// Whether a chain ends in a self-issued certificate that is not the policy's root. A chain need not contain its root;
/// then the signatures tell.
fn foreign_root(checks: &mut Checks, inputs: &Inputs<'_>, pck_chain: &str) -> bool {
    let fields = &inputs.collateral.0;
    let chains = [
        ("PCK chain", pck_chain),
        ("TCB info chain", fields.tcb_info_issuer_chain.as_str()),
        ("QE identity chain", fields.qe_identity_issuer_chain.as_str()),
    ];
    for (what, pem) in chains {
        let last = collateral::certificates(what, pem).ok().and_then(|chain| chain.into_iter().last());
        let Some(last) = last else { continue };
        let tbs = last.tbs_certificate();
        if tbs.issuer() == tbs.subject() && policy::key_id(&last) != inputs.policy.root_key_id() {
            let print = last.to_der().map(|der| policy::fingerprint(&der)).unwrap_or_default();
            let found = format!("{what} ends in `{}`, SHA-256 {print}", tbs.subject());
            let (expected, source) = root_words(inputs);
            checks.judge(CheckName::TrustRoot, false, &expected, &found, source);
            return true;
        }
    }
    false
}

fn root(checks: &mut Checks, inputs: &Inputs<'_>, outcome: &Outcome) {
    let (expected, source) = root_words(inputs);
    match outcome {
        Outcome::Stopped(Step::TrustRoot, why) => {
            checks.judge(CheckName::TrustRoot, false, &expected, why, source);
        }
        Outcome::Verified(claims) => {
            let good = hex::encode(&claims.platform.root_key_id) == inputs.policy.root_key_id();
            checks.judge(CheckName::TrustRoot, good, &expected, &expected, source);
        }
        Outcome::Stopped(..) => checks.judge(CheckName::TrustRoot, true, &expected, &expected, source),
    }
}

struct Window {
    /// The collateral holds at the time that was asked for.
    holds: bool,
    /// That time, or one at which the collateral did hold, so that the other checks can still be told apart.
    verify_at: u64,
    expires: Option<u64>,
}

fn window(checks: &mut Checks, inputs: &Inputs<'_>, pck_chain: &str) -> Option<Window> {
    let at = inputs.at;
    let expected = format!("all parts hold at {}", time::show(at));
    let source = "collateral: dates of documents, CRLs and certificates";
    let parts = match collateral::parts(&inputs.collateral.0, pck_chain) {
        Ok(parts) => parts,
        Err(why) => {
            checks.judge(CheckName::CollateralWindow, false, &expected, &why, source);
            return None;
        }
    };
    let from = parts.iter().map(|part| part.from).max().unwrap_or(0);
    let until = parts.iter().min_by_key(|part| part.until)?;
    let faults: Vec<String> = parts.iter().filter_map(|part: &Dated| part.fault(at)).collect();
    let holds = faults.is_empty();
    let first =
        || format!("all hold from {} until {} ({})", time::show(from), time::show(until.until), until.what);
    let found = if holds { first() } else { faults.join("; ") };
    checks.judge(CheckName::CollateralWindow, holds, &expected, &found, source);
    checks.expires(Some(until.until));
    let verify_at = if holds || from >= until.until { at } else { from };
    Some(Window { holds, verify_at, expires: holds.then_some(until.until) })
}

/// What the signed collateral says of this platform. Only reached when the signatures hold.
fn levels(
    checks: &mut Checks,
    inputs: &Inputs<'_>,
    quote: &Quote,
    pck_chain: &str,
    outcome: &Outcome,
    signed: &mut Signed,
) {
    let accept = &inputs.policy.settings.accept;
    let words: Vec<String> = accept.iter().map(ToString::to_string).collect();
    let expected = words.join(" or ");
    let source = "policy and collateral: tcb_info";
    let (info, identity, pck) = match documents(inputs, pck_chain) {
        Ok(documents) => documents,
        Err(why) => return checks.judge(CheckName::Tcb, false, &expected, &why, source),
    };
    if !fmspc(checks, &info, &pck) {
        return;
    }
    module(checks, quote, &info);
    let evaluated = match tcb::evaluate(&info, &identity, quote, &pck) {
        Ok(evaluated) => evaluated,
        Err(why) => return checks.judge(CheckName::Tcb, false, &expected, &why, source),
    };
    signed.tcb_status = Some(evaluated.status.to_string());
    let found = format!("{}: {}", evaluated.status, evaluated.tcb.words());
    signed.tcb = Some(evaluated.tcb);
    let good = accept.contains(&evaluated.status) && evaluated.status != TcbStatus::Revoked;
    // Second opinions: of the library on the status, and on anything that the checks here took for good.
    let (good, found) = match outcome {
        Outcome::Verified(claims) if claims.tcb.status != evaluated.status => {
            (false, format!("two evaluations differ: {found}; dcap-qvl: {}", claims.tcb.status))
        }
        Outcome::Stopped(Step::Levels, why) if good && !checks.any_failed() => (false, why.clone()),
        _ => (good, found),
    };
    checks.judge(CheckName::Tcb, good, &expected, &found, source);
}

fn documents(inputs: &Inputs<'_>, pck_chain: &str) -> Result<(TcbInfo, QeIdentity, PckExtension), String> {
    let fields = &inputs.collateral.0;
    let info = serde_json::from_str(&fields.tcb_info).map_err(|e| format!("TCB info: {e}"))?;
    let identity = serde_json::from_str(&fields.qe_identity).map_err(|e| format!("QE identity: {e}"))?;
    let pck =
        parse_pck_extension_from_pem(pck_chain.as_bytes()).map_err(|e| format!("PCK certificate: {e:#}"))?;
    Ok((info, identity, pck))
}

fn fmspc(checks: &mut Checks, info: &TcbInfo, pck: &PckExtension) -> bool {
    let expected = format!("TDX, FMSPC {}, PCE id {}", hex::encode(pck.fmspc), hex::encode(&pck.pce_id));
    let found =
        format!("{}, FMSPC {}, PCE id {}", info.id, info.fmspc.to_lowercase(), info.pce_id.to_lowercase());
    let good = found == expected && info.version >= 3;
    checks.judge(CheckName::Fmspc, good, &expected, &found, "PCK certificate, SGX extensions");
    good
}

/// Signer and attributes of the TDX module, against the TCB info's entry for its version.
fn module(checks: &mut Checks, quote: &Quote, info: &TcbInfo) {
    let td = &quote.td;
    let identity = info.tdx_module_identity(&td.tee_tcb_svn.0).ok().flatten();
    let wanted = match (identity, &info.tdx_module) {
        (Some(id), _) => Some((&id.mrsigner, &id.attributes, &id.attributes_mask)),
        (None, Some(module)) => Some((&module.mrsigner, &module.attributes, &module.attributes_mask)),
        (None, None) => None,
    };
    let found = format!("signer {}, attributes {}", td.mrsignerseam, td.seam_attributes);
    let source = "collateral: tcb_info, TDX module";
    let Some((signer, attributes, mask)) = wanted else {
        let expected = "an entry for this TDX module";
        return checks.judge(CheckName::Mrsignerseam, false, expected, "no entry", source);
    };
    let expected = format!("signer {}, attributes {}", signer.to_lowercase(), attributes.to_lowercase());
    let good = signer.eq_ignore_ascii_case(&td.mrsignerseam.to_string())
        && seam_attributes_match(attributes, mask, &td.seam_attributes.0);
    checks.judge(CheckName::Mrsignerseam, good, &expected, &found, source);
}

/// Bits under the mask as wanted, all others zero.
fn seam_attributes_match(wanted: &str, mask: &str, found: &[u8; 8]) -> bool {
    let (Ok(wanted), Ok(mask)) = (hex::decode(wanted), hex::decode(mask)) else { return false };
    wanted.len() == 8
        && mask.len() == 8
        && found.iter().zip(wanted.iter().zip(&mask)).all(|(f, (w, m))| f & m == w & m && f & !m == 0)
}

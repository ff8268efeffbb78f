//! Identity of the TDX module: who signed it and how it is configured, as the TCB info has it for its version.
//!
//! Intel PCS API, "TCB Info V3": `tdxModuleIdentities` by module version (TEE_TCB_SVN byte 1), `tdxModule` for version 0.

use crate::td::TdReport;
use crate::verdict::{CheckName, Checks};
use dcap_qvl::TcbInfo;

/// Signer and attributes of the TDX module, against the TCB info's entry for its version.
pub(crate) fn check(checks: &mut Checks, td: &TdReport, info: &TcbInfo) {
    let identity = info.tdx_module_identity(&td.tee_tcb_svn.0).ok().flatten();
    let wanted = match (identity, &info.tdx_module) {
        (Some(id), _) => Some((id.id.as_str(), &id.mrsigner, &id.attributes, &id.attributes_mask)),
        (None, Some(module)) if td.tee_tcb_svn.0[1] == 0 => {
            Some(("tdxModule", &module.mrsigner, &module.attributes, &module.attributes_mask))
        }
        (None, _) => None,
    };
    let version = format!("version {}, ISVSVN {}", td.tee_tcb_svn.0[1], td.tee_tcb_svn.0[0]);
    let source = "collateral: tcb_info, TDX module";
    let Some((id, signer, attributes, mask)) = wanted else {
        let found = format!("no entry for {version}");
        return checks.judge(CheckName::Mrsignerseam, false, "an entry for this TDX module", &found, source);
    };
    let words = |signer: &str, attributes: &str| format!("signer {signer}, attributes {attributes}");
    let expected = format!("{}, {id}", words(&signer.to_lowercase(), &attributes.to_lowercase()));
    let signed = td.mrsignerseam.to_string();
    let found = format!("{}, {version}", words(&signed, &td.seam_attributes.to_string()));
    let good = signer.eq_ignore_ascii_case(&signed) && matches(attributes, mask, &td.seam_attributes.0);
    checks.judge(CheckName::Mrsignerseam, good, &expected, &found, source);
}

/// Bits under the mask as wanted, all others zero.
fn matches(wanted: &str, mask: &str, found: &[u8; 8]) -> bool {
    let (Ok(wanted), Ok(mask)) = (hex::decode(wanted), hex::decode(mask)) else { return false };
    wanted.len() == 8
        && mask.len() == 8
        && found.iter().zip(wanted.iter().zip(&mask)).all(|(f, (w, m))| f & m == w & m && f & !m == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn bits_outside_of_the_mask_must_be_zero() {
        let zeros = "0000000000000000";
        assert!(super::matches(zeros, "ffffffffffffffff", &[0; 8]));
        assert!(!super::matches(zeros, zeros, &[0, 1, 0, 0, 0, 0, 0, 0]));
        assert!(!super::matches(zeros, "ff", &[0; 8]));
    }
}

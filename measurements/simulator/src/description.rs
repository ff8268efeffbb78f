//! A simulated platform as text: what it is like, and what is wrong with it.
//!
//! ```toml
//! cpu-svn = "01010101010101010101010101010101"   # in the PCK certificate
//! pce-svn = 1
//! qe-mrsigner = "hex"                            # in the QE report; its identity always names the right one
//! qe-isvsvn = 1
//! qe-attributes = "hex"
//! tcb-info-id = "TDX"                            # what the TCB info says that it is of
//! tcb-info-fmspc = "53494d554c41"
//! tcb-info-pce-id = "0000"
//! tcb-status = "UpToDate"                        # of the highest level of the platform
//! revoked = ["pck"]                              # of pck, pck-ca, tcb-signer, root
//! expired = ["tcb-info"]                         # any part
//! forged = ["pck-crl"]                           # signed by a key that is not its issuer's
//! ```
//! Everything may be left out: an empty text is a platform without a fault. Parts are the three above and root, tcb-info,
//! qe-identity, root-crl, pck-crl. Times are given beside the text, since they depend on when it is read.

use crate::SimulatorError;
use crate::platform::Options;
use evidence::Hex;
use serde::Deserialize;

/// A part of the PKI or of the collateral.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Root certificate.
    Root,
    /// Issuer of PCK certificates.
    PckCa,
    /// Signer of TCB info and QE identity.
    TcbSigner,
    /// The platform's certificate.
    Pck,
    /// TCB info.
    TcbInfo,
    /// QE identity.
    QeIdentity,
    /// CRL of the root.
    RootCrl,
    /// CRL of the PCK certificates' issuer.
    PckCrl,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    cpu_svn: Option<Hex<16>>,
    pce_svn: Option<u8>,
    qe_mrsigner: Option<Hex<32>>,
    qe_isvsvn: Option<u16>,
    qe_attributes: Option<Hex<16>>,
    tcb_info_id: Option<String>,
    tcb_info_fmspc: Option<Hex<6>>,
    tcb_info_pce_id: Option<Hex<2>>,
    tcb_status: Option<String>,
    #[serde(default)]
    revoked: Vec<Part>,
    #[serde(default)]
    expired: Vec<Part>,
    #[serde(default)]
    forged: Vec<Part>,
}

impl Options {
    /// Reads a description; the platform holds from a day before `at` for that many days after it (Unix seconds).
    pub fn parse(text: &str, at: u64, days: u64) -> Result<Self, SimulatorError> {
        let text: Text = toml::from_str(text).map_err(|e| SimulatorError::Description(Box::new(e)))?;
        let good = Options::valid(at, days);
        Ok(Options {
            from: good.from,
            until: good.until,
            cpu_svn: text.cpu_svn.map_or(good.cpu_svn, |hex| hex.0),
            pce_svn: text.pce_svn.unwrap_or(good.pce_svn),
            tcb_info_id: text.tcb_info_id.unwrap_or(good.tcb_info_id),
            tcb_info_fmspc: text.tcb_info_fmspc.map_or(good.tcb_info_fmspc, |hex| hex.0),
            tcb_info_pce_id: text.tcb_info_pce_id.map_or(good.tcb_info_pce_id, |hex| hex.0),
            tcb_status: text.tcb_status.unwrap_or(good.tcb_status),
            qe_mrsigner: text.qe_mrsigner.map_or(good.qe_mrsigner, |hex| hex.0),
            qe_isvsvn: text.qe_isvsvn.unwrap_or(good.qe_isvsvn),
            qe_attributes: text.qe_attributes.map_or(good.qe_attributes, |hex| hex.0),
            revoked: text.revoked,
            expired: text.expired,
            forged: text.forged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_description_is_a_platform_without_a_fault() {
        assert_eq!(Options::parse("", 1_780_000_000, 30).unwrap(), Options::valid(1_780_000_000, 30));
    }

    #[test]
    fn an_unknown_key_or_part_is_refused_with_its_line() {
        for text in ["\nspeed = 9", "\nrevoked = [\"everything\"]"] {
            let error = Options::parse(text, 1_780_000_000, 30).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
    }
}

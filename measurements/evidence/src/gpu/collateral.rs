//! Collateral of GPUs: manifests (RIMs) and OCSP responses, in one document, as a host hands them to a guest.
//!
//! ```json
//! {"driver_rims":["base64 of XML"],"vbios_rims":["base64 of XML"],"ocsp":["base64 of DER"]}
//! ```
//! Reading verifies nothing: signatures and dates are looked at by each appraisal anew, so that whoever carries the document
//! can do no more than leave something out.

use super::error::GpuError;
use super::forms::{MAX_ENVELOPE, decode_base64};
use super::ocsp::{MAX_OCSP, MAX_RESPONSES};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Longest document, in bytes.
pub const MAX_GPU_COLLATERAL: usize = 1024 * 1024;
/// Most manifests of drivers, and of VBIOSes.
pub const MAX_RIMS: usize = 64;
const INPUT: &str = "GPU collateral";

/// What GPU evidence is held against, beside a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuCollateral {
    /// Manifests of drivers, XML.
    pub driver_rims: Vec<Vec<u8>>,
    /// Manifests of VBIOSes, XML, those of NVSwitches too.
    pub vbios_rims: Vec<Vec<u8>>,
    /// OCSP responses, DER.
    pub ocsp: Vec<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    driver_rims: Vec<String>,
    vbios_rims: Vec<String>,
    ocsp: Vec<String>,
}

impl GpuCollateral {
    /// Reads a document; at most [`MAX_GPU_COLLATERAL`] bytes, 64 manifests of either kind, 1024 responses.
    pub fn parse(bytes: &[u8]) -> Result<Self, GpuError> {
        GpuError::bound(INPUT, "bytes", MAX_GPU_COLLATERAL, bytes.len())?;
        let text: Text = serde_json::from_slice(bytes).map_err(|e| {
            let expected = "an object with `driver_rims`, `vbios_rims` and `ocsp`";
            GpuError::wrong(INPUT, "JSON", 0, expected, e.to_string())
        })?;
        Ok(GpuCollateral {
            driver_rims: decode("driver manifests", &text.driver_rims, MAX_RIMS, MAX_ENVELOPE)?,
            vbios_rims: decode("VBIOS manifests", &text.vbios_rims, MAX_RIMS, MAX_ENVELOPE)?,
            ocsp: decode("OCSP responses", &text.ocsp, MAX_RESPONSES, MAX_OCSP)?,
        })
    }

    /// The document.
    pub fn to_json(&self) -> String {
        let encode = |all: &[Vec<u8>]| all.iter().map(|bytes| STANDARD.encode(bytes)).collect();
        let text = Text {
            driver_rims: encode(&self.driver_rims),
            vbios_rims: encode(&self.vbios_rims),
            ocsp: encode(&self.ocsp),
        };
        serde_json::to_string(&text).unwrap_or_default()
    }
}

fn decode(
    what: &'static str,
    texts: &[String],
    most: usize,
    longest: usize,
) -> Result<Vec<Vec<u8>>, GpuError> {
    GpuError::bound(INPUT, what, most, texts.len())?;
    let one = |text: &String| {
        let bytes = decode_base64(INPUT, what, text)?;
        GpuError::bound(INPUT, "bytes of one entry", longest, bytes.len())?;
        Ok(bytes)
    };
    texts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_is_read_back() {
        let collateral = GpuCollateral {
            driver_rims: vec![b"<a/>".to_vec()],
            vbios_rims: vec![b"<b/>".to_vec(), b"<c/>".to_vec()],
            ocsp: vec![vec![0x30, 0]],
        };
        assert_eq!(GpuCollateral::parse(collateral.to_json().as_bytes()).unwrap(), collateral);
    }

    #[test]
    fn more_than_any_machine_needs_and_unknown_fields_are_refused() {
        let read = |text: &str| GpuCollateral::parse(text.as_bytes()).map_err(|e| e.to_string());
        let many = GpuCollateral { ocsp: vec![vec![1]; MAX_RESPONSES + 1], ..GpuCollateral::default() };
        assert!(read(&many.to_json()).unwrap_err().contains("at most 1024 OCSP responses, found 1025"));
        let long = GpuCollateral { ocsp: vec![vec![1; MAX_OCSP + 1]], ..GpuCollateral::default() };
        assert!(read(&long.to_json()).unwrap_err().contains("bytes of one entry"));
        let more = GpuCollateral::default().to_json().replace('}', ",\"root\":\"\"}");
        assert!(read(&more).unwrap_err().contains("root"));
        assert!(read(&" ".repeat(MAX_GPU_COLLATERAL + 1)).unwrap_err().contains("bytes"));
        assert!(
            read("{\"driver_rims\":[\"*\"],\"vbios_rims\":[],\"ocsp\":[]}").unwrap_err().contains("base64")
        );
    }

    proptest! {
        #[test]
        fn hostile_documents_never_panic(text in ".{0,200}", entry in "[A-Za-z0-9+/=]{0,60}") {
            let _ = GpuCollateral::parse(text.as_bytes());
            let _ = GpuCollateral::parse(
                format!("{{\"driver_rims\":[\"{entry}\"],\"vbios_rims\":[],\"ocsp\":[]}}").as_bytes(),
            );
        }
    }
}

//! Collateral of GPUs: manifests (RIMs) and OCSP responses, in one document, as a host hands them to a guest.
//!
//! ```json
//! {"driver_rims":["base64 of XML"],"vbios_rims":["base64 of XML"],"ocsp":["base64 of DER"]}
//! ```
//! A sender of evidence may hand the same object along with it, in the first entry of its envelope (as TLS servers staple OCSP
//! responses), so that a verifier need not know every device beforehand.
//!
//! Reading verifies nothing: signatures and dates are looked at by each appraisal anew, so that whoever carries the document
//! can do no more than leave something out.

use super::error::GpuError;
use super::forms::{self, MAX_ENVELOPE, decode_base64};
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

/// Most manifests of either kind, and responses, that a sender hands along: each costs its verifier signatures.
const HANDED: [usize; 2] = [8, 64];

/// The form of the document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Text {
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
        Self::read(&text, [MAX_RIMS, MAX_RESPONSES])
    }

    /// What a sender handed along in this envelope: at most 8 manifests of either kind and 64 responses; nothing where nothing
    /// was.
    pub fn of_envelope(bytes: &[u8]) -> Result<Self, GpuError> {
        match forms::handed_along(bytes)? {
            Some(text) => Self::read(&text, HANDED),
            None => Ok(GpuCollateral::default()),
        }
    }

    /// The document.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.text()).unwrap_or_default()
    }

    /// What may be handed along, if that is within the bounds.
    pub(crate) fn along(&self) -> Option<Text> {
        let [rims, responses] = HANDED;
        let GpuCollateral { driver_rims, vbios_rims, ocsp } = self;
        let within = driver_rims.len() <= rims && vbios_rims.len() <= rims && ocsp.len() <= responses;
        (within && *self != GpuCollateral::default()).then(|| self.text())
    }

    fn read(text: &Text, [rims, responses]: [usize; 2]) -> Result<Self, GpuError> {
        Ok(GpuCollateral {
            driver_rims: decode("driver manifests", &text.driver_rims, rims, MAX_ENVELOPE)?,
            vbios_rims: decode("VBIOS manifests", &text.vbios_rims, rims, MAX_ENVELOPE)?,
            ocsp: decode("OCSP responses", &text.ocsp, responses, MAX_OCSP)?,
        })
    }

    fn text(&self) -> Text {
        let encode = |all: &[Vec<u8>]| all.iter().map(|bytes| STANDARD.encode(bytes)).collect();
        Text {
            driver_rims: encode(&self.driver_rims),
            vbios_rims: encode(&self.vbios_rims),
            ocsp: encode(&self.ocsp),
        }
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

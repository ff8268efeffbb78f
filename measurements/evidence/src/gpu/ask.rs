//! What to ask of NVIDIA's services for an appraisal: names of manifests, and OCSP requests (RFC 6960, 4.1).
//!
//! ```text
//! OCSPRequest { tbsRequest { requestList { request { CertID { SHA-1, issuer's name, issuer's key, serial } } } } }
//! ```
//! One certificate a request, no nonce and no signature: such answers can be kept and handed on.

use super::error::GpuError;
use super::forms::DeviceEvidence;
use super::rim::Rim;
use super::x509::{Cert, Chain};
use ring::digest;
use x509_cert::der::Encode;

/// DER of AlgorithmIdentifier SHA-1 with NULL; it names a certificate and protects nothing.
const SHA1: [u8; 11] = [0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00];

/// A question to an OCSP responder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OcspRequest {
    /// Whom it is about.
    pub subject: String,
    /// What to send.
    pub der: Vec<u8>,
}

/// One question about each certificate of these devices and manifests but roots and the devices' own leafs, each once.
pub fn ocsp_requests(devices: &[DeviceEvidence], rims: &[Vec<u8>]) -> Result<Vec<OcspRequest>, GpuError> {
    let mut out: Vec<OcspRequest> = Vec::new();
    let mut add = |chain: &Chain, skip: usize| {
        for pair in chain.0.windows(2).skip(skip) {
            let der = request(&pair[0], &pair[1]);
            if out.iter().all(|known| known.der != der) {
                out.push(OcspRequest { subject: pair[0].subject(), der });
            }
        }
    };
    for device in devices {
        // The device issues its leaf itself, and no responder knows it.
        add(&Chain::parse("device certificates", &device.chain)?, 1);
    }
    for rim in rims {
        add(Rim::parse(rim)?.chain(), 0);
    }
    Ok(out)
}

fn request(cert: &Cert, issuer: &Cert) -> Vec<u8> {
    let hash = |bytes: &[u8]| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let name = issuer.parsed.tbs_certificate().subject().to_der().unwrap_or_default();
    let id = [
        SHA1.to_vec(),
        element(0x04, hash(&name).as_ref()),
        element(0x04, hash(&issuer.key).as_ref()),
        element(0x02, cert.serial()),
    ];
    // CertID, Request, requestList, TBSRequest, OCSPRequest.
    (0..5).fold(id.concat(), |inner, _| element(0x30, &inner))
}

/// One DER element; none here reaches 64 KiB, for a serial number has 20 bytes.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let [hi, lo] = (content.len() as u16).to_be_bytes();
    let head = match content.len() {
        0..0x80 => vec![tag, lo],
        0x80..0x100 => vec![tag, 0x81, lo],
        _ => vec![tag, 0x82, hi, lo],
    };
    [head, content.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_elements_have_long_lengths() {
        assert_eq!(element(4, &[0; 3])[..2], [4, 3]);
        assert_eq!(element(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(element(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }
}

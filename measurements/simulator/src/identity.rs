//! What a simulated platform signs quotes with, and the quotes.
//!
//! The identity travels to the guest on its own disk, opaque to everybody else, as JSON with hex inside. It holds one
//! private key, the attestation key, which stands in for what a real machine keeps in its quoting enclave.

use crate::documents::{MRSIGNERSEAM, TEE_TCB_SVN};
use crate::pki::{public_point, sign};
use crate::platform::ascii;
use evidence::td::attributes::SEPT_VE_DISABLE;
use evidence::{Hex, INTEL_QE_VENDOR, TdReport};
use measure::{Digest384, Registers};
use p256::ecdsa::SigningKey;
use serde::{Deserialize, Serialize};

/// x87, SSE and AVX.
const XFAM: u64 = 0x7;

/// Why bytes are no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not the JSON of this version.
    #[error("SIMULATED identity: {0}; make it anew with `chrysalis-simulator pki`")]
    Syntax(#[from] serde_json::Error),
    /// The key is none.
    #[error(
        "SIMULATED identity: the attestation key is no P-256 key; make it anew with `chrysalis-simulator pki`"
    )]
    Key,
}

/// The attestation key with its certification.
#[derive(Clone)]
pub struct Identity {
    pub(crate) attestation_key: SigningKey,
    pub(crate) qe_report: [u8; 384],
    pub(crate) qe_report_signature: [u8; 64],
    pub(crate) qe_auth_data: [u8; 32],
    /// PEM, leaf first.
    pub(crate) pck_chain: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    simulated_identity: u32,
    attestation_key: Hex<32>,
    qe_report: Hex<384>,
    qe_report_signature: Hex<64>,
    qe_auth_data: Hex<32>,
    pck_chain: String,
}

impl Identity {
    /// The bytes for the simulator's disk; they hold a private key.
    pub fn to_bytes(&self) -> Vec<u8> {
        let form = Form {
            simulated_identity: 1,
            attestation_key: Hex(self.attestation_key.to_bytes().into()),
            qe_report: Hex(self.qe_report),
            qe_report_signature: Hex(self.qe_report_signature),
            qe_auth_data: Hex(self.qe_auth_data),
            pck_chain: self.pck_chain.clone(),
        };
        serde_json::to_vec(&form).unwrap_or_default()
    }

    /// Reads them back.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let form: Form = serde_json::from_slice(bytes)?;
        Ok(Identity {
            attestation_key: SigningKey::from_slice(&form.attestation_key.0)
                .map_err(|_| IdentityError::Key)?,
            qe_report: form.qe_report.0,
            qe_report_signature: form.qe_report_signature.0,
            qe_auth_data: form.qe_auth_data.0,
            pck_chain: form.pck_chain,
        })
    }

    /// What the simulated TDX module says of a TD: right in every respect, and clearly synthetic.
    pub fn td_report(&self, registers: &Registers, mrconfigid: [u8; 48], report_data: [u8; 64]) -> TdReport {
        TdReport {
            tee_tcb_svn: Hex(TEE_TCB_SVN),
            mrseam: Digest384(ascii("SIMULATED TDX MODULE")),
            mrsignerseam: Digest384(MRSIGNERSEAM),
            seam_attributes: Hex::ZERO,
            td_attributes: Hex(SEPT_VE_DISABLE.to_le_bytes()),
            xfam: Hex(XFAM.to_le_bytes()),
            mrtd: registers.mrtd,
            mrconfigid: Digest384(mrconfigid),
            mrowner: Digest384::ZERO,
            mrownerconfig: Digest384::ZERO,
            rtmr0: registers.rtmr[0],
            rtmr1: registers.rtmr[1],
            rtmr2: registers.rtmr[2],
            rtmr3: registers.rtmr[3],
            report_data: Hex(report_data),
            v15: None,
        }
    }

    /// A quote over the report: version 4 for a TDX 1.0 body, version 5 for a 1.5 one.
    pub fn quote(&self, td: &TdReport) -> Vec<u8> {
        self.quote_of_version(if td.v15.is_some() { 5 } else { 4 }, td)
    }

    /// A quote of version 4, which has a TDX 1.0 body, or of version 5, which has any.
    pub fn quote_of_version(&self, version: u16, td: &TdReport) -> Vec<u8> {
        let body = td.to_bytes();
        let mut out = Vec::new();
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&2u16.to_le_bytes()); // ECDSA P-256
        out.extend_from_slice(&0x81u32.to_le_bytes()); // TDX
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&INTEL_QE_VENDOR.0);
        out.extend_from_slice(&ascii::<20>("SIMULATED QE"));
        if version == 5 {
            let kind: u16 = match body.len() {
                evidence::td::TD10_LEN => 2,
                evidence::td::TD15_LEN => 3,
                _ => 4,
            };
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        }
        out.extend_from_slice(&body);
        let signature_data = self.signature_data(&sign(&self.attestation_key, &out));
        put_u32(&mut out, &signature_data);
        out
    }

    fn signature_data(&self, signature: &[u8; 64]) -> Vec<u8> {
        let mut certification = Vec::new();
        certification.extend_from_slice(&self.qe_report);
        certification.extend_from_slice(&self.qe_report_signature);
        certification.extend_from_slice(&(self.qe_auth_data.len() as u16).to_le_bytes());
        certification.extend_from_slice(&self.qe_auth_data);
        certification.extend_from_slice(&5u16.to_le_bytes()); // PCK certificates
        put_u32(&mut certification, self.pck_chain.as_bytes());
        let mut out = signature.to_vec();
        out.extend_from_slice(&public_point(&self.attestation_key));
        out.extend_from_slice(&6u16.to_le_bytes()); // QE report
        put_u32(&mut out, &certification);
        out
    }
}

fn put_u32(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&(field.len() as u32).to_le_bytes());
    out.extend_from_slice(field);
}

//! The platform: its PKI, its collateral and the identity that signs quotes.

use crate::SimulatorError;
use crate::der::{SGX_EXTENSIONS, SgxExtensions};
use crate::documents::{self, CPU_SVN, FMSPC, PCE_ID, PCE_SVN, QE_ATTRIBUTES, QE_ISVPRODID, QE_ISVSVN};
use crate::identity::Identity;
use crate::pki::{Entity, Wanted, extension, new_key, public_point};
use dcap_qvl::QuoteCollateralV3;
use evidence::Collateral;
use p256::ecdsa::SigningKey;
use sha2::{Digest, Sha256};
use x509_cert::ext::Extension;

const DAY: u64 = 24 * 60 * 60;
const PCK_SERIAL: u32 = 4;

/// What a simulated platform is like; every field but the times is there for faults.
#[derive(Debug, Clone)]
pub struct Options {
    /// Unix seconds from which certificates, CRLs and documents hold.
    pub from: u64,
    /// Unix seconds until which they hold.
    pub until: u64,
    /// SVNs of the CPU in the PCK certificate.
    pub cpu_svn: [u8; 16],
    /// Platform that the TCB info speaks of.
    pub tcb_info_fmspc: [u8; 6],
    /// Signer in the QE report.
    pub qe_mrsigner: [u8; 32],
    /// Whether the PCK CRL lists the PCK certificate.
    pub revoke_pck: bool,
}

impl Options {
    /// A platform without a fault, valid from one day before `at` for that many days after it.
    pub fn valid(at: u64, days: u64) -> Self {
        Options {
            from: at.saturating_sub(DAY),
            until: at.saturating_add(days.saturating_mul(DAY)),
            cpu_svn: CPU_SVN,
            tcb_info_fmspc: FMSPC,
            qe_mrsigner: documents::QE_MRSIGNER,
            revoke_pck: false,
        }
    }
}

/// A simulated platform with all its keys.
pub struct Platform {
    options: Options,
    root: Entity,
    pck_ca: Entity,
    tcb_signer: Entity,
    pck: Entity,
    attestation_key: SigningKey,
}

/// Text padded with zeros, for identifiers that must show what they are.
pub(crate) const fn ascii<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    let mut out = [0; N];
    let mut i = 0;
    while i < bytes.len() && i < N {
        out[i] = bytes[i];
        i += 1;
    }
    out
}

impl Platform {
    /// A platform without a fault, valid for 30 days from `at` (Unix seconds).
    pub fn generate(at: u64) -> Result<Self, SimulatorError> {
        Self::with(Options::valid(at, 30))
    }

    /// A platform as described.
    pub fn with(options: Options) -> Result<Self, SimulatorError> {
        let wanted = |name, serial, ca_below, extensions: Vec<Extension>| Wanted {
            name,
            serial,
            ca_below,
            extensions,
            from: options.from,
            until: options.until,
        };
        let root = Entity::make(wanted("SIMULATED Chrysalis Root CA", 1, Some(1), vec![]), None)?;
        let pck_ca =
            Entity::make(wanted("SIMULATED Chrysalis PCK Platform CA", 2, Some(0), vec![]), Some(&root))?;
        let tcb_signer =
            Entity::make(wanted("SIMULATED Chrysalis TCB Signing", 3, None, vec![]), Some(&root))?;
        let sgx = SgxExtensions {
            ppid: ascii("SIMULATED PPID"),
            cpu_svn: options.cpu_svn,
            pce_svn: PCE_SVN,
            pce_id: PCE_ID,
            fmspc: FMSPC,
        };
        let sgx = extension(SGX_EXTENSIONS, sgx.to_der())?;
        let pck = wanted("SIMULATED Chrysalis PCK Certificate", PCK_SERIAL, None, vec![sgx]);
        let pck = Entity::make(pck, Some(&pck_ca))?;
        Ok(Platform { root, pck_ca, tcb_signer, pck, attestation_key: new_key()?, options })
    }

    /// The trust root, DER.
    pub fn root_der(&self) -> Result<Vec<u8>, SimulatorError> {
        self.root.der()
    }

    /// What Intel would publish about this platform.
    pub fn collateral(&self) -> Result<Collateral, SimulatorError> {
        let (from, until) = (self.options.from, self.options.until);
        let tcb_info = documents::tcb_info(&self.options);
        let qe_identity = documents::qe_identity(&self.options);
        let tcb_chain = self.tcb_signer.chain(&[&self.root])?;
        let revoked: &[u32] = if self.options.revoke_pck { &[PCK_SERIAL] } else { &[] };
        Ok(Collateral::from(QuoteCollateralV3 {
            pck_crl_issuer_chain: self.pck_ca.chain(&[&self.root])?,
            root_ca_crl: self.root.crl(&[], from, until)?,
            pck_crl: self.pck_ca.crl(revoked, from, until)?,
            tcb_info_issuer_chain: tcb_chain.clone(),
            tcb_info_signature: self.tcb_signer.sign(tcb_info.as_bytes()).to_vec(),
            tcb_info,
            qe_identity_issuer_chain: tcb_chain,
            qe_identity_signature: self.tcb_signer.sign(qe_identity.as_bytes()).to_vec(),
            qe_identity,
            pck_certificate_chain: None,
        }))
    }

    /// What signs quotes: the attestation key and its certification by the PCK. Every other key stays here.
    pub fn identity(&self) -> Result<Identity, SimulatorError> {
        let qe_auth_data: [u8; 32] = ascii("SIMULATED QE AUTHENTICATION");
        let qe_report = self.qe_report(&qe_auth_data);
        Ok(Identity {
            attestation_key: self.attestation_key.clone(),
            qe_report_signature: self.pck.sign(&qe_report),
            qe_report,
            qe_auth_data,
            pck_chain: self.pck.chain(&[&self.pck_ca, &self.root])?,
        })
    }

    /// Report of the quoting enclave (Intel SDM volume 3D, REPORT structure): its report data holds
    /// SHA-256(attestation key || authentication data) and zeros.
    fn qe_report(&self, qe_auth_data: &[u8; 32]) -> [u8; 384] {
        let key = public_point(&self.attestation_key);
        let hash = Sha256::new().chain_update(key).chain_update(qe_auth_data).finalize();
        let mut report = [0; 384];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.options.cpu_svn);
        put(48, &QE_ATTRIBUTES);
        put(64, &ascii::<32>("SIMULATED QE MEASUREMENT"));
        put(128, &self.options.qe_mrsigner);
        put(256, &QE_ISVPRODID.to_le_bytes());
        put(258, &QE_ISVSVN.to_le_bytes());
        put(320, &hash);
        report
    }
}

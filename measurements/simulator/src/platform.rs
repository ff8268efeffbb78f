//! The platform: its PKI, its collateral and the identity that signs quotes.

use crate::SimulatorError;
use crate::der::{SGX_EXTENSIONS, SgxExtensions};
use crate::description::Part;
use crate::documents::{self, CPU_SVN, FMSPC, PCE_ID, PCE_SVN, QE_ATTRIBUTES, QE_ISVPRODID, QE_ISVSVN};
use crate::identity::Identity;
use crate::pki::{Entity, Wanted, extension, new_key, public_point};
use dcap_qvl::QuoteCollateralV3;
use evidence::Collateral;
use p256::ecdsa::SigningKey;
use sha2::{Digest, Sha256};
use x509_cert::ext::Extension;

const DAY: u64 = 24 * 60 * 60;
const ROOT_SERIAL: u32 = 1;
const PCK_CA_SERIAL: u32 = 2;
const TCB_SIGNER_SERIAL: u32 = 3;
const PCK_SERIAL: u32 = 4;
/// Certificates of other platforms on the PCK CRL, as many as on Intel's.
const OTHERS_REVOKED: std::ops::Range<u32> = 1_000_000..1_000_080;

/// What a simulated platform is like; every field but the times is there for faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Unix seconds from which certificates, CRLs and documents hold.
    pub from: u64,
    /// Unix seconds until which they hold.
    pub until: u64,
    /// SVNs of the CPU in the PCK certificate.
    pub cpu_svn: [u8; 16],
    /// SVN of the provisioning enclave in the PCK certificate.
    pub pce_svn: u8,
    /// TEE that the TCB info says that it is of.
    pub tcb_info_id: String,
    /// Platform that the TCB info speaks of.
    pub tcb_info_fmspc: [u8; 6],
    /// Provisioning enclave that the TCB info speaks of.
    pub tcb_info_pce_id: [u8; 2],
    /// Status of the highest level in the TCB info.
    pub tcb_status: String,
    /// Signer in the QE report.
    pub qe_mrsigner: [u8; 32],
    /// SVN in the QE report.
    pub qe_isvsvn: u16,
    /// Attributes in the QE report.
    pub qe_attributes: [u8; 16],
    /// Certificates that their issuers' CRLs list.
    pub revoked: Vec<Part>,
    /// Parts that ended a day before the others start to hold for the appraisal; see [`Options::until`].
    pub expired: Vec<Part>,
    /// Parts that are signed by a key which is not their issuer's.
    pub forged: Vec<Part>,
}

impl Options {
    /// A platform without a fault, valid from one day before `at` for that many days after it.
    pub fn valid(at: u64, days: u64) -> Self {
        Options {
            from: at.saturating_sub(DAY),
            until: at.saturating_add(days.saturating_mul(DAY)),
            cpu_svn: CPU_SVN,
            pce_svn: PCE_SVN,
            tcb_info_id: "TDX".into(),
            tcb_info_fmspc: FMSPC,
            tcb_info_pce_id: PCE_ID,
            tcb_status: "UpToDate".into(),
            qe_mrsigner: documents::QE_MRSIGNER,
            qe_isvsvn: QE_ISVSVN,
            qe_attributes: QE_ATTRIBUTES,
            revoked: Vec::new(),
            expired: Vec::new(),
            forged: Vec::new(),
        }
    }

    /// When this part stops to hold: half a day after it starts where it is expired, which is half a day before the time
    /// that [`Options::valid`] was made for.
    pub(crate) fn until(&self, part: Part) -> u64 {
        if self.expired.contains(&part) { self.from + DAY / 2 } else { self.until }
    }

    fn revokes(&self, certificates: &[(Part, u32)]) -> Vec<u32> {
        certificates
            .iter()
            .filter(|(part, _)| self.revoked.contains(part))
            .map(|(_, serial)| *serial)
            .collect()
    }
}

/// A simulated platform with all its keys.
#[derive(Clone)]
pub struct Platform {
    options: Options,
    root: Entity,
    pck_ca: Entity,
    tcb_signer: Entity,
    pck: Entity,
    /// Signs what is forged.
    stranger: Entity,
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
        let wanted = |part, name, serial, ca_below, extensions: Vec<Extension>| Wanted {
            name,
            serial,
            ca_below,
            extensions,
            from: options.from,
            until: options.until(part),
        };
        let root = wanted(Part::Root, "SIMULATED Chrysalis Root CA", ROOT_SERIAL, Some(1), vec![]);
        let root = Entity::make(root, None)?;
        // Of the same name as the root, so that only the signature tells.
        let stranger = wanted(Part::Root, "SIMULATED Chrysalis Root CA", ROOT_SERIAL, Some(1), vec![]);
        let stranger = Entity::make(stranger, None)?;
        let issuer = |part, right: &Entity| {
            if options.forged.contains(&part) { stranger.named(right) } else { right.clone() }
        };
        let pck_ca =
            wanted(Part::PckCa, "SIMULATED Chrysalis PCK Platform CA", PCK_CA_SERIAL, Some(0), vec![]);
        let pck_ca = Entity::make(pck_ca, Some(&issuer(Part::PckCa, &root)))?;
        let signer =
            wanted(Part::TcbSigner, "SIMULATED Chrysalis TCB Signing", TCB_SIGNER_SERIAL, None, vec![]);
        let tcb_signer = Entity::make(signer, Some(&issuer(Part::TcbSigner, &root)))?;
        let sgx = SgxExtensions {
            ppid: ascii("SIMULATED PPID"),
            cpu_svn: options.cpu_svn,
            pce_svn: options.pce_svn,
            pce_id: PCE_ID,
            fmspc: FMSPC,
        };
        let sgx = extension(SGX_EXTENSIONS, sgx.to_der())?;
        let pck = wanted(Part::Pck, "SIMULATED Chrysalis PCK Certificate", PCK_SERIAL, None, vec![sgx]);
        let pck = Entity::make(pck, Some(&issuer(Part::Pck, &pck_ca)))?;
        Ok(Platform { root, pck_ca, tcb_signer, pck, stranger, attestation_key: new_key()?, options })
    }

    /// The same keys and certificates, and collateral that is otherwise.
    pub fn again(&self, options: Options) -> Self {
        Platform { options, ..self.clone() }
    }

    /// The trust root, DER.
    pub fn root_der(&self) -> Result<Vec<u8>, SimulatorError> {
        self.root.der()
    }

    /// What Intel would publish about this platform.
    pub fn collateral(&self) -> Result<Collateral, SimulatorError> {
        let options = &self.options;
        let tcb_info = documents::tcb_info(options);
        let qe_identity = documents::qe_identity(options);
        let tcb_chain = self.tcb_signer.chain(&[&self.root])?;
        let by_root =
            [(Part::Root, ROOT_SERIAL), (Part::PckCa, PCK_CA_SERIAL), (Part::TcbSigner, TCB_SIGNER_SERIAL)];
        let mut by_ca = options.revokes(&[(Part::Pck, PCK_SERIAL)]);
        by_ca.extend(OTHERS_REVOKED);
        let sign = |part, text: &str| self.issuer(part, &self.tcb_signer).sign(text.as_bytes()).to_vec();
        let crl = |part, issuer, revoked: Vec<u32>| {
            self.issuer(part, issuer).crl(&revoked, options.from, options.until(part))
        };
        Ok(Collateral::from(QuoteCollateralV3 {
            pck_crl_issuer_chain: self.pck_ca.chain(&[&self.root])?,
            root_ca_crl: crl(Part::RootCrl, &self.root, options.revokes(&by_root))?,
            pck_crl: crl(Part::PckCrl, &self.pck_ca, by_ca)?,
            tcb_info_issuer_chain: tcb_chain.clone(),
            tcb_info_signature: sign(Part::TcbInfo, &tcb_info),
            tcb_info,
            qe_identity_issuer_chain: tcb_chain,
            qe_identity_signature: sign(Part::QeIdentity, &qe_identity),
            qe_identity,
            pck_certificate_chain: None,
        }))
    }

    /// Who signs this part: its issuer, or under the issuer's name a key that nobody trusts.
    fn issuer(&self, part: Part, right: &Entity) -> Entity {
        if self.options.forged.contains(&part) { self.stranger.named(right) } else { right.clone() }
    }

    /// What signs quotes: the attestation key and its certification by the PCK. Every other key stays here.
    pub fn identity(&self) -> Result<Identity, SimulatorError> {
        self.certify(self.attestation_key.clone())
    }

    /// The same with another attestation key, as a quoting enclave makes it when it loses the old one.
    pub fn fresh_identity(&self) -> Result<Identity, SimulatorError> {
        self.certify(new_key()?)
    }

    fn certify(&self, attestation_key: SigningKey) -> Result<Identity, SimulatorError> {
        let qe_auth_data: [u8; 32] = ascii("SIMULATED QE AUTHENTICATION");
        let qe_report = self.qe_report(&attestation_key, &qe_auth_data);
        Ok(Identity {
            attestation_key,
            qe_report_signature: self.pck.sign(&qe_report),
            qe_report,
            qe_auth_data,
            pck_chain: self.pck.chain(&[&self.pck_ca, &self.root])?,
        })
    }

    /// Report of the quoting enclave (Intel SDM volume 3D, REPORT structure): its report data holds
    /// SHA-256(attestation key || authentication data) and zeros.
    fn qe_report(&self, attestation_key: &SigningKey, qe_auth_data: &[u8; 32]) -> [u8; 384] {
        let key = public_point(attestation_key);
        let hash = Sha256::new().chain_update(key).chain_update(qe_auth_data).finalize();
        let mut report = [0; 384];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.options.cpu_svn);
        put(48, &self.options.qe_attributes);
        put(64, &ascii::<32>("SIMULATED QE MEASUREMENT"));
        put(128, &self.options.qe_mrsigner);
        put(256, &QE_ISVPRODID.to_le_bytes());
        put(258, &self.options.qe_isvsvn.to_le_bytes());
        put(320, &hash);
        report
    }
}

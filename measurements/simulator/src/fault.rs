//! Evidence with exactly one defect each, and the check that must name it.
//!
//! Every case starts from a platform and evidence that pass; [`Fault::None`] is that one.

mod case;

use crate::pki::new_key;
use crate::platform::{Options, Platform};
use crate::{Identity, SimulatorError, tpm};
pub use case::Case;
use case::runtime_events;
use evidence::td::{V15, attributes};
use evidence::{CheckName, Collateral, Hex, TdReport};
use measure::Digest384;
use measure::runtime::{self, Extension, RuntimeEvent};
use std::sync::Arc;

/// Unix seconds at which the cases are appraised.
pub const AT: u64 = 1_780_000_000;
const DAY: u64 = 24 * 60 * 60;

/// Every defect with the checks that must fail, then the shapes that have none.
const TABLE: &[(Fault, &[CheckName])] = {
    use CheckName as C;
    use Fault::*;
    &[
        (Empty, &[C::QuoteFormat]),
        (Truncated, &[C::QuoteFormat]),
        (TrailingByte, &[C::QuoteFormat]),
        (LyingLength, &[C::QuoteFormat]),
        (OtherVersion, &[C::QuoteFormat]),
        (SgxQuote, &[C::QuoteFormat]),
        (OtherVendor, &[C::QuoteFormat]),
        (ForeignRoot, &[C::TrustRoot]),
        (RevokedRoot, &[C::TrustRoot]),
        (ForgedRootCrl, &[C::TrustRoot]),
        (Expired, &[C::CollateralWindow]),
        (NotYetValid, &[C::CollateralWindow]),
        (ExpiredRoot, &[C::CollateralWindow]),
        (ExpiredPckCa, &[C::CollateralWindow]),
        (ExpiredTcbSigner, &[C::CollateralWindow]),
        (ExpiredPck, &[C::CollateralWindow]),
        (ExpiredTcbInfo, &[C::CollateralWindow]),
        (ExpiredQeIdentity, &[C::CollateralWindow]),
        (ExpiredRootCrl, &[C::CollateralWindow]),
        (ExpiredPckCrl, &[C::CollateralWindow]),
        (RevokedTcbSigner, &[C::TcbInfo]),
        (ForgedTcbSigner, &[C::TcbInfo]),
        (ForgedTcbInfo, &[C::TcbInfo]),
        (StrangersTcbInfo, &[C::TcbInfo]),
        (ForgedQeIdentity, &[C::QeIdentity]),
        (StrangersQeIdentity, &[C::QeIdentity]),
        (RevokedPck, &[C::PckChain]),
        (RevokedPckCa, &[C::PckChain]),
        (ForgedPckCa, &[C::PckChain]),
        (ForgedPck, &[C::PckChain]),
        (ForgedPckCrl, &[C::PckChain]),
        (SwappedQe, &[C::QeReport]),
        (QeDebug, &[C::QeReport]),
        (BadQeReportSignature, &[C::QeReport]),
        (SwappedAttestationKey, &[C::QeReport]),
        (BadQeAuthData, &[C::QeReport]),
        (BadQuoteSignature, &[C::QuoteSignature]),
        (ForgedBody, &[C::QuoteSignature]),
        (WrongFmspc, &[C::Fmspc]),
        (WrongPceId, &[C::Fmspc]),
        (SgxTcbInfo, &[C::Fmspc]),
        (LowTcb, &[C::TcbPlatform, C::Tcb]),
        (RevokedTcb, &[C::TcbPlatform, C::Tcb]),
        (OldModule, &[C::TcbModule, C::Tcb]),
        (UpdatedModule, &[C::TcbModule, C::Tcb]),
        (OldQe, &[C::TcbQe, C::Tcb]),
        (UnknownModule, &[C::Tcb, C::Mrsignerseam]),
        (DebugBit, &[C::Debug]),
        (Profiling, &[C::Debug]),
        (SeptVe, &[C::SeptVeDisable]),
        (UnknownAttribute, &[C::TdAttributes]),
        (Migratable, &[C::TdAttributes]),
        (Pks, &[C::TdAttributes]),
        (KeyLocker, &[C::TdAttributes]),
        (UnknownXfam, &[C::Xfam]),
        (MissingXfam, &[C::Xfam]),
        (ServiceTd, &[C::ServiceTd]),
        (NoModule, &[C::Mrseam]),
        (ForeignModule, &[C::Mrsignerseam]),
        (DebugModule, &[C::Mrsignerseam]),
        (Owner, &[C::Mrowner]),
        (OwnerConfig, &[C::Mrowner]),
        (SwappedMrconfigid, &[C::Mrconfigid]),
        (OtherRelease, &[C::Registers]),
        (ForgedEventLog, &[C::EventLog]),
        (RuntimeEventDropped, &[C::RuntimeEvents]),
        (RuntimeEventsReordered, &[C::RuntimeEvents]),
        (RuntimeUnsealed, &[C::RuntimeEvents]),
        (RuntimeExtendedAfterSeal, &[C::RuntimeEvents]),
        (RuntimeLogAfterSeal, &[C::RuntimeEvents]),
        (RuntimeNotExtended, &[C::RuntimeEvents]),
        (RuntimeOtherConfig, &[C::RuntimeEvents]),
        (WrongReportData, &[C::ReportData]),
        (None, &[]),
        (Padded, &[]),
        (Version5, &[]),
        (Tdx15, &[]),
    ]
};

/// One defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No defect at all.
    None,
    /// All collateral ended yesterday.
    Expired,
    /// All collateral starts tomorrow.
    NotYetValid,
    /// Another simulated platform's root in the policy.
    ForeignRoot,
    /// The TCB info was changed after it was signed.
    ForgedTcbInfo,
    /// The QE identity was changed after it was signed.
    ForgedQeIdentity,
    /// The PCK certificate is on the CRL.
    RevokedPck,
    /// The quoting enclave is another vendor's.
    SwappedQe,
    /// One bit of the QE report's signature is flipped.
    BadQeReportSignature,
    /// One bit of the quote's signature is flipped.
    BadQuoteSignature,
    /// The TD report was changed after it was signed.
    ForgedBody,
    /// The collateral is another platform's.
    WrongFmspc,
    /// The platform is a level behind.
    LowTcb,
    /// The TD runs under debug.
    DebugBit,
    /// SEPT_VE_DISABLE is off.
    SeptVe,
    /// A bit of ATTRIBUTES that no specification names is set.
    UnknownAttribute,
    /// A bit of XFAM that no specification names is set.
    UnknownXfam,
    /// The TD is bound to a service TD.
    ServiceTd,
    /// The TDX module is signed by somebody else.
    ForeignModule,
    /// The TD has an owner that the policy does not name.
    Owner,
    /// MRCONFIGID is that of another configuration.
    SwappedMrconfigid,
    /// RTMR2 is that of another command line; the log agrees with it.
    OtherRelease,
    /// An event of the log was changed.
    ForgedEventLog,
    /// The runtime log lacks an event that RTMR3 holds.
    RuntimeEventDropped,
    /// Two events of the runtime log changed places.
    RuntimeEventsReordered,
    /// The guest never sealed: neither its runtime log nor RTMR3.
    RuntimeUnsealed,
    /// RTMR3 was extended once more after the seal.
    RuntimeExtendedAfterSeal,
    /// The runtime log goes on after its seal, and so does RTMR3.
    RuntimeLogAfterSeal,
    /// The guest says that it can't extend RTMR3, though its release does.
    RuntimeNotExtended,
    /// The runtime log and RTMR3 begin with another configuration than MRCONFIGID.
    RuntimeOtherConfig,
    /// The quote was made for another challenge.
    WrongReportData,
    /// The quote ends in the middle.
    Truncated,
    /// A byte that is not zero follows the quote.
    TrailingByte,
    /// No byte at all.
    Empty,
    /// The signature data says that it is longer than the quote.
    LyingLength,
    /// A version that no TDX quote has.
    OtherVersion,
    /// A quote of SGX by its header.
    SgxQuote,
    /// Another vendor's quoting enclave by its header.
    OtherVendor,
    /// The root's CRL lists the root.
    RevokedRoot,
    /// The root's CRL lists the PCK certificates' issuer.
    RevokedPckCa,
    /// The root's CRL lists the signer of TCB info and QE identity.
    RevokedTcbSigner,
    /// The root certificate alone is expired.
    ExpiredRoot,
    /// The PCK certificates' issuer alone is expired.
    ExpiredPckCa,
    /// The signer of TCB info and QE identity alone is expired.
    ExpiredTcbSigner,
    /// The PCK certificate alone is expired.
    ExpiredPck,
    /// The TCB info alone is expired.
    ExpiredTcbInfo,
    /// The QE identity alone is expired.
    ExpiredQeIdentity,
    /// The root's CRL alone is expired.
    ExpiredRootCrl,
    /// The PCK CRL alone is expired.
    ExpiredPckCrl,
    /// The PCK certificates' issuer is signed by a stranger under the root's name.
    ForgedPckCa,
    /// The signer of TCB info and QE identity is signed by a stranger under the root's name.
    ForgedTcbSigner,
    /// The PCK certificate is signed by a stranger under its issuer's name.
    ForgedPck,
    /// The root's CRL is signed by a stranger.
    ForgedRootCrl,
    /// The PCK CRL is signed by a stranger.
    ForgedPckCrl,
    /// The TCB info is signed by a stranger.
    StrangersTcbInfo,
    /// The QE identity is signed by a stranger.
    StrangersQeIdentity,
    /// Quoted with a key that the QE report does not name.
    SwappedAttestationKey,
    /// One bit of the authentication data that the QE report commits to is flipped.
    BadQeAuthData,
    /// The quoting enclave runs under debug.
    QeDebug,
    /// The quoting enclave is a level behind.
    OldQe,
    /// The TCB info is SGX's.
    SgxTcbInfo,
    /// The TCB info is of another provisioning enclave.
    WrongPceId,
    /// The platform's level is revoked.
    RevokedTcb,
    /// The TDX module is a level behind.
    OldModule,
    /// The TDX module is of a version that the collateral does not know.
    UnknownModule,
    /// Launched on an old TDX module that was updated since.
    UpdatedModule,
    /// The TDX module is not a production one.
    DebugModule,
    /// No TDX module measured at all.
    NoModule,
    /// The TD is profiled.
    Profiling,
    /// The TD can be migrated.
    Migratable,
    /// Protection keys for supervisor pages, which the strict policy does not name.
    Pks,
    /// Key locker, which the strict policy does not name.
    KeyLocker,
    /// XFAM without SSE.
    MissingXfam,
    /// The TD has a configuration of its owner that the policy does not name.
    OwnerConfig,
    /// No defect: zeros follow the quote, as quoting libraries leave them.
    Padded,
    /// No defect: version 5 with a TDX 1.0 body.
    Version5,
    /// No defect: version 5 with a TDX 1.5 body.
    Tdx15,
}

/// `CamelCase` in `kebab-case`.
pub(crate) fn kebab(camel: &str) -> String {
    let mut name = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

impl Fault {
    /// The checks that must fail, and no other: one, but where a part of the TCB that is behind fails with the whole.
    pub fn expected(self) -> &'static [CheckName] {
        TABLE.iter().find(|(fault, _)| *fault == self).map_or(&[], |(_, checks)| *checks)
    }

    /// Every defect.
    pub fn all() -> impl Iterator<Item = Fault> {
        TABLE.iter().filter(|(_, checks)| !checks.is_empty()).map(|(fault, _)| *fault)
    }

    /// Evidence of other shapes that has no defect.
    pub fn harmless() -> impl Iterator<Item = Fault> {
        TABLE.iter().filter(|(_, checks)| checks.is_empty()).map(|(fault, _)| *fault)
    }

    /// `kebab-case`.
    pub fn name(self) -> String {
        kebab(&format!("{self:?}"))
    }

    /// Builds the evidence with this defect, on a platform of its own.
    pub fn case(self) -> Result<Case, SimulatorError> {
        self.pair().map(|(_, case)| case)
    }

    /// Evidence without what this defect changes in it, and with it, of the same platform. Where the platform itself is at
    /// fault, both are.
    pub fn pair(self) -> Result<(Case, Case), SimulatorError> {
        let platform = Arc::new(Platform::with(self.options()?)?);
        let identity = platform.identity()?;
        let good = Case::good(&platform, &identity)?;
        let mut case = good.clone();
        self.change_evidence(&mut case, identity)?;
        self.change_collateral(&mut case)?;
        Ok((good, case))
    }

    /// The platform that it is of.
    fn options(self) -> Result<Options, SimulatorError> {
        let mut options = Options::parse(self.description(), AT, 30)?;
        match self {
            Fault::Expired => (options.from, options.until) = (AT - 40 * DAY, AT - DAY),
            Fault::NotYetValid => (options.from, options.until) = (AT + DAY, AT + 40 * DAY),
            _ => {}
        }
        Ok(options)
    }

    /// What is wrong with its platform, as text.
    pub fn description(self) -> &'static str {
        match self {
            Fault::RevokedPck => "revoked = ['pck']",
            Fault::RevokedRoot => "revoked = ['root']",
            Fault::RevokedPckCa => "revoked = ['pck-ca']",
            Fault::RevokedTcbSigner => "revoked = ['tcb-signer']",
            Fault::ExpiredRoot => "expired = ['root']",
            Fault::ExpiredPckCa => "expired = ['pck-ca']",
            Fault::ExpiredTcbSigner => "expired = ['tcb-signer']",
            Fault::ExpiredPck => "expired = ['pck']",
            Fault::ExpiredTcbInfo => "expired = ['tcb-info']",
            Fault::ExpiredQeIdentity => "expired = ['qe-identity']",
            Fault::ExpiredRootCrl => "expired = ['root-crl']",
            Fault::ExpiredPckCrl => "expired = ['pck-crl']",
            Fault::ForgedPckCa => "forged = ['pck-ca']",
            Fault::ForgedTcbSigner => "forged = ['tcb-signer']",
            Fault::ForgedPck => "forged = ['pck']",
            Fault::ForgedRootCrl => "forged = ['root-crl']",
            Fault::ForgedPckCrl => "forged = ['pck-crl']",
            Fault::StrangersTcbInfo => "forged = ['tcb-info']",
            Fault::StrangersQeIdentity => "forged = ['qe-identity']",
            Fault::SwappedQe => {
                "qe-mrsigner = '4f5448455200000000000000000000000000000000000000000000000000abcd'"
            }
            Fault::QeDebug => "qe-attributes = '13000000000000000000000000000000'",
            Fault::OldQe => "qe-isvsvn = 0",
            Fault::WrongFmspc => "tcb-info-fmspc = '4f5448455253'",
            Fault::WrongPceId => "tcb-info-pce-id = '0100'",
            Fault::SgxTcbInfo => "tcb-info-id = 'SGX'",
            Fault::LowTcb => "cpu-svn = '00000000000000000000000000000000'",
            Fault::RevokedTcb => "tcb-status = 'Revoked'",
            _ => "",
        }
    }

    /// Defects of what the TD says, signed by the platform, and of the bytes on their way.
    fn change_evidence(self, case: &mut Case, mut identity: Identity) -> Result<(), SimulatorError> {
        self.change_td(&mut case.td);
        self.change_runtime(&mut case.td, &mut case.evidence.runtime);
        match self {
            Fault::ForgedEventLog => tpm::flip_last_digest(&mut case.evidence.event_log.bytes),
            Fault::OtherRelease => case.reference.releases[0].rtmr2 = Digest384([7; 48]),
            Fault::SwappedAttestationKey => identity.attestation_key = new_key()?,
            Fault::BadQeAuthData => identity.qe_auth_data[3] ^= 1,
            _ => {}
        }
        case.evidence.quote = match self {
            Fault::Version5 => identity.quote_of_version(5, &case.td),
            _ => identity.quote(&case.td),
        };
        self.change_bytes(&mut case.evidence.quote);
        Ok(())
    }

    fn change_td(self, td: &mut TdReport) {
        let set = |field: &mut Hex<8>, bits: u64| {
            *field = Hex((u64::from_le_bytes(field.0) | bits).to_le_bytes());
        };
        let v15 = |svn: Hex<16>, mrservicetd| {
            Some(V15 { tee_tcb_svn2: svn, mrservicetd: Digest384([mrservicetd; 48]), extended: None })
        };
        let launched = td.tee_tcb_svn;
        match self {
            Fault::DebugBit => set(&mut td.td_attributes, attributes::DEBUG),
            Fault::Profiling => set(&mut td.td_attributes, 1 << 4),
            Fault::SeptVe => td.td_attributes = Hex::ZERO,
            Fault::UnknownAttribute => set(&mut td.td_attributes, 1 << 40),
            Fault::Migratable => set(&mut td.td_attributes, 1 << 29),
            Fault::Pks => set(&mut td.td_attributes, 1 << 30),
            Fault::KeyLocker => set(&mut td.td_attributes, 1 << 31),
            Fault::UnknownXfam => set(&mut td.xfam, 1 << 40),
            Fault::MissingXfam => td.xfam = Hex(1u64.to_le_bytes()),
            Fault::ServiceTd => td.v15 = v15(launched, 7),
            Fault::Tdx15 => td.v15 = v15(launched, 0),
            Fault::UpdatedModule => {
                td.v15 = v15(launched, 0);
                td.tee_tcb_svn.0[0] = 0;
            }
            Fault::OldModule => td.tee_tcb_svn.0[0] = 0,
            Fault::UnknownModule => td.tee_tcb_svn.0[1] = 9,
            Fault::ForeignModule => td.mrsignerseam = Digest384::ZERO,
            Fault::DebugModule => td.seam_attributes.0[0] = 1,
            Fault::NoModule => td.mrseam = Digest384::ZERO,
            Fault::Owner => td.mrowner = Digest384([7; 48]),
            Fault::OwnerConfig => td.mrownerconfig = Digest384([7; 48]),
            Fault::SwappedMrconfigid => td.mrconfigid = Digest384([7; 48]),
            Fault::WrongReportData => td.report_data = Hex([0xa5; 64]),
            _ => {}
        }
    }

    /// Defects of the guest's own events; `shown` go into the log, `extended` into RTMR3.
    fn change_runtime(self, td: &mut TdReport, record: &mut Vec<u8>) {
        let good = runtime_events(&td.mrconfigid);
        let (mut shown, mut extended, mut extension) = (good.clone(), good, Extension::Extended);
        match self {
            Fault::RuntimeEventDropped => drop(shown.remove(1)),
            Fault::RuntimeEventsReordered => shown.swap(1, 2),
            Fault::RuntimeUnsealed => {
                shown.pop();
                extended.pop();
            }
            Fault::RuntimeExtendedAfterSeal => extended.push(RuntimeEvent::Sealed),
            Fault::RuntimeLogAfterSeal => {
                shown.push(RuntimeEvent::Sealed);
                extended.push(RuntimeEvent::Sealed);
            }
            Fault::RuntimeNotExtended => {
                extended.clear();
                extension = Extension::NotExtended;
            }
            Fault::RuntimeOtherConfig => {
                shown = runtime_events(&Digest384([7; 48]));
                extended = shown.clone();
            }
            // The guest measured what it really was given; what it shows is another's.
            Fault::SwappedMrconfigid => {}
            _ => return,
        }
        td.rtmr3 = runtime::fold(&extended);
        *record = runtime::encode(extension, &shown);
    }

    fn change_bytes(self, quote: &mut Vec<u8>) {
        const BODY: usize = 48;
        const LENGTH: usize = BODY + evidence::td::TD10_LEN;
        const SIGNATURE: usize = LENGTH + 4;
        const QE_REPORT_SIGNATURE: usize = SIGNATURE + 64 + 64 + 6 + 384;
        match self {
            // In the middle of MRSEAM: the strict policy takes any, so that nothing but the signature can tell.
            Fault::ForgedBody => quote[BODY + 16 + 40] ^= 1,
            Fault::BadQuoteSignature => quote[SIGNATURE + 8] ^= 1,
            Fault::BadQeReportSignature => quote[QE_REPORT_SIGNATURE + 8] ^= 1,
            Fault::Truncated => quote.truncate(quote.len() - 1),
            Fault::Empty => quote.clear(),
            Fault::LyingLength => quote[LENGTH..SIGNATURE].copy_from_slice(&u32::MAX.to_le_bytes()),
            Fault::OtherVersion => quote[0] = 3,
            Fault::SgxQuote => quote[4] = 0,
            Fault::OtherVendor => quote[12] ^= 1,
            Fault::TrailingByte => quote.extend([0, 0, 1]),
            Fault::Padded => quote.extend([0; 70]),
            _ => {}
        }
    }

    fn change_collateral(self, case: &mut Case) -> Result<(), SimulatorError> {
        let replaced = |collateral: &Collateral, from: &str, to: &str| {
            Collateral::parse(collateral.to_json().replace(from, to).as_bytes()).ok()
        };
        let changed = match self {
            Fault::ForeignRoot => {
                case.root_der = Platform::generate(AT)?.root_der()?;
                None
            }
            Fault::ForgedTcbInfo => replaced(&case.collateral, "\\\"tcbType\\\":0", "\\\"tcbType\\\":1"),
            Fault::ForgedQeIdentity => {
                replaced(&case.collateral, "\\\"isvprodid\\\":2", "\\\"isvprodid\\\":3")
            }
            _ => None,
        };
        if let Some(changed) = changed {
            case.collateral = changed;
        }
        Ok(())
    }
}

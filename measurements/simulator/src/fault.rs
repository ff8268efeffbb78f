//! Evidence with exactly one defect each, and the check that must name it.
//!
//! Every case starts from a platform and evidence that pass; [`Fault::None`] is that one.

use crate::platform::{Options, Platform, ascii};
use crate::{Identity, SimulatorError, tpm};
use evidence::td::attributes;
use evidence::{CheckName, Collateral, Hex, Reference, Release, Rtmr3, TdReport};
use measure::runtime::{self, Extension, GpuEvidence, RuntimeEvent};
use measure::wire::{EventLog, Evidence, LogFormat};
use measure::{Digest384, Registers};

/// Unix seconds at which the cases are appraised.
pub const AT: u64 = 1_780_000_000;
const DAY: u64 = 24 * 60 * 60;
const STATIC_CONFIG: &[u8] = b"schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n";
const REPORT_DATA: [u8; 64] = [0x5a; 64];

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
}

impl Fault {
    /// Every defect.
    pub const ALL: [Fault; 32] = {
        use Fault::*;
        [
            Expired,
            NotYetValid,
            ForeignRoot,
            ForgedTcbInfo,
            ForgedQeIdentity,
            RevokedPck,
            SwappedQe,
            BadQeReportSignature,
            BadQuoteSignature,
            ForgedBody,
            WrongFmspc,
            LowTcb,
            DebugBit,
            SeptVe,
            UnknownAttribute,
            UnknownXfam,
            ServiceTd,
            ForeignModule,
            Owner,
            SwappedMrconfigid,
            OtherRelease,
            ForgedEventLog,
            RuntimeEventDropped,
            RuntimeEventsReordered,
            RuntimeUnsealed,
            RuntimeExtendedAfterSeal,
            RuntimeLogAfterSeal,
            RuntimeNotExtended,
            RuntimeOtherConfig,
            WrongReportData,
            Truncated,
            TrailingByte,
        ]
    };

    /// The checks that must fail, and no other: one, but for the TCB, where the part that is behind fails with the whole.
    pub fn expected(self) -> &'static [CheckName] {
        use CheckName as C;
        match self {
            Fault::None => &[],
            Fault::Expired | Fault::NotYetValid => &[C::CollateralWindow],
            Fault::ForeignRoot => &[C::TrustRoot],
            Fault::ForgedTcbInfo => &[C::TcbInfo],
            Fault::ForgedQeIdentity => &[C::QeIdentity],
            Fault::RevokedPck => &[C::PckChain],
            Fault::SwappedQe | Fault::BadQeReportSignature => &[C::QeReport],
            Fault::BadQuoteSignature | Fault::ForgedBody => &[C::QuoteSignature],
            Fault::WrongFmspc => &[C::Fmspc],
            Fault::LowTcb => &[C::TcbPlatform, C::Tcb],
            Fault::DebugBit => &[C::Debug],
            Fault::SeptVe => &[C::SeptVeDisable],
            Fault::UnknownAttribute => &[C::TdAttributes],
            Fault::UnknownXfam => &[C::Xfam],
            Fault::ServiceTd => &[C::ServiceTd],
            Fault::ForeignModule => &[C::Mrsignerseam],
            Fault::Owner => &[C::Mrowner],
            Fault::SwappedMrconfigid => &[C::Mrconfigid],
            Fault::OtherRelease => &[C::Registers],
            Fault::ForgedEventLog => &[C::EventLog],
            Fault::RuntimeEventDropped
            | Fault::RuntimeEventsReordered
            | Fault::RuntimeUnsealed
            | Fault::RuntimeExtendedAfterSeal
            | Fault::RuntimeLogAfterSeal
            | Fault::RuntimeNotExtended
            | Fault::RuntimeOtherConfig => &[C::RuntimeEvents],
            Fault::WrongReportData => &[C::ReportData],
            Fault::Truncated | Fault::TrailingByte => &[C::QuoteFormat],
        }
    }

    /// Builds the evidence with this defect, on a platform of its own.
    pub fn case(self) -> Result<Case, SimulatorError> {
        let platform = Platform::with(self.options())?;
        let identity = platform.identity()?;
        let mut case = Case::good(&platform, &identity)?;
        self.change_evidence(&mut case, &identity);
        self.change_collateral(&mut case)?;
        Ok(case)
    }

    fn options(self) -> Options {
        let mut options = Options::valid(AT, 30);
        match self {
            Fault::Expired => (options.from, options.until) = (AT - 40 * DAY, AT - DAY),
            Fault::NotYetValid => (options.from, options.until) = (AT + DAY, AT + 40 * DAY),
            Fault::RevokedPck => options.revoke_pck = true,
            Fault::SwappedQe => options.qe_mrsigner = ascii("SIMULATED OTHER VENDOR"),
            Fault::WrongFmspc => options.tcb_info_fmspc = *b"OTHERS",
            Fault::LowTcb => options.cpu_svn = [0; 16],
            _ => {}
        }
        options
    }

    /// Defects of what the TD says, signed by the platform, and of the bytes on their way.
    fn change_evidence(self, case: &mut Case, identity: &Identity) {
        let set = |field: &mut Hex<8>, bits: u64| {
            *field = Hex((u64::from_le_bytes(field.0) | bits).to_le_bytes());
        };
        let mut td = case.td.clone();
        match self {
            Fault::DebugBit => set(&mut td.td_attributes, attributes::DEBUG),
            Fault::SeptVe => td.td_attributes = Hex::ZERO,
            Fault::UnknownAttribute => set(&mut td.td_attributes, 1 << 40),
            Fault::UnknownXfam => set(&mut td.xfam, 1 << 40),
            Fault::ServiceTd => {
                let (tee_tcb_svn2, mrservicetd) = (td.tee_tcb_svn, Digest384([7; 48]));
                td.v15 = Some(evidence::td::V15 { tee_tcb_svn2, mrservicetd, extended: None });
            }
            Fault::ForeignModule => td.mrsignerseam = Digest384::ZERO,
            Fault::Owner => td.mrowner = Digest384([7; 48]),
            Fault::SwappedMrconfigid => td.mrconfigid = Digest384([7; 48]),
            Fault::WrongReportData => td.report_data = Hex([0xa5; 64]),
            Fault::ForgedEventLog => {
                let log = &mut case.evidence.event_log.bytes;
                tpm::flip_last_digest(log);
            }
            Fault::OtherRelease => case.reference.releases[0].rtmr2 = Digest384([7; 48]),
            _ => {}
        }
        self.change_runtime(&mut td, &mut case.evidence.runtime);
        case.evidence.quote = identity.quote(&td);
        self.change_bytes(&mut case.evidence.quote);
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
        const SIGNATURE: usize = BODY + evidence::td::TD10_LEN + 4;
        const QE_REPORT_SIGNATURE: usize = SIGNATURE + 64 + 64 + 6 + 384;
        match self {
            // In the middle of MRSEAM: the strict policy takes any, so that nothing but the signature can tell.
            Fault::ForgedBody => quote[BODY + 16 + 40] ^= 1,
            Fault::BadQuoteSignature => quote[SIGNATURE + 8] ^= 1,
            Fault::BadQeReportSignature => quote[QE_REPORT_SIGNATURE + 8] ^= 1,
            Fault::Truncated => quote.truncate(quote.len() - 1),
            Fault::TrailingByte => quote.extend([0, 0, 1]),
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

/// Everything that an appraisal takes.
pub struct Case {
    /// What the guest sends.
    pub evidence: Evidence,
    /// What is published about its platform.
    pub collateral: Collateral,
    /// Root for the policy.
    pub root_der: Vec<u8>,
    /// Registers that are accepted.
    pub reference: Reference,
    /// What the quote was asked to contain.
    pub report_data: [u8; 64],
    /// When, Unix seconds.
    pub at: u64,
    td: TdReport,
}

impl Case {
    fn good(platform: &Platform, identity: &Identity) -> Result<Self, SimulatorError> {
        let log = tpm::sample_log();
        let mut registers = tpm::registers(&log, &tpm::replayed(&log)?)?;
        let mrconfigid = measure::wire::mrconfigid(STATIC_CONFIG);
        let events = runtime_events(&Digest384(mrconfigid));
        registers.rtmr[3] = runtime::fold(&events);
        let td = identity.td_report(&registers, mrconfigid, REPORT_DATA);
        let evidence = Evidence {
            quote: identity.quote(&td),
            event_log: EventLog { format: LogFormat::Tpm, bytes: log },
            static_config: STATIC_CONFIG.to_vec(),
            runtime: runtime::encode(Extension::Extended, &events),
        };
        Ok(Case {
            evidence,
            collateral: platform.collateral()?,
            root_der: platform.root_der()?,
            reference: reference(&registers),
            report_data: REPORT_DATA,
            at: AT,
            td,
        })
    }
}

/// What a guest with two models measures.
fn runtime_events(mrconfigid: &Digest384) -> Vec<RuntimeEvent> {
    let model = |name: &str, fill| RuntimeEvent::Model { name: name.into(), root: [fill; 32] };
    vec![
        RuntimeEvent::StaticConfig { sha384: *mrconfigid },
        model("one", 1),
        model("two", 2),
        RuntimeEvent::Gpu(GpuEvidence::none()),
        RuntimeEvent::Sealed,
    ]
}

fn reference(registers: &Registers) -> Reference {
    let release = Release {
        name: "simulated release".into(),
        mrtd: registers.mrtd,
        rtmr0: registers.rtmr[0],
        rtmr1: registers.rtmr[1],
        rtmr2: registers.rtmr[2],
        rtmr3: Some(Rtmr3::Events),
    };
    Reference { schema: 1, releases: vec![release], mrconfigid: None }
}

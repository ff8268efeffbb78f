//! Appraisal of TDX evidence: quote, event log and configuration in, a verdict out that says everything.
//!
//! ```text
//! quote ------> quote, td          (our own strict view of the bytes)
//! collateral -> chain, signatures  (signatures by dcap-qvl, from the policy's root down)
//!               tcb                (levels, and how far behind)
//!               cache              (the same, remembered while it holds)
//! policy -----> tcb_checks, td_checks
//! reference --> bound, log, runtime (configuration, registers, event log, the guest's own events, report data)
//!                        \--> verdict --> Appraised, or Refused
//! gpu          (reports, certificates, manifests of NVIDIA GPUs) --> AppraisedGpus, or RefusedGpus
//! bundle: all of the above but the policy as one file          genuine: for those who fetch collateral
//! ```
//! Pure: no I/O, no clock; time and collateral are passed in. Hostile bytes are bounded before they are parsed.
//!
//! Deliberately absent: any way to relax the appraisal from outside the policy, and any way to an [`Appraised`] but
//! [`appraise`] and [`Cache::appraise`], or to a [`gpu::AppraisedGpus`] but [`gpu::appraise_gpus`].

mod appraise;
mod bound;
mod bundle;
mod bytes;
mod cache;
mod certificate;
mod chain;
mod collateral;
mod genuine;
pub mod gpu;
mod log;
mod module;
mod pck;
mod policy;
mod quote;
mod reference;
mod replays;
mod runtime;
mod signatures;
mod tcb;
mod tcb_checks;
pub mod td;
mod td_checks;
mod time;
mod verdict;

pub use appraise::{Appraised, Inputs, Refused, appraise, verify};
pub use bundle::{Bundle, BundleError, BundlePart, Content, MAX_BUNDLE};
pub use bytes::Hex;
pub use cache::{Cache, CacheStats};
pub use collateral::{Collateral, CollateralError, Document, MAX_COLLATERAL};
pub use genuine::{PlatformId, genuine};
pub use policy::{Floors, INTEL_ROOT_KEY_ID, Platform, Policy, PolicyError, PolicyFile, SIMULATED_MARK};
pub use quote::{INTEL_QE_VENDOR, Quote, QuoteError, SignatureData};
pub use reference::{MAX_REFERENCE, Reference, ReferenceError, Release, Rtmr3};
pub use tcb::{Level, Tcb};
pub use td::TdReport;
pub use time::{read as read_time, show as show_time};
pub use verdict::{Check, CheckName, Name, Status, Verdict};

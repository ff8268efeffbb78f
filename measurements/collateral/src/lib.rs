//! Collateral from where it is published to where it is needed: fetched, checked, kept, refreshed ahead of its end.
//!
//! ```text
//! service (HTTP: Intel's form or a PCCS) --fetch--> genuine? --> store (disk) --> keeper --> evidence::verify
//!                                                                  schedule: when to ask again (pure)
//! ```
//! A running node asks the [`Keeper`], which answers from memory or disk as long as what it holds is valid, whatever the
//! service does. What comes from the network or the disk replaces nothing before [`evidence::genuine`] has verified it.
//! Blocking; time is passed in. Which service is asked is always configuration: no host is named here.
//!
//! Interfaces: Intel SGX and TDX Provisioning Certification Service API, version 4, and the Intel PCCS design guide, which
//! serves the same with CRLs in hex. Of GPUs: NVIDIA's RIM service, version 1, and OCSP (RFC 6960).

mod gpu;
mod keeper;
mod parse;
pub mod schedule;
mod service;
mod store;

pub use evidence::PlatformId;
pub use gpu::{GpuServices, GpuSettings};
pub use keeper::{Held, Keeper, KeeperError, Origin, Refreshed};
pub use service::{FetchError, Service, Settings, SettingsError};
pub use store::{Store, StoreError, Stored};

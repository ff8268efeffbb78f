//! Signed publication of reference values, and the only way by which a consumer takes them.
//!
//! ```text
//! publisher   measurements.json, release.json --publish--> TUF metadata, a static folder      (pure: bytes out)
//! rebuilders  measurements.json --statement--> <key>.rebuild.json
//!                                                 |  any web server, any folder (Mirror)
//! consumer    Anchor (measured settings) --> Trusted (TUF) --> AcceptedReleases --> evidence::Reference
//!                                              Clock, Keeper, Store, Refresher: fresh while it runs
//! ```
//! [`AcceptedReleases`] has private fields and comes out of verification only: publisher **and** k rebuilders, equal to the
//! byte. Verification is over bytes with the time passed in; files, network and clocks are at the rim (`http`, `store`,
//! `mirror::Folder`, `refresher`). Formats: docs/reference/release.md.
//!
//! Deliberately absent: delegations, other algorithms than Ed25519, any way to accept a release on fewer words.

mod accept;
mod anchor;
mod bundle;
mod clock;
mod document;
mod error;
mod http;
mod json;
mod keeper;
mod key;
mod measurements;
mod mirror;
pub mod name;
pub mod publish;
mod refresher;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
mod statement;
mod store;
mod tuf;
mod version;

pub use accept::{Accepted, AcceptedReleases, Lapsed, SetAside, statement_target};
pub use anchor::Anchor;
pub use bundle::{Bundle, first_root};
pub use clock::{Clock, Instants};
pub use document::{Document, GpuAdvice, MAX_DOCUMENT, Pinned, State, Status, TcbAdvice};
pub use error::ReleaseError;
pub use http::{Http, Limits, mirror_at};
pub use keeper::{Keeper, Published, Standing};
pub use key::{PublicKey, SigningKey, seed_to_pem};
pub use measurements::{ConfigRule, File, MAX_MEASUREMENTS, Machine, Measurements, Model, Tuple};
pub use mirror::{Folder, Mirror, MirrorError};
pub use refresher::{Refresher, SystemClock};
pub use statement::{MAX_STATEMENT, Statement};
pub use store::{Store, StoreError};
pub use tuf::{Expiry, Meta, Role, Trusted, fetch_target};
pub use version::{ReleaseId, Version};

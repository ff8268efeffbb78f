//! The source kit: one folder, addressed by content, from which alone a release can be rebuilt.
//!
//! ```text
//! index.json            what is in it: kind, name, SHA-256, size of every object; its own SHA-256 names the kit
//! objects/<SHA-256>     the bytes
//!
//! commit     1          the git commit, as git hashes it
//! source     1          `git archive` of that commit
//! crate      all        every crate of Cargo.lock, as the registry serves it
//! package    all        every .deb of image/packages.lock and image/tools.lock
//! toolchain  all        every installed file of image/toolchain.lock
//! ```
//! **Trust runs from the commit, not from the index.** The unpacked source must hash to the commit's own tree, and the
//! locks in that source say which objects there have to be and with which hashes: one more or one fewer is refused. So
//! whoever serves a kit can spoil it but can't change what is built.
//!
//! Reading is bounded: an index has a greatest size, an object is streamed and never longer than the index says.
//! Deliberately absent: signatures (a release's measurements name the commit), compression (objects are compressed already or
//! are stored as they run), fetching over the network ([`Mirror`] is implemented by the caller).

mod copy;
mod error;
mod fetch;
mod index;
mod make;
mod source;
pub mod toolchain;
mod unpack;

pub use copy::Kit;
pub use error::KitError;
pub use fetch::{Mirror, fetch};
pub use index::{Index, Kind, MAX_INDEX, Object};
pub use make::{What, make};
pub use unpack::unpack;

/// Name of the index in a kit.
pub const INDEX: &str = "index.json";
/// Folder of the objects in a kit.
pub const OBJECTS: &str = "objects";

#[cfg(test)]
mod tests;

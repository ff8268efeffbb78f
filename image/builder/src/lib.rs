//! Recipe to locked recipe to artifacts; drives mkosi; proves two builds equal.
//!
//! ```text
//! image/rootfs.allow, packages.lock, tools.lock, mkosi.*        guest/*
//!        |                                                        |
//!        v                                                        v
//!  Recipe<Unlocked> --lock::fetch--> Recipe<Locked>   guest::compile in the tools root
//!                                         |                       |
//!                                         +----------+------------+
//!                                                    v
//!                                    rootfs::stage (allow-listed files only)
//!                                                    v
//!                                    mkosi: erofs, dm-verity, UKI, disk
//!                                                    v
//!                                    Artifacts (artifacts.json, manifest.json)
//! ```
//! Package maintainer scripts never run for the image: packages are unpacked and the allow list says which of their
//! files enter, so every byte of the root has a package, a hash and a reason.
//!
//! Deliberately absent: measuring (`measure` reads the artifacts), signing, publishing, booting.

pub mod allow;
pub mod artifacts;
pub mod checkout;
mod cpio;
mod diff;
mod elf;
pub mod gpu;
pub mod guest;
mod hash;
mod image;
pub mod kit;
pub mod lock;
mod mirror;
pub mod model;
mod modules;
pub mod progress;
pub mod prove;
pub mod provenance;
mod recipe;
pub mod reproduce;
mod rootfs;
pub mod sizes;
pub mod source;
pub mod tools;

pub use artifacts::{Artifact, Artifacts, Profile};
pub use checkout::Checkout;
pub use kit::Kit;
pub use progress::{Progress, Report};
pub use prove::{Proof, Thoroughness, prove};
pub use recipe::{Locked, Recipe, Stand, Unlocked, build};
pub use tools::Tools;

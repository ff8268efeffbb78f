//! The whole network as processes on one machine: a local chain, two proxies and three workers on a SIMULATED platform, a
//! client behind its gateway, and the owners' commands. Who paid whom what is read off the chain in the end.
//!
//! ```text
//! stage   chain's process, SIMULATED platform, people's files and commands      guest   a daemon that can be killed and come back
//! play    everybody in their places                                             books   who holds what; balanced or refused
//! story   the play once, for people to read; with a worker in a virtual machine (vm)
//! ```
//! Tests play with it, each with faults of its own; `cargo xtask up` runs the story. It panics where something is not as it
//! must be, and says what; what it started ends with it. The programs lie beside the one that plays, where cargo puts them.

pub mod ask;
pub mod books;
pub mod guest;
pub mod play;
pub mod stage;
pub mod story;
#[allow(missing_docs, reason = "shared with the daemons' own tests, which document it for their readers")]
#[path = "../../../guest/daemon/tests/support/mod.rs"]
pub mod support;
pub mod vm;

/// A small random encoder.
#[allow(missing_docs, reason = "shared with the engine's own tests, which document it for their readers")]
#[path = "../../../guest/engine/tests/common/folder.rs"]
pub mod model;

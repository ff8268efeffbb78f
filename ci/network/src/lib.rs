//! The whole network as processes on one machine: a local chain, two proxies and three workers on a SIMULATED platform, a
//! client behind its gateway, and the owners' commands. Who paid whom what is read off the chain in the end.
//!
//! ```text
//! stage   chain's process, SIMULATED platform, people's files and commands      guest   a daemon that can be killed and come back
//! play    everybody in their places                                             books   who holds what; balanced or refused
//! ```
//! Tests play with it, each with faults of its own. It panics where something is not as it must be, and says what; whoever
//! is killed by that leaves no process behind. The programs lie beside the one that plays, where cargo puts them.

pub mod books;
pub mod guest;
pub mod play;
pub mod stage;
#[allow(missing_docs, reason = "shared with the daemons' own tests, which document it for their readers")]
#[path = "../../../guest/daemon/tests/support/mod.rs"]
pub mod support;

/// A small random encoder.
#[allow(missing_docs, reason = "shared with the engine's own tests, which document it for their readers")]
#[path = "../../../guest/engine/tests/common/folder.rs"]
pub mod model;

//! The whole network as processes on one machine: a local chain, two proxies and three workers on a SIMULATED platform, a
//! client behind its gateway, and the owners' commands. Who paid whom what is read off the chain in the end.
//!
//! The programs lie beside `chrysalis` where cargo puts them: `cargo test --workspace` builds all of them.

mod books;
mod faults;
mod guest;
mod play;
mod stage;
#[path = "../../../../guest/daemon/tests/support/mod.rs"]
mod support;

/// A small random encoder.
#[path = "../../../../guest/engine/tests/common/folder.rs"]
mod model;

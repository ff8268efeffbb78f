//! The gateway over proxies of this process: real sessions of a SIMULATED platform, real books, real disks, lies where a
//! test wants them.

#[path = "../../../../guest/ratls/tests/support/mod.rs"]
mod support;

mod attacks;
mod chain;
mod crash;
mod fake;
mod life;
mod rig;

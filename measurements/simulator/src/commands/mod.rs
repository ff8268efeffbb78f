//! Subcommands of `chrysalis-simulator`.

mod notify;
pub mod pki;
mod rtmr;
pub mod serve;
mod tsm;

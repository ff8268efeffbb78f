//! Subcommands of `chrysalis-simulator`.

mod notify;
pub mod pki;
pub mod serve;
mod tsm;

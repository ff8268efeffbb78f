//! A local TON chain for development and tests, with real cells, real blocks, real proofs and the real TVM.
//!
//! ```text
//! chain (pure): genesis, mail, shard (execute, seal), prove       node: chain + store + clock       server: TCP, one frame
//! ```
//! LOCAL TEST CHAIN: one validator whose key lies on disk, a faucet that gives coins to everybody, a clock that can be moved.
//! It shows what contracts, clients and daemons do on TON's rules and prices. It shows nothing about TON's consensus, and its
//! coins are worth nothing. Every output that names the chain says so.

mod chain;
mod genesis;
mod mail;
mod node;
mod prove;
mod server;
mod shard;
mod store;

pub use chain::{Chain, Produced};
pub use genesis::{FAUCET_BALANCE, GLOBAL_ID, Genesis};
pub use node::{Facts, Node};
pub use server::serve;
pub use store::{Store, StoreError};

/// What every output calls this chain.
pub const WHAT: &str = "LOCAL TEST CHAIN";

/// The chain can't do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Cells are malformed or too large.
    #[error("cells: {0}")]
    Cells(#[from] tycho_types::error::Error),
    /// The configuration is no configuration.
    #[error("configuration of the chain: {0}; expected main net's parameters as committed")]
    Config(String),
    /// A wallet's message can't be built.
    #[error(transparent)]
    Wallet(#[from] ton::wallet::WalletError),
    /// The executor failed inside.
    #[error("the transaction executor failed: {0}; a defect, or a message that no wallet makes")]
    Executor(String),
    /// Coins appeared or vanished in a block.
    #[error("coins were not conserved in a block: {0}; a defect of the chain")]
    Coins(String),
    /// A message can't be taken.
    #[error("the message can't be taken: {0}")]
    Message(String),
    /// A question about a state that is no longer kept.
    #[error("masterchain block {0} is not among the recent ones; ask for the head anew")]
    Gone(u32),
    /// The validator set is malformed.
    #[error("the masterchain's state has no validators")]
    Validators,
}

impl ChainError {
    /// The executor reports through anyhow.
    pub(crate) fn executor(error: anyhow::Error) -> Self {
        ChainError::Executor(format!("{error:#}"))
    }
}

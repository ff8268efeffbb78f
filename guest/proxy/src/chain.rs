//! What the proxy has to see of the chain, as a trait: whoever reads the chain feeds it, and tests play it.
//!
//! Deliberately absent: how anything is proven, and messages to the chain. The proxy hands out vouchers, and whoever wants
//! sends them.

use payment::Address;
use payment::price::{Commission, Price};
use payment::view::{PoolView, VaultView};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// What the root contract says, as far as a proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// By a model's verity root.
    pub prices: BTreeMap<[u8; 32], Price>,
    /// This pool's part; none where the book doesn't know the pool.
    pub commission: Option<Commission>,
}

/// Why a vault can't be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoView {
    /// There is no such vault on the chain.
    #[error("no vault is at this address; open it, then wait for a block")]
    NoVault,
    /// Nobody can be asked at the moment.
    #[error("the chain can't be read at the moment; try again later")]
    Unreachable,
}

/// A proven vault, or why there is none, when it comes.
pub type Seeing<'a> = Pin<Box<dyn Future<Output = Result<VaultView, NoView>> + Send + 'a>>;

/// Proven views of the chain, each newer than the one before.
pub trait Chain: Send + Sync + 'static {
    /// The proxy's pool; none before it was seen.
    fn pool(&self) -> watch::Receiver<Option<PoolView>>;
    /// The root's book; none before it was seen.
    fn book(&self) -> watch::Receiver<Option<Arc<Book>>>;
    /// A vault, as of now.
    fn vault(&self, vault: Address) -> Seeing<'_>;
}

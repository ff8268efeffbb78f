//! What the chain says, proven: the root's book and the vaults, looked at again and again.
//!
//! A server that is gone or lies changes nothing that was proven before; how old that is, is told. A proven block is genuine,
//! not fresh: what an old one can do to a client is an old price, at which a proxy with the new one is refused.

use payment::Address;
use payment::price::Price;
use payment::view::VaultView;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use ton::contract::{self, ContractError, address_of, root, vault};
use ton::{Ledger, LedgerError};

/// Between two looks where no block says that there is something new.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a new block is waited for.
const WAIT: Duration = Duration::from_secs(10);

/// What was seen at one block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Number of the masterchain block.
    pub seqno: u32,
    /// Its time, Unix seconds.
    pub time: u32,
    /// Version of the root's book.
    pub version: u32,
    /// Epoch and hash of the publication root.
    pub release: (u64, [u8; 32]),
    /// Prices by the model's verity root.
    pub prices: BTreeMap<[u8; 32], Price>,
    /// Commission and endpoint by pool.
    pub proxies: BTreeMap<Address, Listed>,
    /// This client's vaults, in the order in which they were named.
    pub vaults: Vec<(Address, VaultView)>,
    /// Vaults that are none, with why.
    pub wrong: Vec<(Address, String)>,
}

/// A proxy in the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Parts of 10,000 of a charge.
    pub commission: u16,
    /// `HOST:PORT`.
    pub endpoint: String,
}

/// Why nothing new was seen.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// No server answered with what holds.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The root is none.
    #[error("the root: {0}")]
    Root(#[from] ContractError),
}

/// Looks once.
///
/// # Errors
/// [`ChainError`].
pub async fn look(ledger: &dyn Ledger, root: &Address, vaults: &[Address]) -> Result<Facts, ChainError> {
    let account = ledger.account(&address_of(root)).await?;
    let book = root::read_book(&account)?;
    let listed =
        |proxy: &root::Proxy| Listed { commission: proxy.commission, endpoint: proxy.endpoint.clone() };
    let mut facts = Facts {
        seqno: account.block().seqno(),
        time: account.block().gen_utime(),
        version: book.version,
        release: (book.release_epoch, book.release_root),
        prices: book.models.iter().map(|(root, price)| (*root, price_of(price))).collect(),
        proxies: book.proxies.iter().map(|(p, proxy)| (contract::account_of(p), listed(proxy))).collect(),
        ..Facts::default()
    };
    for address in vaults {
        let account = ledger.account(&address_of(address)).await?;
        match vault::view(&account) {
            Ok(view) => facts.vaults.push((*address, view)),
            Err(error) => facts.wrong.push((*address, error.to_string())),
        }
    }
    Ok(facts)
}

fn price_of(price: &root::Price) -> Price {
    let root::Price { base, prompt, cached, completion, reasoning } = *price;
    Price { base, prompt, cached, completion, reasoning }
}

/// Looks for as long as somebody reads what was seen; `tell` hears of each look that failed.
pub async fn watch_chain(
    ledger: Arc<dyn Ledger>,
    root: Address,
    vaults: Vec<Address>,
    facts: watch::Sender<Arc<Facts>>,
    tell: impl Fn(&ChainError) + Send,
) {
    loop {
        match look(ledger.as_ref(), &root, &vaults).await {
            Ok(seen) => {
                if facts.send(Arc::new(seen)).is_err() {
                    return;
                }
            }
            Err(error) => tell(&error),
        }
        let seqno = facts.borrow().seqno;
        tokio::select! {
            () = facts.closed() => return,
            _ = async {
                tokio::time::sleep(PAUSE).await;
                // What fails here fails again at the next look, which tells.
                let _ = ledger.head_after(seqno, WAIT).await;
            } => {}
        }
    }
}

//! The chain as [`daemon::ledger`] proves it, in the form that the proxy's books take.

use crate::chain::{Book, Chain, NoView, Seeing};
use daemon::ledger::{BookView, PoolSight, Sight, Watch};
use payment::Address;
use payment::view::PoolView;
use std::sync::Arc;
use tokio::sync::watch;

/// Proven views of one pool, and of the vaults that pay it.
pub struct Ledger {
    watch: Watch,
    pool: watch::Receiver<Option<PoolView>>,
    book: watch::Receiver<Option<Arc<Book>>>,
}

impl Ledger {
    /// Follows `watch` on the present tokio runtime, for as long as it is there. `None`: it watches too many pools already.
    pub fn follow(watch: Watch, pool: Address) -> Option<Self> {
        let pools = watch.pool(pool)?;
        let books = watch.book();
        let view = |sight: &Sight<PoolSight>| sight.there().map(|there| there.view.clone());
        let book = move |sight: &Sight<BookView>| sight.there().map(|there| Arc::new(stated(there, &pool)));
        Some(Self { watch, pool: mapped(pools, view), book: mapped(books, book) })
    }
}

/// What a view says of prices, and of this pool's commission.
fn stated(view: &BookView, pool: &Address) -> Book {
    let price = |root: &[u8; 32]| view.price(root).map(|price| (*root, price));
    Book { prices: view.book.models.keys().filter_map(price).collect(), commission: view.commission(pool) }
}

/// A channel of what `of` makes of another's values; what it makes nothing of changes nothing.
fn mapped<T, V>(
    mut from: watch::Receiver<T>,
    of: impl Fn(&T) -> Option<V> + Send + 'static,
) -> watch::Receiver<Option<V>>
where
    T: Send + Sync + 'static,
    V: PartialEq + Send + Sync + 'static,
{
    let (to, receiver) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let new = of(&from.borrow_and_update());
            if new.is_some() {
                to.send_if_modified(|had| {
                    let changed = *had != new;
                    *had = new;
                    changed
                });
            }
            tokio::select! {
                changed = from.changed() => if changed.is_err() { return },
                () = to.closed() => return,
            }
        }
    });
    receiver
}

impl Chain for Ledger {
    fn pool(&self) -> watch::Receiver<Option<PoolView>> {
        self.pool.clone()
    }

    fn book(&self) -> watch::Receiver<Option<Arc<Book>>> {
        self.book.clone()
    }

    fn vault(&self, vault: Address) -> Seeing<'_> {
        Box::pin(async move {
            let mut sights = self.watch.vault(vault).ok_or(NoView::Unreachable)?;
            let first = sights.borrow_and_update().clone();
            // What was seen before may be what is asked anew about.
            if !matches!(first, Sight::Waiting) {
                self.watch.again(vault);
            }
            let limit = tokio::time::timeout(SOON, sights.changed());
            let changed = matches!(limit.await, Ok(Ok(())));
            let sight = if changed { sights.borrow().clone() } else { first };
            match sight {
                Sight::There(view) => Ok(*view),
                Sight::Missing(_) => Err(NoView::NoVault),
                Sight::Waiting => Err(NoView::Unreachable),
            }
        })
    }
}

/// How long to wait for a newer view of a vault.
const SOON: std::time::Duration = std::time::Duration::from_secs(10);

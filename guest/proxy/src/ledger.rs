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
            match newer(first, sights, self.watch.troubles()).await {
                Sight::There(view) => Ok(*view),
                Sight::Missing(_) => Err(NoView::NoVault),
                Sight::Waiting => Err(NoView::Unreachable),
            }
        })
    }
}

/// What is seen next, or what was seen first where nothing comes soon: at once where no server answers, since then
/// somebody waits for nothing.
async fn newer<T>(
    first: Sight<T>,
    mut sights: watch::Receiver<Sight<T>>,
    mut troubles: watch::Receiver<Option<String>>,
) -> Sight<T> {
    tokio::select! {
        biased;
        Ok(()) = sights.changed() => sights.borrow().clone(),
        Ok(_) = troubles.wait_for(Option::is_some) => first,
        () = tokio::time::sleep(SOON) => first,
    }
}

/// How long to wait for a newer view of a vault.
const SOON: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::{SOON, Sight, newer};
    use std::sync::Arc;
    use tokio::sync::watch;
    use tokio::time::Instant;

    fn there(what: u8) -> Sight<u8> {
        Sight::There(Arc::new(what))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_a_chain_that_is_away() {
        let (_sight, sights) = watch::channel(there(1));
        let (trouble, troubles) = watch::channel(None);
        let begun = Instant::now();
        let waiting = tokio::spawn(newer(there(1), sights.clone(), troubles.clone()));
        tokio::task::yield_now().await;
        trouble.send_replace(Some("no server answers".into()));
        assert!(matches!(waiting.await.unwrap(), Sight::There(view) if *view == 1));
        assert!(matches!(newer(Sight::Waiting, sights, troubles).await, Sight::Waiting));
        assert_eq!(
            begun.elapsed().as_secs(),
            0,
            "of a clock that stands still while something is to be done"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_proven_meanwhile_is_taken_and_nothing_is_waited_for_longer_than_soon() {
        let (sight, sights) = watch::channel(there(1));
        let (_trouble, troubles) = watch::channel(None);
        let mut fresh = sights.clone();
        fresh.mark_unchanged();
        let waiting = tokio::spawn(newer(there(1), fresh, troubles.clone()));
        tokio::task::yield_now().await;
        sight.send_replace(there(2));
        assert!(matches!(waiting.await.unwrap(), Sight::There(view) if *view == 2));
        let begun = Instant::now();
        let mut quiet = sights;
        quiet.mark_unchanged();
        assert!(matches!(newer(there(2), quiet, troubles).await, Sight::There(view) if *view == 2));
        assert_eq!(begun.elapsed(), SOON);
    }
}

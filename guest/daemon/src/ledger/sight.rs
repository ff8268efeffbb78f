//! What was proven of an account, if anything was.

use payment::price::{Commission, Price};
use payment::view::{PoolView, Seen};
use std::collections::BTreeMap;
use std::sync::Arc;
use ton::contract::address_of;
use ton::contract::root::{self, Book};

/// What is known of an account.
#[derive(Debug)]
pub enum Sight<T> {
    /// Nothing is proven yet.
    Waiting,
    /// This, at the block that it names.
    There(Arc<T>),
    /// At this block the account is not there, or runs other code than ours.
    Missing(Seen),
}

impl<T> Sight<T> {
    /// What is there.
    pub fn there(&self) -> Option<&Arc<T>> {
        match self {
            Sight::There(what) => Some(what),
            Sight::Waiting | Sight::Missing(_) => None,
        }
    }
}

impl<T> Clone for Sight<T> {
    fn clone(&self) -> Self {
        match self {
            Sight::Waiting => Sight::Waiting,
            Sight::There(what) => Sight::There(what.clone()),
            Sight::Missing(seen) => Sight::Missing(*seen),
        }
    }
}

/// A pool, and what it paid this guest.
#[derive(Debug, Clone)]
pub struct PoolSight {
    /// As the machines of `payment` take it.
    pub view: PoolView,
    /// nanoTON paid to this guest's wallet in each live session; empty in a guest without one.
    pub paid: BTreeMap<u32, u64>,
}

/// The root's book.
#[derive(Debug, Clone)]
pub struct BookView {
    /// The newest block that shows it.
    pub seen: Seen,
    /// What it says.
    pub book: Arc<Book>,
    /// What it said before its last change, if that was seen: who reads a little later is right, too.
    pub before: Option<Arc<Book>>,
}

impl BookView {
    /// The view that follows `sight` with `book` at `seen`.
    pub(super) fn after(sight: &Sight<BookView>, seen: Seen, book: Book) -> Sight<BookView> {
        let view = match sight.there() {
            Some(had) if had.book.version == book.version => BookView { seen, ..BookView::clone(had) },
            had => BookView { seen, book: Arc::new(book), before: had.map(|had| had.book.clone()) },
        };
        Sight::There(Arc::new(view))
    }

    /// The price of a model by its verity root; none where nobody may ask for it.
    pub fn price(&self, model: &[u8; 32]) -> Option<Price> {
        self.book.models.get(model).map(price)
    }

    /// What the proxy of a pool keeps; none where the book doesn't name the pool.
    pub fn commission(&self, pool: &payment::Address) -> Option<Commission> {
        self.book.proxies.get(&address_of(pool)).map(|proxy| Commission::new(proxy.commission))
    }

    /// Whether a price and a commission (in parts of 10,000) are the book's, or those of the book before.
    pub fn agrees(&self, model: &[u8; 32], asked: &Price, pool: &payment::Address, commission: u16) -> bool {
        let says = |book: &Arc<Book>| {
            let same = book.models.get(model).is_some_and(|found| price(found) == *asked);
            same && book.proxies.get(&address_of(pool)).is_some_and(|found| found.commission == commission)
        };
        says(&self.book) || self.before.as_ref().is_some_and(says)
    }
}

fn price(of: &root::Price) -> Price {
    let root::Price { base, prompt, cached, completion, reasoning } = *of;
    Price { base, prompt, cached, completion, reasoning }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: [u8; 32] = [1; 32];
    const POOL: payment::Address = payment::Address { workchain: 0, hash: [2; 32] };

    fn book(version: u32, base: u64) -> Book {
        let price = root::Price { base, prompt: 1, cached: 1, completion: 1, reasoning: 1 };
        let proxy = root::Proxy { commission: 500, endpoint: "127.0.0.1:1".into() };
        Book {
            version,
            release_epoch: 0,
            release_root: [0; 32],
            models: [(MODEL, price)].into(),
            proxies: [(address_of(&POOL), proxy)].into(),
        }
    }

    fn asked(base: u64) -> Price {
        Price { base, prompt: 1, cached: 1, completion: 1, reasoning: 1 }
    }

    #[test]
    fn the_price_before_the_last_change_is_still_taken_and_one_before_that_is_not() {
        let mut sight = Sight::Waiting;
        for (version, base) in [(1, 10), (2, 20), (2, 20), (3, 30)] {
            sight = BookView::after(&sight, Seen { seqno: version, time: 0 }, book(version, base));
        }
        let view = sight.there().unwrap();
        assert_eq!((view.seen.seqno, view.price(&MODEL)), (3, Some(asked(30))));
        let agrees = |base, commission| view.agrees(&MODEL, &asked(base), &POOL, commission);
        assert_eq!([30, 20, 10].map(|base| agrees(base, 500)), [true, true, false]);
        assert!(!agrees(30, 499), "another commission");
        assert!(!view.agrees(&[9; 32], &asked(30), &POOL, 500), "another model");
    }
}

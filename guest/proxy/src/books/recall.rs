//! What became of requests: numbers that were used, and receipts for clients that lost theirs.
//!
//! Bounded: the last [`EACH`] requests of each of [`VAULTS`] vaults are known.

use payment::proxy::Settled;
use payment::{Address, Signed, Use, receipt::Receipt};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Finished requests that are known of one vault.
pub const EACH: usize = 64;
/// Vaults of which finished requests are known.
pub const VAULTS: usize = 1024;

/// What is known of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is under way.
    Open,
    /// It was charged.
    Charged {
        /// The total that was signed with it.
        used: Signed<Use>,
        /// What it cost, and for what.
        receipt: Signed<Receipt>,
    },
    /// It ended and cost nothing.
    Free,
}

#[derive(Debug, Default)]
struct Numbers {
    open: BTreeSet<u64>,
    done: VecDeque<(u64, Kept)>,
    /// When the last one ended, as a count of ends; 0 for none.
    last: u64,
}

/// By vault and number.
#[derive(Debug, Default)]
pub struct Recall {
    vaults: BTreeMap<Address, Numbers>,
    /// By when their last request ended.
    order: BTreeMap<u64, Address>,
    ends: u64,
}

impl Recall {
    /// What became of it.
    pub fn find(&self, vault: &Address, request: u64) -> Option<Kept> {
        let numbers = self.vaults.get(vault)?;
        if numbers.open.contains(&request) {
            return Some(Kept::Open);
        }
        numbers.done.iter().rev().find(|(number, _)| *number == request).map(|(_, kept)| *kept)
    }

    /// It is under way.
    pub fn begin(&mut self, vault: Address, request: u64) {
        self.vaults.entry(vault).or_default().open.insert(request);
    }

    /// It was never begun after all, so its number is free again.
    pub fn forget(&mut self, vault: &Address, request: u64) {
        if let Some(numbers) = self.vaults.get_mut(vault) {
            numbers.open.remove(&request);
            if numbers.open.is_empty() && numbers.done.is_empty() {
                self.vaults.remove(vault);
            }
        }
    }

    /// It ended; `settled` if it was charged.
    pub fn end(&mut self, vault: Address, request: u64, settled: Option<&Settled>) {
        let kept = settled.map_or(Kept::Free, |s| Kept::Charged { used: s.used, receipt: s.receipt });
        self.ends += 1;
        let numbers = self.vaults.entry(vault).or_default();
        numbers.open.remove(&request);
        numbers.done.push_back((request, kept));
        if numbers.done.len() > EACH {
            numbers.done.pop_front();
        }
        self.order.remove(&numbers.last);
        numbers.last = self.ends;
        self.order.insert(self.ends, vault);
        if self.order.len() > VAULTS {
            self.drop_oldest();
        }
    }

    /// Forgets what ended of the vault that was idle longest.
    fn drop_oldest(&mut self) {
        let Some((_, vault)) = self.order.pop_first() else { return };
        let Some(numbers) = self.vaults.get_mut(&vault) else { return };
        numbers.done.clear();
        numbers.last = 0;
        if numbers.open.is_empty() {
            self.vaults.remove(&vault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(n: u64) -> Address {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        Address { workchain: 0, hash }
    }

    #[test]
    fn what_ended_is_known_for_a_while_and_what_is_open_always() {
        let mut recall = Recall::default();
        recall.begin(vault(0), 7);
        for request in 100..100 + EACH as u64 + 1 {
            recall.begin(vault(0), request);
            recall.end(vault(0), request, None);
        }
        assert_eq!(recall.find(&vault(0), 7), Some(Kept::Open));
        assert_eq!(recall.find(&vault(0), 100), None, "the oldest made room");
        assert_eq!(recall.find(&vault(0), 101), Some(Kept::Free));
        for n in 1..=VAULTS as u64 {
            recall.end(vault(n), 1, None);
        }
        assert_eq!(recall.find(&vault(0), 101), None, "the vault that was idle longest made room");
        assert_eq!(recall.find(&vault(0), 7), Some(Kept::Open));
        assert_eq!((recall.order.len(), recall.vaults.len()), (VAULTS, VAULTS + 1));
    }

    #[test]
    fn a_request_that_was_never_begun_leaves_nothing() {
        let mut recall = Recall::default();
        recall.begin(vault(1), 7);
        recall.forget(&vault(1), 7);
        assert!(recall.vaults.is_empty());
    }
}

//! Who is next: the waiting client that was served least.
//!
//! Service is counted in tokens that were computed for a client, those of answers twice, as they cost more. A client that
//! comes back from idleness starts no lower than the least of those that are here: it can't save up for a burst. Within a
//! client the order is that of arrival.
//!
//! Source: Sheng et al. 2024, "Fairness in Serving Large Language Models", <https://arxiv.org/abs/2401.00588>.

use super::event::ClientId;
use std::collections::{HashMap, VecDeque};

struct Account<T> {
    served: u64,
    running: usize,
    waiting: VecDeque<T>,
}

/// Work that waits, by client.
pub(crate) struct Queue<T> {
    accounts: HashMap<ClientId, Account<T>>,
    waiting: usize,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Queue { accounts: HashMap::new(), waiting: 0 }
    }

    /// How much waits.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Puts work behind what its client sent before.
    pub fn push(&mut self, client: ClientId, work: T) {
        let least = self.accounts.values().filter(|a| a.is_active()).map(|a| a.served).min();
        let fresh = || Account { served: 0, running: 0, waiting: VecDeque::new() };
        let account = self.accounts.entry(client).or_insert_with(fresh);
        if !account.is_active() {
            account.served = account.served.max(least.unwrap_or(0));
        }
        account.waiting.push_back(work);
        self.waiting += 1;
    }

    /// Takes the next work if `fits` says so. What does not fit keeps its turn: small work can't push it aside for ever.
    pub fn pop(&mut self, fits: impl FnOnce(&T) -> bool) -> Option<T> {
        let waiting = self.accounts.iter_mut().filter(|(_, account)| !account.waiting.is_empty());
        let (_, account) = waiting.min_by_key(|(client, account)| (account.served, **client))?;
        if !account.waiting.front().is_some_and(fits) {
            return None;
        }
        account.running += 1;
        self.waiting -= 1;
        account.waiting.pop_front()
    }

    /// Counts service.
    pub fn serve(&mut self, client: ClientId, tokens: usize) {
        if let Some(account) = self.accounts.get_mut(&client) {
            account.served += tokens as u64;
        }
    }

    /// Service so far.
    pub fn served(&self, client: ClientId) -> u64 {
        self.accounts.get(&client).map_or(0, |account| account.served)
    }

    /// Work that was taken has ended. Accounts that say nothing any more are closed.
    pub fn end(&mut self, client: ClientId) {
        if let Some(account) = self.accounts.get_mut(&client) {
            account.running = account.running.saturating_sub(1);
        }
        self.close();
    }

    /// Takes back waiting work.
    pub fn remove(&mut self, unwanted: impl Fn(&T) -> bool) -> usize {
        let mut removed = 0;
        for account in self.accounts.values_mut() {
            let before = account.waiting.len();
            account.waiting.retain(|work| !unwanted(work));
            removed += before - account.waiting.len();
        }
        self.waiting -= removed;
        self.close();
        removed
    }

    fn close(&mut self) {
        let active = self.accounts.values().filter(|account| account.is_active());
        let least = active.map(|account| account.served).min().unwrap_or(u64::MAX);
        self.accounts.retain(|_, account| account.is_active() || account.served > least);
    }
}

impl<T> Account<T> {
    fn is_active(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);

    #[test]
    fn a_flood_of_one_client_does_not_keep_another_one_waiting() {
        let mut queue = Queue::new();
        (0..10).for_each(|i| queue.push(A, i));
        assert_eq!(queue.pop(|_| true), Some(0));
        queue.serve(A, 100);
        queue.push(B, 77);
        queue.serve(A, 1);
        assert_eq!(queue.pop(|_| true), Some(77));
        queue.serve(B, 500);
        assert_eq!(queue.pop(|_| true), Some(1));
    }

    #[test]
    fn idleness_saves_nothing_up() {
        let mut queue = Queue::new();
        queue.push(A, 1);
        queue.pop(|_| true);
        queue.serve(A, 1000);
        queue.push(B, 2);
        assert_eq!(queue.served(B), 1000);
    }

    #[test]
    fn what_does_not_fit_keeps_its_turn() {
        let mut queue = Queue::new();
        queue.push(A, 9);
        queue.push(A, 1);
        assert_eq!(queue.pop(|work| *work < 5), None);
        assert_eq!(queue.waiting(), 2);
        assert_eq!(queue.remove(|work| *work == 9), 1);
        assert_eq!(queue.pop(|work| *work < 5), Some(1));
        queue.end(A);
        assert!(queue.accounts.is_empty());
    }
}

//! The search itself: the first candidate that matches, on two threads, the same one whatever the threads do.
//!
//! Candidates are ordered from near to far, so the first match is the simplest explanation.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads of a search. A verifier has other work too.
pub(super) const THREADS: usize = 2;
/// Candidates that a thread takes at once.
const BLOCK: usize = 64;

/// Index of the first candidate below `count` for which `matches` holds.
pub(super) fn first(count: usize, matches: impl Fn(usize) -> bool + Sync) -> Option<usize> {
    let best = AtomicUsize::new(usize::MAX);
    let next = AtomicUsize::new(0);
    let work = || loop {
        let start = next.fetch_add(BLOCK, Ordering::Relaxed);
        // Whatever lies behind a match can't be the first one.
        if start >= count || start > best.load(Ordering::Relaxed) {
            break;
        }
        if let Some(found) = (start..count.min(start + BLOCK)).find(|i| matches(*i)) {
            best.fetch_min(found, Ordering::Relaxed);
        }
    };
    if count <= BLOCK {
        work();
    } else {
        std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    }
    let best = best.into_inner();
    (best != usize::MAX).then_some(best)
}

/// `make` of every index, in order, on all threads.
pub(super) fn map<T: Send>(count: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut part = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return part;
            }
            part.push((i, make(i)));
        }
    };
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<(usize, T)>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, made)| made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_matches_is_found_every_time() {
        for _ in 0..50 {
            assert_eq!(first(10_000, |i| i >= 777 && i % 3 == 0), Some(777));
        }
        assert_eq!(first(10_000, |i| i == 9_999), Some(9_999));
        assert_eq!((first(10_000, |_| false), first(0, |_| true), first(1, |_| true)), (None, None, Some(0)));
    }

    #[test]
    fn results_stay_in_order() {
        assert_eq!(map(1000, |i| i * 2), (0..1000).map(|i| i * 2).collect::<Vec<_>>());
    }
}

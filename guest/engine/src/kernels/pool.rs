//! Threads that share the parts of one computation.
//!
//! ```text
//! run(parts, work): open -> every thread takes the next part that nobody took -> closed -> all that joined are out
//! ```
//! Whoever is free takes the next part, so a thread that has half a core does half as much. A thread that comes late finds
//! the computation closed and is not waited for; one that is stopped in the middle of a part is waited for by sleeping, so
//! that the system can run it on the caller's core. Threads turn in place for some microseconds between computations,
//! because a pass is hundreds of short ones, and then sleep.
//!
//! `unsafe` here: helpers outlive the borrow of `work`. `run` returns only when every helper that joined has left, and
//! none can join a closed computation; both are decided under one lock.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Turns in place before a thread lets others run, and then before it sleeps.
const SPINS: u32 = 1500;
const YIELDS: u32 = 16;

type Work = dyn Fn(usize) + Sync;

/// What helpers may join.
struct Open {
    /// Lifetime erased; see the module.
    work: *const Work,
    parts: usize,
}

// SAFETY: `work` is `Sync`, and it is used only while `run` borrows it.
unsafe impl Send for Open {}

#[derive(Default)]
struct Board {
    open: Option<Open>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    board: Mutex<Board>,
    /// Counts computations, so that helpers see without the lock that there is a new one.
    number: AtomicU64,
    /// Next part to take.
    next: AtomicUsize,
    /// Helpers that joined and have not left.
    joined: AtomicUsize,
    failed: AtomicBool,
    /// Whether the caller sleeps until all have left; changed under the lock.
    awaited: AtomicBool,
    sleepers: AtomicUsize,
    wake: Condvar,
    left: Condvar,
}

/// A number of threads, the caller's among them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held by the caller that has the helpers; another one computes alone.
    busy: Mutex<()>,
}

impl Pool {
    /// A pool of `threads`; with 1, or where none can be started, callers compute alone.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared::default());
        let start = |index: usize| {
            let shared = shared.clone();
            let name = format!("kernel-{index}");
            std::thread::Builder::new().name(name).spawn(move || shared.help()).ok()
        };
        let helpers = (1..threads).map_while(start).collect();
        Pool { shared, helpers, busy: Mutex::new(()) }
    }

    /// Threads that compute, the caller's among them.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work` once for each number below `parts`, on whatever thread.
    pub fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let alone = self.helpers.is_empty() || parts < 2;
        let Some(_busy) = (if alone { None } else { self.busy.try_lock().ok() }) else {
            return (0..parts).for_each(work);
        };
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed; `close` below ends every use of it.
        let erased = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Work>(work) };
        {
            let mut board = shared.board();
            shared.next.store(0, Ordering::Relaxed);
            board.open = Some(Open { work: erased, parts });
            shared.number.fetch_add(1, Ordering::Release);
            if shared.sleepers.load(Ordering::Relaxed) > 0 {
                shared.wake.notify_all();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.take(parts, work)));
        shared.close();
        let failed = shared.failed.swap(false, Ordering::Relaxed);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!failed, "a part of a computation panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.board().stop = true;
        self.shared.number.fetch_add(1, Ordering::Release);
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked has said so already.
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes parts until there is none left.
    fn take(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= parts {
                return;
            }
            work(part);
        }
    }

    /// Lets nobody in any more and waits until all are out.
    fn close(&self) {
        self.board().open = None;
        for _ in 0..SPINS {
            if self.joined.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut board = self.board();
        self.awaited.store(true, Ordering::Relaxed);
        while self.joined.load(Ordering::Acquire) > 0 {
            board = self.left.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        self.awaited.store(false, Ordering::Relaxed);
        drop(board);
    }

    /// The life of a helper.
    fn help(&self) {
        let mut seen = 0;
        loop {
            self.await_other(seen);
            let (work, parts) = {
                let board = self.board();
                seen = self.number.load(Ordering::Relaxed);
                if board.stop {
                    return;
                }
                let Some(open) = &board.open else { continue };
                self.joined.fetch_add(1, Ordering::Relaxed);
                (open.work, open.parts)
            };
            // SAFETY: `joined` is above 0 until this helper has left, so `run` still holds the borrow.
            let result = catch_unwind(AssertUnwindSafe(|| self.take(parts, unsafe { &*work })));
            if result.is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            // Under the lock, so that a caller between its look and its sleep does not miss it.
            let board = self.board();
            self.joined.fetch_sub(1, Ordering::Release);
            if self.awaited.load(Ordering::Relaxed) {
                self.left.notify_all();
            }
            drop(board);
        }
    }

    /// Returns when there is another computation than number `seen`, or none any more.
    fn await_other(&self, seen: u64) {
        let other = || self.number.load(Ordering::Acquire) != seen;
        for turn in 0..SPINS + YIELDS {
            if other() {
                return;
            }
            if turn < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let mut board = self.board();
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        while !other() {
            board = self.wake.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        drop(board);
    }
}

/// A slice that threads write in places that don't meet.
#[derive(Clone, Copy)]
pub(super) struct Shares<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: whoever takes a place from it vouches that nobody else has it.
unsafe impl<T: Send> Send for Shares<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shares<T> {}

impl<T> Shares<T> {
    /// Of a slice, which is borrowed for as long as the caller makes sure of.
    pub fn of(slice: &mut [T]) -> Self {
        Shares { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The same from an element on.
    ///
    /// # Safety
    /// The slice is still borrowed.
    pub unsafe fn from(other: Self, first: usize) -> Self {
        assert!(first <= other.len, "an element of the slice");
        // SAFETY: within the slice.
        Shares { start: unsafe { other.start.add(first) }, len: other.len - first }
    }

    /// The address of an element.
    ///
    /// # Safety
    /// The slice is still borrowed, and what is written from there on is nobody else's.
    pub unsafe fn at(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.len);
        // SAFETY: the callers compute places within the slice.
        unsafe { self.start.add(index) }
    }

    /// Part of the slice.
    ///
    /// # Safety
    /// The slice is still borrowed, and nobody else has a part that meets this one.
    #[allow(clippy::mut_from_ref, reason = "that it is the only one is what the caller vouches for")]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part lies in the slice");
        // SAFETY: within the slice; the rest is the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

impl Pool {
    /// Calls `work` for every row of `width` elements, on whatever thread.
    pub fn rows<T: Send>(&self, rows: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        let count = rows.len() / width.max(1);
        // Several rows a part where rows are short: a part should be worth taking.
        let step = (4096 / width.max(1)).clamp(1, 64);
        let shares = Shares::of(rows);
        self.run(count.div_ceil(step), &|part| {
            for row in part * step..((part + 1) * step).min(count) {
                // SAFETY: every row is in one part.
                work(row, unsafe { shares.slice(row * width, width) });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_computed_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for parts in [0, 1, 2, 7, 300] {
                let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, &|part| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn thousands_of_computations_lose_no_part() {
        let pool = Pool::new(4);
        let mut sums = vec![0u64; 37];
        for round in 0..3000 {
            pool.rows(&mut sums, 1, |index, row| row[0] += index as u64 + round);
        }
        let rounds: u64 = (0..3000).sum();
        assert!(sums.iter().enumerate().all(|(index, sum)| *sum == rounds + 3000 * index as u64));
    }

    #[test]
    fn two_callers_of_one_pool_both_get_their_answers() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mut rows = vec![0usize; 50];
                        pool.rows(&mut rows, 1, |index, row| row[0] = index);
                        assert!(rows.iter().enumerate().all(|(index, row)| index == *row));
                    }
                });
            }
        });
    }

    #[test]
    fn a_part_that_panics_ends_the_call_and_not_the_pool() {
        let pool = Pool::new(3);
        for at in [0, 3, 9] {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(10, &|part| assert_ne!(part, at))));
            assert!(result.is_err());
            let count = AtomicUsize::new(0);
            pool.run(10, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 10);
        }
    }
}

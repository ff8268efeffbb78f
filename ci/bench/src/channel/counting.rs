//! Counts heap by end: a thread says which end it works for, and what it allocates and frees counts there.
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one hands everything on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

/// An end that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The end that sends requests.
    Client = 1,
    /// The end that serves them.
    Server = 2,
}

/// The system's allocator, counted.
pub struct Counting;

static BYTES: [AtomicIsize; 3] = [const { AtomicIsize::new(0) }; 3];

thread_local! {
    static END: Cell<usize> = const { Cell::new(0) };
}

impl Counted {
    /// From now on this thread works for this end.
    pub fn here(self) {
        END.set(self as usize);
    }

    /// Bytes that its threads have asked for and not given back.
    pub fn bytes(self) -> isize {
        BYTES[self as usize].load(Ordering::Relaxed)
    }
}

fn count(bytes: isize) {
    // A thread that is ending has no cell any more, and counts nowhere.
    let end = END.try_with(Cell::get).unwrap_or(0);
    if end != 0 {
        BYTES[end].fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to `System` with the very arguments, and the result is its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

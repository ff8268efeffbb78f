//! Fuzz targets: every parser of hostile bytes, with seeds that the project makes itself.
//!
//! ```text
//! samples, simulator -> seeds -+-> tests/mutated.rs      edits of each seed, in every `cargo xtask test`
//!                              +-> main.rs (libFuzzer)   `cargo xtask fuzz`, as long as one likes
//! ```
//! A target takes any bytes. It may refuse them; it may not panic, loop, or take more memory than [`Target::memory`] says.
//! Deliberately absent: recorded evidence of real machines; the tests of each crate read it where it is at hand.

mod edit;
mod targets;

pub use edit::{Edit, edited};
pub use targets::TARGETS;

/// Memory that a parser may take whatever its input says, beyond a small multiple of the input.
pub const MEMORY: usize = 8 << 20;

/// One parser under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name on the command line and of the corpus folder.
    pub name: &'static str,
    /// Feeds bytes to the parser and to what works on its result; says whether they were accepted.
    pub run: fn(&[u8]) -> bool,
    /// Well-formed inputs, each accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Most bytes it may allocate at once for an input of a seed's size.
    pub memory: usize,
}

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.iter().find(|target| target.name == name).copied()
    }
}

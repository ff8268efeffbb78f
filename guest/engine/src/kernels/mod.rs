//! What the engine asks of the processor itself: multiplying by weights as they lie in a file, attention over blocks, and
//! the threads that share both.
//!
//! ```text
//! Machine ......... instruction set (isa.rs, found at run time) and threads (pool.rs)
//! Matrix .......... weights f32, f16, bf16 or int8, in a mapped file (map.rs) or in memory (matrix.rs, tile.rs)
//! is_finite ....... whether weights are numbers, as they lie (finite.rs)
//! Cache ........... keys and values in blocks (cache.rs), and attention over them (attend.rs)
//! Packed .......... weights f32 laid out for many tokens, whose States lie in panels (product.rs, states.rs, packed.rs);
//!                   attention of whole texts, norms (encoder.rs)
//! gpu ............. the same for GPUs, with the features `cuda` or `wgpu` (gpu/)
//! ```
//! This is the crate's one place with `unsafe`: vector instructions are compiled for processors that have them and called
//! only where the processor says so; threads write disjoint places of one slice; files are mapped. Nothing outside needs
//! `unsafe` to use it, and slices of wrong lengths panic.
//!
//! Activations are in single precision; where they meet weights of bytes they are rounded to bytes too (bytes.rs). What is
//! computed for a token is the same to the last bit with any number of threads and in any company.

mod attend;
mod bytes;
mod cache;
mod encoder;
mod finite;
#[cfg(feature = "cubes")]
pub(crate) mod gpu;
mod isa;
mod lanes;
mod map;
mod matrix;
mod packed;
mod panels;
mod pool;
mod product;
mod rowwise;
mod states;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use attend::{Span, attention};
pub(crate) use bytes::{BLOCK as OUTPUTS, GROUP};
pub use cache::KvPrecision;
pub(crate) use cache::{BLOCK, Beyond, Cache};
pub(crate) use finite::is_finite;
pub(crate) use isa::Isa;
pub(crate) use map::{Brought, Mapped, Mapping};
pub(crate) use matrix::{Kind, Matrix};
pub(crate) use pool::Pool;
pub(crate) use product::{Packed, Then};
pub(crate) use states::States;

/// The processor as it is used: an instruction set and threads.
pub(crate) struct Machine {
    isa: Isa,
    pool: Pool,
    /// Whether prompts that meet weights of bfloat16 are rounded to it.
    pairs: bool,
}

impl Machine {
    /// The best instruction set and `threads` threads; as many as the process may use where that is 0.
    pub fn new(threads: usize) -> Machine {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let pool = Pool::new(if threads == 0 { all() } else { threads });
        Machine { isa: Isa::best(), pool, pairs: false }
    }

    /// The same, rounding the activations of prompts that meet weights of bfloat16.
    pub fn with_pairs(self) -> Machine {
        Machine { pairs: true, ..self }
    }

    /// Threads and instruction set.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The name of the instruction set.
    #[cfg(test)]
    pub fn isa(&self) -> &'static str {
        self.isa.name()
    }

    /// Root mean square norm of every row, each as long as `gamma`: `out = x / sqrt(mean(x * x) + eps) * gamma`.
    pub fn normed(&self, x: &[f32], gamma: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == out.len() && x.len().is_multiple_of(gamma.len()), "whole rows");
        self.pool.rows(out, gamma.len(), |row, out| {
            let x = &x[row * gamma.len()..][..gamma.len()];
            // SAFETY: the instruction set is this processor's.
            unsafe { isa::normed(self.isa, x, gamma, eps, out) };
        });
    }

    /// Root mean square norm of one row in place.
    pub fn norm_in_place(&self, x: &mut [f32], gamma: &[f32], eps: f32, scratch: &mut [f32]) {
        let scratch = &mut scratch[..x.len()];
        scratch.copy_from_slice(x);
        // SAFETY: the instruction set is this processor's.
        unsafe { isa::normed(self.isa, scratch, gamma, eps, x) };
    }

    /// `out = silu(gate) * up`, where a row of `both` is gate and up, each as long as a row of `out`: `inner`.
    pub fn gated(&self, both: &[f32], inner: usize, out: &mut [f32]) {
        assert_eq!(both.len(), 2 * out.len(), "gate and up");
        self.pool.rows(out, inner, |row, out| {
            let (gate, up) = both[row * 2 * inner..][..2 * inner].split_at(inner);
            // SAFETY: the instruction set is this processor's.
            unsafe { isa::gated(self.isa, gate, up, out) };
        });
    }
}

#[cfg(test)]
mod tests;

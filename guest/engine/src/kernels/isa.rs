//! Which instruction set computes, and the entrances to the loops compiled for each.

use super::attend::{Heads, heads};
use super::bytes;
use super::encoder;
use super::finite;
use super::lanes::{Lanes, Plain};
use super::packed;
use super::panels;
use super::rowwise;
use super::states::Row;
use super::tile::{Bf16, F16, F32, Work, streamed, widen};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use std::sync::OnceLock;

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Isa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this processor has, the best one last. The only way to an [`Isa`].
    pub fn all() -> Vec<Isa> {
        let mut all = vec![Isa(Set::Plain)];
        #[cfg(target_arch = "x86_64")]
        {
            let common = is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if common && is_x86_feature_detected!("avx2") {
                all.push(Isa(Set::Avx2));
                let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
                let rest = is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq");
                // Those before them are served with AVX2.
                let products =
                    is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bf16");
                all.extend((wide && rest && products).then_some(Isa(Set::Avx512)));
            }
        }
        all
    }

    /// The best that this processor has.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::all().pop().unwrap_or(Isa(Set::Plain)))
    }

    /// Whether there are 32 registers.
    pub fn is_wide(self) -> bool {
        match self.0 {
            Set::Plain => Plain::WIDE,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => Avx2::WIDE,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => Avx512::WIDE,
        }
    }

    /// Its name, such as `avx512`.
    #[cfg(test)]
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
    }
}

/// A function for each instruction set out of a generic one, and one that chooses.
macro_rules! compiled {
    ($(#[$doc:meta])* $name:ident ( $($arg:ident : $type:ty),* ) = $path:path, $($element:ty)?) => {
        $(#[$doc])*
        pub(super) unsafe fn $name(isa: Isa, $($arg: $type),*) {
            use $path as generic;
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $type),*) {
                // SAFETY: as the caller vouches.
                unsafe { generic::<Avx2 $(, $element)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $type),*) {
                // SAFETY: as the caller vouches.
                unsafe { generic::<Avx512 $(, $element)?>($($arg),*) }
            }
            // SAFETY: an `Isa` exists only where the processor has it; the rest is the caller's word.
            unsafe {
                match isa.0 {
                    Set::Plain => generic::<Plain $(, $element)?>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Set::Avx2 => avx2($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Set::Avx512 => avx512($($arg),*),
                }
            }
        }
    };
}

compiled!(
    /// [`streamed`] over single precision.
    streamed_f32(work: Work, rows: usize, tokens: usize) = streamed, F32
);
compiled!(
    /// [`streamed`] over half precision.
    streamed_f16(work: Work, rows: usize, tokens: usize) = streamed, F16
);
compiled!(
    /// [`streamed`] over bfloat16.
    streamed_bf16(work: Work, rows: usize, tokens: usize) = streamed, Bf16
);
compiled!(
    /// [`bytes::bytes`]: signed bytes with scales.
    bytes(work: bytes::Work, tokens: usize) = bytes::bytes,
);
compiled!(
    /// [`bytes::lay_out`].
    lay_out_bytes(wide: &[f32], cols: usize, block: &mut [u8]) = bytes::lay_out,
);
compiled!(
    /// [`finite::word`].
    greatest_word(bytes: &[u8], most: &mut u32) = finite::word,
);
compiled!(
    /// [`finite::half`].
    greatest_half(bytes: &[u8], most: &mut u32) = finite::half,
);
compiled!(
    /// [`bytes::rounded_row`].
    rounded_row(row: &[f32], to: &mut [u32], step: usize) = bytes::rounded_row,
);
compiled!(
    /// [`widen`] of single precision.
    widen_f32(work: Work, rows: usize) = widen, F32
);
compiled!(
    /// [`widen`] of half precision.
    widen_f16(work: Work, rows: usize) = widen, F16
);
compiled!(
    /// [`widen`] of bfloat16.
    widen_bf16(work: Work, rows: usize) = widen, Bf16
);
compiled!(
    /// [`heads`]: attention of some query heads.
    attend_f32(work: Heads<'_>) = heads, F32
);
compiled!(
    /// The same over keys and values in half precision.
    attend_f16(work: Heads<'_>) = heads, F16
);
compiled!(
    /// [`rowwise::normed`].
    normed(x: &[f32], gamma: &[f32], eps: f32, out: &mut [f32]) = rowwise::normed,
);
compiled!(
    /// [`rowwise::gated`].
    gated(gate: &[f32], up: &[f32], out: &mut [f32]) = rowwise::gated,
);
compiled!(
    /// [`packed::packed`].
    packed(work: packed::Work, tokens: usize) = packed::packed, packed::Single
);
compiled!(
    /// [`packed::packed`] of pairs of bfloat16.
    packed_pairs(work: packed::Work, tokens: usize) = packed::packed, packed::Pairs
);
compiled!(
    /// [`panels::turned`] of single precision, and of pairs of bfloat16.
    turned_f32(turn: panels::Turn) = panels::turned, F32
);
compiled!(
    /// [`panels::turned`] of half precision.
    turned_f16(turn: panels::Turn) = panels::turned, F16
);
compiled!(
    /// [`panels::turned`] of bfloat16.
    turned_bf16(turn: panels::Turn) = panels::turned, Bf16
);
compiled!(
    /// [`panels::rounded_pairs`].
    rounded_pairs(row: &[f32], to: &mut [f32], step: usize) = panels::rounded_pairs,
);
compiled!(
    /// [`packed::beside`].
    beside(work: packed::Work, tile: usize, along: usize) = packed::beside,
);
compiled!(
    /// [`packed::across`].
    across(work: packed::Work, tile: usize, jump: usize) = packed::across,
);
compiled!(
    /// [`encoder::centred`].
    centred(panel: &mut [Row], gamma: &[f32], beta: &[f32], eps: f32) = encoder::centred,
);
compiled!(
    /// [`encoder::gelu`].
    gelu(rows: &mut [Row]) = encoder::gelu,
);
compiled!(
    /// [`encoder::softened`].
    softened(scores: &mut [Row], scale: f32, sums: &mut Row) = encoder::softened,
);

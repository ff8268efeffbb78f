//! What a processor does to several numbers at once, under one name for each instruction set.
//!
//! Loops are written once, generic over [`Lanes`], and are inlined into functions that are compiled for an instruction
//! set; nothing else may call them. Weights are read byte by byte address, without alignment: they lie where a file has
//! them. [`Plain`] needs nothing of the processor and is what the others are held against.

use half::{bf16, f16};

/// One instruction set. Every function may only run where the processor has it, and reads `N` elements at `p`.
pub(super) trait Lanes: Copy {
    /// Numbers of a vector.
    const N: usize;
    /// Whether there are 32 registers, not 16.
    const WIDE: bool;
    /// Whether a product and a sum are one instruction, with one rounding.
    const FUSED: bool;
    /// Vectors of half as many numbers, where the processor has them for that; else the same.
    type Half: Lanes;
    /// A vector of `N` numbers.
    type V: Copy;
    /// A vector of `N` whole numbers.
    type I: Copy;
    /// `4 * N` bytes.
    type B: Copy;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const u8) -> Self::V;
    unsafe fn load_f16(p: *const u8) -> Self::V;
    unsafe fn load_bf16(p: *const u8) -> Self::V;
    /// `4 * N` bytes at `p`.
    unsafe fn bytes(p: *const u8) -> Self::B;
    /// What [`Lanes::dot`]s are added to, for weights that are 128 too much: the number at `p`, or 0 where `dot` takes it off.
    unsafe fn start(p: *const i32) -> Self::I;
    /// `dot[i]` and the products of bytes `4 * i..4 * i + 4` of `w` and the four signed ones at `x`, exactly.
    unsafe fn dot(dot: Self::I, w: Self::B, x: *const i8) -> Self::I;
    /// As numbers.
    unsafe fn whole(i: Self::I) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `sum` and both products of a pair of bfloat16 in the bits of each number, `x[2 * i] * w[2 * i] + x[2 * i + 1] * w[2 * i + 1]`.
    unsafe fn pairs(x: Self::V, w: Self::V, sum: Self::V) -> Self::V;
    /// Stores `N` vectors turned: number `i` of `vector(r)` goes to `to[i * step + r]`. Bits stay what they are.
    unsafe fn turned(vector: impl FnMut(usize) -> Self::V, to: *mut f32, step: usize);
    /// Sum of all numbers.
    unsafe fn sum(v: Self::V) -> f32;
    /// Asks for the memory at `p`, which need not be there.
    unsafe fn ask(p: *const u8);
}

/// Eight numbers without any instruction set.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Plain {
    #[inline(always)]
    unsafe fn each<T: Copy>(p: *const u8, f: impl Fn(T) -> f32) -> [f32; 8] {
        // SAFETY: the caller vouches for eight elements at `p`.
        std::array::from_fn(|i| f(unsafe { p.cast::<T>().add(i).read_unaligned() }))
    }
}

impl Lanes for Plain {
    const N: usize = 8;
    const WIDE: bool = false;
    const FUSED: bool = false;
    type Half = Plain;
    type V = [f32; 8];
    type I = [i32; 8];
    type B = [u8; 32];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self::V {
        // SAFETY: as the caller vouches.
        unsafe { Self::each(p, f32::from_le_bytes) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self::V {
        // SAFETY: as the caller vouches.
        unsafe { Self::each(p, |bits| f16::from_le_bytes(bits).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self::V {
        // SAFETY: as the caller vouches.
        unsafe { Self::each(p, |bits| bf16::from_le_bytes(bits).to_f32()) }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::B {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { p.cast::<[u8; 32]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn start(_: *const i32) -> Self::I {
        [0; 8]
    }

    #[inline(always)]
    unsafe fn dot(dot: Self::I, w: Self::B, x: *const i8) -> Self::I {
        // SAFETY: the caller vouches for four bytes.
        let x = unsafe { x.cast::<[i8; 4]>().read_unaligned() };
        let product = |i: usize, k: usize| (i32::from(w[4 * i + k]) - 128) * i32::from(x[k]);
        std::array::from_fn(|i| dot[i] + (0..4).map(|k| product(i, k)).sum::<i32>())
    }

    #[inline(always)]
    unsafe fn whole(i: Self::I) -> Self::V {
        i.map(|x| x as f32)
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for room for eight numbers.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Two roundings: a fused one would be a call into a library here.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn pairs(x: Self::V, w: Self::V, sum: Self::V) -> Self::V {
        let low = |x: f32| f32::from_bits(x.to_bits() << 16);
        let high = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        std::array::from_fn(|i| sum[i] + high(x[i]) * high(w[i]) + low(x[i]) * low(w[i]))
    }

    #[inline(always)]
    unsafe fn turned(vector: impl FnMut(usize) -> Self::V, to: *mut f32, step: usize) {
        let vectors: [Self::V; 8] = std::array::from_fn(vector);
        for i in 0..8 {
            // SAFETY: the caller vouches for room.
            unsafe { Self::store(to.add(i * step), vectors.map(|vector| vector[i])) };
        }
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    unsafe fn ask(_: *const u8) {}
}

//! [`Lanes`] of AVX2 with FMA and F16C, and of AVX-512.
//!
//! Source: Intel's Intrinsics Guide.

use super::lanes::Lanes;
use std::arch::x86_64::*;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// AVX-512 with products of bytes (VNNI) and of bfloat16.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

// SAFETY of all functions: the caller vouches for the instruction set and for what lies at `p`; no load or store here
// needs alignment.
impl Lanes for Avx2 {
    const N: usize = 8;
    const WIDE: bool = false;
    const FUSED: bool = true;
    type Half = Avx2;
    type V = __m256;
    type I = __m256i;
    type B = __m256i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256 {
        unsafe { _mm256_loadu_ps(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m256 {
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> __m256i {
        unsafe { _mm256_xor_si256(_mm256_loadu_si256(p.cast()), _mm256_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn start(_: *const i32) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn dot(dot: __m256i, w: __m256i, x: *const i8) -> __m256i {
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            // Pairs of products stay below 2^15: bytes of x are at most 127.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn whole(i: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(i) }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn pairs(x: __m256, w: __m256, sum: __m256) -> __m256 {
        unsafe {
            let low = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v)));
            let high = |v| _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)));
            let sum = _mm256_fmadd_ps(high(x), high(w), sum);
            _mm256_fmadd_ps(low(x), low(w), sum)
        }
    }

    #[inline(always)]
    unsafe fn turned(vector: impl FnMut(usize) -> __m256, to: *mut f32, step: usize) {
        unsafe {
            let rows: [__m256; 8] = std::array::from_fn(vector);
            let pairs = |i: usize| {
                _mm256_castps_pd(if i.is_multiple_of(2) {
                    _mm256_unpacklo_ps(rows[i], rows[i + 1])
                } else {
                    _mm256_unpackhi_ps(rows[i - 1], rows[i])
                })
            };
            // Of four rows: column `c` in the low half and `4 + c` in the high one.
            let fours = |first: usize, c: usize| {
                let (a, b) = (pairs(first + c / 2), pairs(first + 2 + c / 2));
                _mm256_castpd_ps(if c.is_multiple_of(2) {
                    _mm256_unpacklo_pd(a, b)
                } else {
                    _mm256_unpackhi_pd(a, b)
                })
            };
            for c in 0..4 {
                let (a, b) = (fours(0, c), fours(4, c));
                Self::store(to.add(c * step), _mm256_permute2f128_ps::<0x20>(a, b));
                Self::store(to.add((4 + c) * step), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }

    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn ask(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

impl Lanes for Avx512 {
    const N: usize = 16;
    const WIDE: bool = true;
    const FUSED: bool = true;
    type Half = Avx2;
    type V = __m512;
    type I = __m512i;
    type B = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512 {
        unsafe { _mm512_loadu_ps(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m512 {
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn start(p: *const i32) -> __m512i {
        unsafe { _mm512_set1_epi32(p.read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(dot: __m512i, w: __m512i, x: *const i8) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(dot, w, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn whole(i: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(i) }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn pairs(x: __m512, w: __m512, sum: __m512) -> __m512 {
        // SAFETY: both are 64 bytes of any value.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512, __m512bh>(x),
                std::mem::transmute::<__m512, __m512bh>(w),
            )
        }
    }

    #[inline(always)]
    unsafe fn turned(vector: impl FnMut(usize) -> __m512, to: *mut f32, step: usize) {
        unsafe {
            let rows: [__m512; 16] = std::array::from_fn(vector);
            let pairs = |i: usize| {
                _mm512_castps_pd(if i.is_multiple_of(2) {
                    _mm512_unpacklo_ps(rows[i], rows[i + 1])
                } else {
                    _mm512_unpackhi_ps(rows[i - 1], rows[i])
                })
            };
            // Of four rows: column `4 * q + c` in quarter `q`.
            let fours = |first: usize, c: usize| {
                let (a, b) = (pairs(first + c / 2), pairs(first + 2 + c / 2));
                _mm512_castpd_ps(if c.is_multiple_of(2) {
                    _mm512_unpacklo_pd(a, b)
                } else {
                    _mm512_unpackhi_pd(a, b)
                })
            };
            for c in 0..4 {
                let (a, b, d, e) = (fours(0, c), fours(4, c), fours(8, c), fours(12, c));
                // Quarters 0 and 2, then 1 and 3, of two vectors each.
                let (even, evens) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(d, e));
                let (odd, odds) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(d, e));
                Self::store(to.add(c * step), _mm512_shuffle_f32x4::<0x88>(even, evens));
                Self::store(to.add((4 + c) * step), _mm512_shuffle_f32x4::<0x88>(odd, odds));
                Self::store(to.add((8 + c) * step), _mm512_shuffle_f32x4::<0xdd>(even, evens));
                Self::store(to.add((12 + c) * step), _mm512_shuffle_f32x4::<0xdd>(odd, odds));
            }
        }
    }

    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }

    #[inline(always)]
    unsafe fn ask(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

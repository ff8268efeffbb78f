//! [`Lanes`] of AVX2 with FMA and F16C, and of AVX-512.
//!
//! Source: Intel's Intrinsics Guide.

use super::lanes::Lanes;
use std::arch::x86_64::*;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// The foundation of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

// SAFETY of all functions: the caller vouches for the instruction set and for what lies at `p`; no load or store here
// needs alignment.
impl Lanes for Avx2 {
    const N: usize = 8;
    const WIDE: bool = false;
    type V = __m256;

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
    unsafe fn load_i8(p: *const i8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn splat_f16(p: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(p.read_unaligned() as i16)) }
    }

    #[inline(always)]
    unsafe fn dot(w: *const i8, x: *const i16) -> __m256 {
        unsafe {
            let half = |i: usize| {
                let w = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(i).cast()));
                _mm256_madd_epi16(w, _mm256_loadu_si256(x.add(i).cast()))
            };
            _mm256_cvtepi32_ps(_mm256_add_epi32(half(0), half(16)))
        }
    }

    #[inline(always)]
    unsafe fn scales(scales: *const u16, x: *const f32, out: *mut f32) {
        for i in [0, 8] {
            unsafe {
                let wide = _mm256_cvtph_ps(_mm_loadu_si128(scales.add(i).cast()));
                _mm256_storeu_ps(out.add(i), _mm256_mul_ps(wide, _mm256_loadu_ps(x.add(i))));
            }
        }
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
    type V = __m512;

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
    unsafe fn load_i8(p: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn splat_f16(p: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(p.read_unaligned() as i16)) }
    }

    #[inline(always)]
    unsafe fn dot(w: *const i8, x: *const i16) -> __m512 {
        unsafe {
            let w = _mm512_cvtepi8_epi16(_mm256_loadu_si256(w.cast()));
            _mm512_cvtepi32_ps(_mm512_madd_epi16(w, _mm512_loadu_si512(x.cast())))
        }
    }

    #[inline(always)]
    unsafe fn scales(scales: *const u16, x: *const f32, out: *mut f32) {
        unsafe {
            let wide = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
            _mm512_storeu_ps(out, _mm512_mul_ps(wide, _mm512_loadu_ps(x)));
        }
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
    unsafe fn sum(v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }

    #[inline(always)]
    unsafe fn ask(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

//! Whether weights are numbers: one pass over them as they lie.
//!
//! An exponent of ones is infinite or not a number, so the greatest of all elements without their signs says it: one
//! comparison a vector and no branch, as fast as memory gives them.

use super::isa::{self, Isa};
use super::lanes::Lanes;
use super::matrix::Kind;

/// Whether all elements are finite. Bytes of half an element behind the last whole one are not looked at.
///
/// # Panics
/// [`Kind::Int8`]: its blocks are more than elements.
pub(crate) fn is_finite(kind: Kind, bytes: &[u8]) -> bool {
    is_finite_by(Isa::best(), kind, bytes)
}

fn is_finite_by(isa: Isa, kind: Kind, bytes: &[u8]) -> bool {
    let mut most = 0;
    // SAFETY: the instruction set is this processor's.
    unsafe {
        match kind {
            Kind::F32 => isa::greatest_word(isa, bytes, &mut most),
            Kind::F16 | Kind::Bf16 => isa::greatest_half(isa, bytes, &mut most),
            Kind::Int8 => unreachable!("blocks are looked at by their scales"),
        }
    }
    match kind {
        Kind::F32 => most < 0x7f80_0000,
        Kind::F16 => most < 0x7c00,
        _ => most < 0x7f80,
    }
}

/// The greatest of words of 32 bits without their first bits.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn word<L: Lanes>(bytes: &[u8], most: &mut u32) {
    let words = bytes.as_chunks().0.iter();
    *most = words.fold(0, |most: u32, word| most.max(u32::from_le_bytes(*word) & 0x7fff_ffff));
}

/// The greatest of words of 16 bits without their first bits.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub(super) unsafe fn half<L: Lanes>(bytes: &[u8], most: &mut u32) {
    let halves = bytes.as_chunks().0.iter();
    *most = u32::from(halves.fold(0, |most: u16, half| most.max(u16::from_le_bytes(*half) & 0x7fff)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_element_that_is_no_number_is_found_wherever_it_lies(
            count in 1usize..300, at in any::<prop::sample::Index>(), odd in any::<u32>(), bits in any::<u32>(),
        ) {
            let at = at.index(count);
            for isa in Isa::all() {
                let mut bytes = vec![0x3f; count * 4];
                prop_assert!(is_finite_by(isa, Kind::F32, &bytes));
                let word = if odd % 2 == 0 { bits } else { bits | 0x7f80_0000 };
                bytes[at * 4..][..4].copy_from_slice(&word.to_le_bytes());
                prop_assert_eq!(is_finite_by(isa, Kind::F32, &bytes), f32::from_bits(word).is_finite());
                for (kind, ones) in [(Kind::F16, 0x7c00), (Kind::Bf16, 0x7f80)] {
                    let mut bytes = vec![0x3f; count * 2 + 1];
                    let half = if odd % 2 == 0 { bits as u16 } else { bits as u16 | ones };
                    bytes[at * 2..][..2].copy_from_slice(&half.to_le_bytes());
                    let finite = match kind {
                        Kind::F16 => f16::from_bits(half).is_finite(),
                        _ => bf16::from_bits(half).is_finite(),
                    };
                    prop_assert_eq!(is_finite_by(isa, kind, &bytes), finite);
                }
            }
        }
    }
}

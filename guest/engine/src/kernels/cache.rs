//! Keys and values of one layer, in blocks, as they are held between passes.
//!
//! ```text
//! keys, values     [blocks, kv_heads, BLOCK, head]      a head of a block lies in one piece
//! ```
//! In half precision they take half the memory, and attention of a long text reads half as much. A number is rounded to the
//! nearest, ties to even, once, as it is written. One that would round to infinity is refused: what lies beyond has no
//! nearest number, and the largest one in its place would be another model's answer, told by nobody.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Tokens of one block of keys and values.
pub(crate) const BLOCK: usize = 16;

/// In which precision keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPrecision {
    /// Single precision, as they are computed.
    F32,
    /// Half precision: 11 bits of mantissa, up to 65504.
    F16,
}

impl KvPrecision {
    /// As settings have it.
    pub fn as_str(self) -> &'static str {
        match self {
            KvPrecision::F32 => "f32",
            KvPrecision::F16 => "f16",
        }
    }

    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            KvPrecision::F32 => 4,
            KvPrecision::F16 => 2,
        }
    }
}

/// A finite number that half precision has nothing near for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Beyond(pub f32);

/// Numbers as they are held. Those of 16 bits are kept as bits: the system gives memory for zeros of them as it is written.
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<u16>),
}

/// Bits of infinity, without a sign.
const INFINITE: u16 = 0x7c00;

impl Numbers {
    fn new(precision: KvPrecision, len: usize) -> Numbers {
        match precision {
            KvPrecision::F32 => Numbers::F32(vec![0.0; len]),
            KvPrecision::F16 => Numbers::F16(vec![0; len]),
        }
    }

    fn write(&mut self, at: usize, from: &[f32]) -> Result<(), Beyond> {
        match self {
            Numbers::F32(numbers) => numbers[at..at + from.len()].copy_from_slice(from),
            Numbers::F16(numbers) => {
                let to = &mut numbers[at..at + from.len()];
                to.reinterpret_cast_mut::<f16>().convert_from_f32_slice(from);
                // What is infinite or no number already is found where logits are looked at.
                if to.iter().fold(0, |most, bits| (bits & 0x7fff).max(most)) >= INFINITE {
                    let beyond = |(bits, x): (&u16, &f32)| bits & 0x7fff == INFINITE && x.is_finite();
                    let found = to.iter().zip(from).find(|(bits, x)| beyond((bits, x)));
                    return found.map_or(Ok(()), |(_, x)| Err(Beyond(*x)));
                }
            }
        }
        Ok(())
    }

    /// Where a number lies.
    fn at(&self, at: usize) -> *const u8 {
        match self {
            Numbers::F32(numbers) => numbers[at..].as_ptr().cast(),
            Numbers::F16(numbers) => numbers[at..].as_ptr().cast(),
        }
    }
}

/// Room for keys and values of one layer.
pub(crate) struct Cache {
    keys: Numbers,
    values: Numbers,
    blocks: usize,
    kv_heads: usize,
    head: usize,
    precision: KvPrecision,
}

impl Cache {
    /// Room for `blocks` blocks; memory is taken as it is written.
    pub fn new(precision: KvPrecision, blocks: usize, kv_heads: usize, head: usize) -> Cache {
        let room = || Numbers::new(precision, blocks * BLOCK * kv_heads * head);
        Cache { keys: room(), values: room(), blocks, kv_heads, head, precision }
    }

    /// Enters keys and values of one token, `[kv_heads, head]` each.
    ///
    /// # Errors
    /// A number that this precision has nothing near for. What was there before it is written already.
    pub fn write(&mut self, block: u32, slot: usize, keys: &[f32], values: &[f32]) -> Result<(), Beyond> {
        for h in 0..self.kv_heads {
            let at = ((block as usize * self.kv_heads + h) * BLOCK + slot) * self.head;
            let from = h * self.head..(h + 1) * self.head;
            self.keys.write(at, &keys[from.clone()])?;
            self.values.write(at, &values[from])?;
        }
        Ok(())
    }

    pub(super) fn precision(&self) -> KvPrecision {
        self.precision
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    pub(super) fn head(&self) -> usize {
        self.head
    }

    /// Where keys and values of a head begin in the first block.
    pub(super) fn of_head(&self, head: usize) -> (*const u8, *const u8) {
        let first = head * BLOCK * self.head;
        (self.keys.at(first), self.values.at(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(precision: KvPrecision, row: &[f32]) -> Result<Cache, Beyond> {
        let mut cache = Cache::new(precision, 2, 1, row.len());
        cache.write(1, 3, row, row).map(|()| cache)
    }

    #[test]
    fn half_precision_holds_the_nearest_number_and_the_even_one_of_two() {
        // Between 1 and 2 the step is 2^-10; 65519.9 is nearer to 65504 than to what would follow it.
        let step = 1.0 / 1024.0;
        let row =
            [0.0, -0.0, 1.0, 1.0 + 0.4 * step, 1.0 + 0.5 * step, 1.0 + 1.5 * step, -65519.9, 1e-9, 6e-8];
        let right = [0.0, -0.0, 1.0, 1.0, 1.0, 1.0 + 2.0 * step, -65504.0, 0.0, 5.9604645e-8];
        let cache = written(KvPrecision::F16, &row).unwrap();
        let (Numbers::F16(keys), Numbers::F16(values)) = (&cache.keys, &cache.values) else {
            panic!("16 bits")
        };
        for numbers in [keys, values] {
            let found: Vec<f32> = numbers[(BLOCK + 3) * row.len()..][..row.len()]
                .iter()
                .map(|bits| f16::from_bits(*bits).to_f32())
                .collect();
            assert_eq!(found, right);
        }
    }

    #[test]
    fn what_half_precision_has_nothing_near_for_is_refused_and_single_precision_holds_it() {
        for beyond in [65520.0, -65520.0, 1e9, f32::MAX] {
            let row = [1.0, beyond, 2.0];
            assert_eq!(written(KvPrecision::F16, &row).err(), Some(Beyond(beyond)));
            assert!(written(KvPrecision::F32, &row).is_ok());
        }
    }

    #[test]
    fn what_is_no_number_already_stays_so() {
        for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let cache = written(KvPrecision::F16, &[1.0, odd]).unwrap();
            let Numbers::F16(keys) = &cache.keys else { panic!("16 bits") };
            let found = f16::from_bits(keys[(BLOCK + 3) * 2 + 1]).to_f32();
            assert!(found == odd || found.is_nan() && odd.is_nan(), "{odd} became {found}");
        }
    }
}

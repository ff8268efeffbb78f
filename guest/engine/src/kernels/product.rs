//! An encoder's weights, laid out when they are loaded for products with panels of tokens.
//!
//! ```text
//! tiles of up to 24 outputs, each [inputs][outputs]        tokens: panels of 16, each [inputs][16] -> [outputs][16]
//! ```
//! What comes out of one product goes into the next as it is.

use super::Machine;
use super::isa::{self, Isa};
use super::packed::{NARROW_PANEL, Work, cut, tiles_beside_tokens, turn};
use super::pool::Shares;
use super::states::{Row, States};

/// Inputs that are multiplied before the next tile's: as much of a panel as stays in the nearest cache.
const DEPTH: usize = 384;
/// Weights that are used for one panel after the other: they stay in the nearest cache but one.
const GROUP: usize = 96 * 1024;
/// Parts that every thread should find, so that none waits long for another one's last.
const PARTS: usize = 8;

/// Weights `[outputs, inputs]` and a number for each output that is added.
pub(crate) struct Packed {
    inputs: usize,
    /// First output and number of outputs of each tile.
    tiles: Vec<(usize, usize)>,
    /// Tile after tile, each `[inputs][outputs]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// What becomes of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It replaces what was there.
    Keep,
    /// It is added to what was there.
    Add,
    /// Its GELU replaces what was there.
    Gelu,
}

impl Packed {
    /// Lays out weights that lie output by output, for this machine.
    ///
    /// # Panics
    /// Weights that are not whole rows, one a bias.
    pub fn new(machine: &Machine, weights: &[f32], inputs: usize, bias: &[f32]) -> Packed {
        assert!(inputs > 0 && weights.len() == inputs * bias.len(), "a row of weights for every bias");
        let tiles = tiles_beside_tokens(machine.isa, bias.len());
        let mut turned = vec![0.0; weights.len()];
        for &(first, count) in &tiles {
            let part = first * inputs..(first + count) * inputs;
            turn(&weights[part.clone()], inputs, inputs, count, &mut turned[part]);
        }
        Packed { inputs, tiles, weights: turned, bias: bias.to_vec() }
    }

    /// Numbers of a result.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// The product of every token's numbers and the weights, and the bias, into `out`, which is made as large as it must be.
    ///
    /// # Panics
    /// Tokens of another length, and adding to other numbers than these would become.
    pub fn multiply(&self, machine: &Machine, x: &States, out: &mut States, then: Then) {
        assert_eq!(x.features(), self.inputs, "inputs of a token");
        if then == Then::Add {
            assert_eq!((out.tokens(), out.features()), (x.tokens(), self.outputs()), "what is added to");
        }
        out.reset(x.tokens(), self.outputs());
        let panels = x.panels();
        // No more tiles than stay in a cache, and fewer where threads would find no part.
        let wanted = (PARTS * machine.pool.threads()).div_ceil(panels.max(1));
        let most = (GROUP / (self.inputs * self.tiles[0].1)).min(self.tiles.len() / wanted).max(1);
        let groups = cut(self.tiles.len(), most);
        let out = Shares::of(out.rows());
        // Weights of a group are used for panel after panel.
        machine.pool.run(panels * groups.len(), &|part| {
            let (first, count) = groups[part / panels];
            let tiles = &self.tiles[first..first + count];
            // SAFETY: these outputs of this panel are this part's alone.
            unsafe { self.part(machine.isa, x, part % panels, tiles, out, then) };
        });
    }

    /// # Safety
    /// `out` is borrowed, and nobody else has these tiles' outputs of this panel.
    unsafe fn part(
        &self,
        isa: Isa,
        x: &States,
        panel: usize,
        tiles: &[(usize, usize)],
        out: Shares<Row>,
        then: Then,
    ) {
        let at = panel * self.outputs();
        for from in (0..self.inputs).step_by(DEPTH) {
            let depth = DEPTH.min(self.inputs - from);
            for &(first, count) in tiles {
                let bias = if from == 0 { self.bias[first..].as_ptr() } else { std::ptr::null() };
                // SAFETY: panel and tile have `depth` rows, the tile a bias for each of its outputs; of `out`, as the
                // caller vouches.
                unsafe {
                    let work = Work {
                        panel: x.from(panel, from).as_ptr().cast(),
                        depth,
                        x: self.weights[first * self.inputs + from * count..][..depth * count].as_ptr(),
                        bias,
                        out: out.at(at + first).cast(),
                        out_stride: NARROW_PANEL,
                        columns: x.lanes(panel),
                        add: then == Then::Add || from > 0,
                    };
                    isa::beside(isa, work, count, count);
                }
            }
        }
        if let (Then::Gelu, Some(first), Some(last)) = (then, tiles.first(), tiles.last()) {
            // SAFETY: as the caller vouches; the instruction set is this processor's.
            unsafe { isa::gelu(isa, out.slice(at + first.0, last.0 + last.1 - first.0)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Isa, Pool};

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| draw()).collect()
    }

    fn machines() -> Vec<Machine> {
        let of = |isa, threads| Machine { isa, pool: Pool::new(threads), pairs: false };
        Isa::all().into_iter().flat_map(|isa| [of(isa, 1), of(isa, 3)]).collect()
    }

    #[test]
    fn products_are_those_of_the_plain_loop_on_every_instruction_set() {
        for machine in machines() {
            for (tokens, inputs, outputs) in
                [(1, 1, 1), (3, 7, 31), (14, 32, 32), (15, 40, 70), (29, 3, 33), (67, DEPTH + 5, 33)]
            {
                let (x, weights) = (numbers(tokens * inputs, 1), numbers(outputs * inputs, 2));
                let (bias, before) = (numbers(outputs, 3), numbers(tokens * outputs, 4));
                let packed = Packed::new(&machine, &weights, inputs, &bias);
                let states = States::new(&x, inputs);
                for (then, times) in [(Then::Keep, 0.0), (Then::Add, 1.0)] {
                    let mut out = States::new(&before, outputs);
                    packed.multiply(&machine, &states, &mut out, then);
                    for (i, out) in out.numbers().iter().enumerate() {
                        let (t, o) = (i / outputs, i % outputs);
                        let pairs = x[t * inputs..][..inputs].iter().zip(&weights[o * inputs..]);
                        let sum: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                        let right = sum + f64::from(bias[o]) + times * f64::from(before[i]);
                        assert!((f64::from(*out) - right).abs() < 1e-5 * inputs as f64, "{i}: {out} {right}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_with_gelu_is_the_gelu_of_the_product() {
        for machine in machines() {
            let (inputs, outputs) = (9, 50);
            let packed = Packed::new(&machine, &numbers(outputs * inputs, 2), inputs, &numbers(outputs, 3));
            let states = States::new(&numbers(37 * inputs, 1), inputs);
            let (mut plain, mut after) = (States::default(), States::default());
            packed.multiply(&machine, &states, &mut plain, Then::Keep);
            packed.multiply(&machine, &states, &mut after, Then::Gelu);
            // SAFETY: the instruction set is this processor's.
            unsafe { isa::gelu(machine.isa, plain.rows()) };
            assert_eq!(after.numbers(), plain.numbers());
        }
    }

    #[test]
    fn a_token_gets_the_same_bits_in_any_company() {
        for machine in machines() {
            let inputs = DEPTH + 24;
            let packed = Packed::new(&machine, &numbers(40 * inputs, 2), inputs, &numbers(40, 3));
            let x = numbers(63 * inputs, 1);
            let mut all = States::default();
            packed.multiply(&machine, &States::new(&x, inputs), &mut all, Then::Keep);
            for (t, right) in all.numbers().chunks_exact(40).enumerate() {
                let mut one = States::default();
                let alone = States::new(&x[t * inputs..][..inputs], inputs);
                packed.multiply(&machine, &alone, &mut one, Then::Keep);
                assert_eq!(one.numbers(), right, "token {t}");
            }
        }
    }
}

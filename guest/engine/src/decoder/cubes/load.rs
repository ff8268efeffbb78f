//! Weights from their files onto a device, in the form that they are multiplied in.
//!
//! What is stored as it is wanted goes over as its bytes are; anything else is widened or rounded in memory first, a matrix
//! at a time. The word table stays in its file: a pass asks for a few of its rows.

use super::{Cubes, Layer};
use crate::decoder::{Model, OUTER, Shape, names};
use crate::error::EngineError;
use crate::generate::Precision;
use crate::kernels::gpu::{Board, Buffer, GROUP, Weight, Width};
use crate::shards::Shards;
use burn::tensor::ElementConversion;
use burn_cubecl::CubeRuntime;
use cubecl::CubeElement;
use half::{bf16, f16};
use std::sync::Arc;

/// Bytes of a word.
const BYTES: usize = 4;

/// A decoder on its device, and what it holds there.
pub(crate) struct Held {
    pub model: Arc<dyn Model>,
    /// Form of its weights, such as `bf16`.
    pub precision: &'static str,
    /// Precision of keys and values, and bytes of an element.
    pub width: (&'static str, usize),
    /// Bytes of its weights.
    pub bytes: u64,
}

/// Reads the weights of a shape onto a device, in the form that is asked for.
///
/// # Errors
/// Weights that are not the shape's, and a form that the device does not compute with.
pub(crate) fn load<R: CubeRuntime>(
    shards: &Shards,
    shape: Shape,
    precision: Precision,
    device: R::Device,
) -> Result<Held, EngineError> {
    let board = Board::<R>::new(device)?;
    let stored = shards.precision();
    // Files of several types hold norms in single precision, as a rule; what is multiplied then is of the shorter one.
    let wanted = match precision {
        Precision::Stored if stored.contains("bf16") => "bf16",
        Precision::Stored if stored.contains("f16") => "f16",
        Precision::Stored | Precision::F32 => "f32",
        Precision::Bf16 | Precision::Bf16Rounded => "bf16",
        Precision::Int8 => "int8",
    };
    let (wide, half, single) = (board.knows::<bf16>(), board.knows::<f16>(), "f32");
    match wanted {
        "bf16" if wide => held::<R, bf16>(board, shards, shape, "bf16", false),
        "f16" if half => held::<R, f16>(board, shards, shape, "f16", false),
        "f32" => held::<R, f32>(board, shards, shape, single, false),
        "int8" if wide => held::<R, bf16>(board, shards, shape, "bf16", true),
        "int8" if half => held::<R, f16>(board, shards, shape, "f16", true),
        "int8" => held::<R, f32>(board, shards, shape, single, true),
        _ => Err(EngineError::Precision {
            wanted: precision.as_str(),
            device: "this GPU",
            found: stored,
            expected: "`f32` or `int8`".into(),
        }),
    }
}

fn held<R: CubeRuntime, W: Width>(
    board: Board<R>,
    shards: &Shards,
    shape: Shape,
    width: &'static str,
    bytes: bool,
) -> Result<Held, EngineError> {
    shards.refuse_strangers(|name| names::is_known(name, &shape))?;
    let reader = Reader { board: &board, shards, bytes, held: Default::default() };
    let (rows, columns) = (shape.vocabulary, shape.width);
    let words = shards.table(OUTER[0], rows, columns)?;
    // A tied model may carry its head all the same; the word table is what counts.
    let head = reader.matrix(&[(if shape.tied { OUTER[0] } else { OUTER[2] }, rows)], columns)?;
    let layers = (0..shape.layers).map(|i| reader.layer(i, &shape)).collect::<Result<_, _>>()?;
    let norm = reader.row(&[OUTER[1]], columns)?;
    let (frequencies, weight_bytes) = (shape.rope.frequencies(shape.head), reader.held.get());
    let (precision, width) = (if bytes { "int8" } else { width }, (width, size_of::<W>()));
    let model = Arc::new(Cubes::<R, W> { words, layers, norm, head, frequencies, board, shape });
    Ok(Held { model, precision, width, bytes: weight_bytes })
}

/// Reads weights.
struct Reader<'a, R: CubeRuntime> {
    board: &'a Board<R>,
    shards: &'a Shards,
    /// Whether matrices are rounded to bytes.
    bytes: bool,
    /// Bytes on the device so far.
    held: std::cell::Cell<u64>,
}

impl<R: CubeRuntime> Reader<'_, R> {
    fn layer<W: Width>(&self, index: usize, shape: &Shape) -> Result<Layer<W>, EngineError> {
        let name = |part: usize| names::of(index, part);
        let (width, inner, head) = (shape.width, shape.inner, shape.head);
        let (queries, keys) = (shape.heads * head, shape.kv_heads * head);
        let (q, k, v) = (name(0), name(1), name(2));
        let norms = || self.row(&[&name(9), &name(10)], head);
        Ok(Layer {
            qkv: self.matrix(&[(&q, queries), (&k, keys), (&v, keys)], width)?,
            out: self.matrix(&[(&name(3), width)], queries)?,
            gate_up: self.matrix(&[(&name(4), inner), (&name(5), inner)], width)?,
            down: self.matrix(&[(&name(6), width)], inner)?,
            before_attention: self.row(&[&name(7)], width)?,
            before_mlp: self.row(&[&name(8)], width)?,
            head_norms: if shape.head_norms { Some(norms()?) } else { None },
        })
    }

    /// Rows of `width`, one after the other.
    fn row(&self, names: &[&str], width: usize) -> Result<Buffer<f32>, EngineError> {
        let mut out = Vec::new();
        names.iter().try_for_each(|name| self.shards.append(name, &[width], &mut out))?;
        Ok(self.lasting(f32::as_bytes(&out)))
    }

    /// Matrices, each with its number of outputs, below each other.
    fn matrix<W: Width>(&self, parts: &[(&str, usize)], inputs: usize) -> Result<Weight<W>, EngineError> {
        // Looked for before anything is allocated: `config.json` may claim any size, the file only its own.
        for (name, outputs) in parts {
            self.shards.expect(name, &[*outputs, inputs])?;
        }
        let outputs = parts.iter().map(|(_, outputs)| outputs).sum();
        if self.bytes {
            return self.rounded(parts, outputs, inputs);
        }
        let mut bytes = Vec::new();
        for (name, outputs) in parts {
            self.append::<W>(name, *outputs, inputs, &mut bytes)?;
        }
        Ok(Weight::wide(self.lasting(&bytes), outputs, inputs))
    }

    /// A tensor's bytes as `W` has them.
    fn append<W: Width>(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), EngineError> {
        if self.shards.kind(name).as_deref() == Some(W::dtype().name()) {
            out.extend_from_slice(self.shards.mapped(name, &[outputs, inputs])?.1.bytes());
            return Ok(());
        }
        let mut numbers = Vec::new();
        self.shards.append(name, &[outputs, inputs], &mut numbers)?;
        // A row at a time: what is narrowed stays small beside the matrix.
        for row in numbers.chunks(inputs) {
            let row: Vec<W> = row.iter().map(|number| number.elem()).collect();
            out.extend_from_slice(W::as_bytes(&row));
        }
        Ok(())
    }

    fn rounded<W: Width>(
        &self,
        parts: &[(&str, usize)],
        outputs: usize,
        inputs: usize,
    ) -> Result<Weight<W>, EngineError> {
        if !inputs.is_multiple_of(GROUP) {
            return Err(EngineError::Precision {
                wanted: Precision::Int8.as_str(),
                device: "a GPU",
                found: format!("in rows of {inputs}"),
                expected: format!("rows of a multiple of {GROUP}, or another precision"),
            });
        }
        let (mut words, mut scales) = (Vec::new(), Vec::new());
        for (name, outputs) in parts {
            let mut numbers = Vec::new();
            self.shards.append(name, &[*outputs, inputs], &mut numbers)?;
            for group in numbers.as_chunks::<GROUP>().0 {
                scales.push(round(group, &mut words));
            }
        }
        let words = self.lasting(u32::as_bytes(&words));
        Ok(Weight::bytes(words, self.lasting(f32::as_bytes(&scales)), outputs, inputs))
    }

    fn lasting<T>(&self, bytes: &[u8]) -> Buffer<T> {
        self.held.set(self.held.get() + bytes.len() as u64);
        self.board.lasting_from(bytes)
    }
}

/// Rounds a group to bytes, 128 for zero, four in a word; gives the scale.
fn round(group: &[f32; GROUP], words: &mut Vec<u32>) -> f32 {
    let most = group.iter().fold(0f32, |most, number| most.max(number.abs()));
    let scale = most / 127.0;
    let part = if scale > 0.0 { scale.recip() } else { 0.0 };
    let byte = |number: &f32| ((number * part).round().clamp(-127.0, 127.0) + 128.0) as u8;
    words.extend(
        group
            .as_chunks::<BYTES>()
            .0
            .iter()
            .map(|four| u32::from_le_bytes([byte(&four[0]), byte(&four[1]), byte(&four[2]), byte(&four[3])])),
    );
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_within_half_a_step_of_what_was_rounded() {
        let group: [f32; GROUP] = std::array::from_fn(|i| ((i * 37 % 64) as f32 - 31.0) / 7.0);
        let mut words = vec![];
        let scale = round(&group, &mut words);
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        for (byte, number) in bytes.zip(group) {
            assert!(((f32::from(byte) - 128.0) * scale - number).abs() <= scale * 0.5001);
        }
        assert_eq!((words.len() * BYTES, round(&[0.0; GROUP], &mut words)), (GROUP, 0.0));
    }
}

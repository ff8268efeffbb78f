//! Weights as they are, and multiplying by them.

use super::Machine;
use super::isa::{self, Isa};
use super::map::Mapped;
use super::narrow::Rounded;
use super::pool::Shares;
use super::tile::{GROUP, Row, Work};
use half::f16;
use std::cell::RefCell;

/// How elements of weights lie in memory, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Bf16,
    /// Signed bytes; 32 of them have one scale in half precision.
    Int8,
}

impl Kind {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F16 | Kind::Bf16 => 2,
            Kind::Int8 => 1,
        }
    }
}

/// Where weights are.
enum Bytes {
    Mapped(Mapped),
    Owned(Vec<u8>),
}

/// Some rows of weights, one after the other.
pub(crate) struct Rows {
    kind: Kind,
    rows: usize,
    bytes: Bytes,
    /// One a group and row, [`Kind::Int8`] only.
    scales: Vec<u16>,
}

/// Weights `[rows, cols]`: a row an output, a column an input.
pub(crate) struct Matrix {
    cols: usize,
    rows: usize,
    parts: Vec<Rows>,
}

impl Matrix {
    /// No rows yet.
    pub fn new(cols: usize) -> Matrix {
        Matrix { cols, rows: 0, parts: vec![] }
    }

    /// Adds rows that lie in a file, without a copy. `kind` is not [`Kind::Int8`].
    ///
    /// # Panics
    /// Bytes that are not whole rows.
    pub fn push_mapped(&mut self, kind: Kind, bytes: Mapped) {
        assert_ne!(kind, Kind::Int8, "bytes have scales");
        let rows = self.whole(kind, bytes.bytes().len());
        self.parts.push(Rows { kind, rows, bytes: Bytes::Mapped(bytes), scales: vec![] });
    }

    /// Adds rows of numbers, as they are.
    #[cfg(test)]
    ///
    /// # Panics
    /// Numbers that are not whole rows.
    pub fn push_numbers(&mut self, numbers: &[f32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let rows = self.whole(Kind::F32, bytes.len());
        self.parts.push(Rows { kind: Kind::F32, rows, bytes: Bytes::Owned(bytes), scales: vec![] });
    }

    /// The same in bytes with scales, in memory: each rounded to the nearest of 255 steps of its group of 32.
    pub fn to_int8(&self, machine: &Machine) -> Matrix {
        let parts = self.parts.iter().map(|part| part.to_int8(machine, self.cols)).collect();
        Matrix { cols: self.cols, rows: self.rows, parts }
    }

    /// All rows in single precision.
    #[cfg(test)]
    pub fn numbers(&self) -> Vec<f32> {
        let machine = Machine::new(1);
        // A column of the unit matrix a token gives a column of the weights.
        let mut out = vec![0.0; self.rows * self.cols];
        for column in 0..self.cols {
            let mut unit = vec![0.0; self.cols];
            unit[column] = 1.0;
            let mut values = vec![0.0; self.rows];
            self.multiply(&machine, &unit, &mut values, false);
            (0..self.rows).for_each(|row| out[row * self.cols + column] = values[row]);
        }
        out
    }

    fn whole(&mut self, kind: Kind, bytes: usize) -> usize {
        let row = self.cols * kind.size();
        assert!(row > 0 && bytes.is_multiple_of(row), "whole rows of {row} bytes, not {bytes} bytes");
        self.rows += bytes / row;
        bytes / row
    }

    /// `out[t] = x[t] * self`, or `out[t] += ..` where `add`: `x` is `[tokens, cols]`, `out` is `[tokens, rows]`.
    ///
    /// # Panics
    /// Slices of other lengths.
    pub fn multiply(&self, machine: &Machine, x: &[f32], out: &mut [f32], add: bool) {
        let tokens = x.len() / self.cols;
        assert_eq!((x.len(), out.len()), (tokens * self.cols, tokens * self.rows), "whole tokens");
        if tokens == 0 {
            return;
        }
        let step = self.step(machine, tokens);
        let mut work = Vec::new();
        let mut first = 0;
        for part in &self.parts {
            work.extend((0..part.rows).step_by(step).map(|row| (part, row, first + row)));
            first += part.rows;
        }
        let rounded = self.rounded(x, tokens);
        let out = Shares::of(out);
        machine.pool.run(work.len(), &|index| {
            let (part, row, column) = work[index];
            let rows = step.min(part.rows - row);
            // SAFETY: `x` and `out` have the lengths above; columns `column..column + rows` are this part's alone.
            unsafe {
                let work = Work {
                    row: part.row(row, self.cols),
                    cols: self.cols,
                    x: x.as_ptr(),
                    x_stride: self.cols,
                    out: out.at(column),
                    out_stride: self.rows,
                    add,
                };
                multiply(machine.isa, part.kind, work, &rounded, rows, tokens);
            }
        });
    }

    /// Activations for weights of bytes, where there are such weights and few tokens.
    fn rounded(&self, x: &[f32], tokens: usize) -> Rounded {
        let few = tokens <= DIRECT && self.parts.iter().any(|part| part.kind == Kind::Int8);
        if few { Rounded::new(x, self.cols) } else { Rounded::default() }
    }

    /// Rows that a thread takes at a time: few enough for all to have work, many enough to be worth taking.
    fn step(&self, machine: &Machine, tokens: usize) -> usize {
        if tokens > DIRECT {
            return PANEL;
        }
        let row = self.cols * self.parts.first().map_or(1, |part| part.kind.size());
        let fair = self.rows / (machine.pool.threads() * 8);
        (CHUNK_BYTES / row).min(fair).max(1).next_multiple_of(4)
    }
}

/// Bytes of weights that a thread takes at a time where reading them is the work.
const CHUNK_BYTES: usize = 128 * 1024;
/// Most tokens for which weights are widened as they are used; for more, some rows are widened first and used for all.
const DIRECT: usize = 12;
/// How many rows.
const PANEL: usize = 48;

impl Rows {
    fn to_int8(&self, machine: &Machine, cols: usize) -> Rows {
        let groups = cols.div_ceil(GROUP);
        let (mut bytes, mut scales) = (vec![0u8; self.rows * cols], vec![0u16; self.rows * groups]);
        let (to, to_scales) = (Shares::of(&mut bytes), Shares::of(&mut scales));
        machine.pool.run(self.rows.div_ceil(PANEL), &|part| {
            let first = part * PANEL;
            let rows = PANEL.min(self.rows - first);
            // SAFETY: these rows are this part's alone.
            let (to, to_scales) = unsafe {
                (to.slice(first * cols, rows * cols), to_scales.slice(first * groups, rows * groups))
            };
            with_scratch(rows * cols, |wide| {
                self.widen(machine.isa, first, cols, wide);
                let groups = wide.chunks(cols).zip(to.chunks_mut(cols));
                let groups = groups.flat_map(|(wide, to)| wide.chunks(GROUP).zip(to.chunks_mut(GROUP)));
                groups.zip(to_scales).for_each(|((wide, to), scale)| *scale = quantised(wide, to));
            });
        });
        Rows { kind: Kind::Int8, rows: self.rows, bytes: Bytes::Owned(bytes), scales }
    }

    /// Rows from `first` on in single precision, as many as `wide` has room for.
    fn widen(&self, isa: Isa, first: usize, cols: usize, wide: &mut [f32]) {
        let rows = wide.len() / cols;
        assert!(first + rows <= self.rows, "rows that there are");
        let (row, out) = (self.row(first, cols), wide.as_mut_ptr());
        let work = Work { row, cols, x: out, x_stride: 0, out, out_stride: 0, add: false };
        // SAFETY: the rows are there, and room for them; nothing is read through `x`.
        unsafe { widen(isa, self.kind, work, rows) }
    }

    fn row(&self, row: usize, cols: usize) -> Row {
        let bytes = match &self.bytes {
            Bytes::Mapped(mapped) => mapped.bytes(),
            Bytes::Owned(bytes) => bytes,
        };
        let scales = match self.kind {
            Kind::Int8 => &self.scales[row * cols.div_ceil(GROUP)..],
            _ => &[],
        };
        Row { weights: bytes[row * cols * self.kind.size()..].as_ptr(), scales: scales.as_ptr() }
    }
}

/// # Safety
/// Rows of that kind, tokens and room for sums are there; `rounded` is `x` where tokens are few and weights bytes.
unsafe fn multiply(isa: Isa, kind: Kind, work: Work, rounded: &Rounded, rows: usize, tokens: usize) {
    // SAFETY: as the caller vouches; the panel has room for the rows and is then the rows.
    unsafe {
        match kind {
            Kind::F32 if tokens <= DIRECT => isa::streamed_f32(isa, work, rows, tokens),
            Kind::F16 if tokens <= DIRECT => isa::streamed_f16(isa, work, rows, tokens),
            Kind::Bf16 if tokens <= DIRECT => isa::streamed_bf16(isa, work, rows, tokens),
            Kind::Int8 if tokens <= DIRECT => isa::narrow_int8(isa, rounded.work(work), rows, tokens),
            Kind::F32 => isa::tiles_f32(isa, work, rows, tokens),
            _ => with_scratch(rows * work.cols, |panel| {
                widen(isa, kind, Work { out: panel.as_mut_ptr(), ..work }, rows);
                let row = Row { weights: panel.as_ptr().cast(), scales: std::ptr::null() };
                isa::tiles_f32(isa, Work { row, ..work }, rows, tokens);
            }),
        }
    }
}

/// # Safety
/// Rows of that kind are there, and room for them in single precision at `work.out`.
unsafe fn widen(isa: Isa, kind: Kind, work: Work, rows: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        match kind {
            Kind::F32 => isa::widen_f32(isa, work, rows),
            Kind::F16 => isa::widen_f16(isa, work, rows),
            Kind::Bf16 => isa::widen_bf16(isa, work, rows),
            Kind::Int8 => isa::widen_int8(isa, work, rows),
        }
    }
}

/// Numbers that a thread may write over; they hold whatever was there.
pub(super) fn with_scratch<R>(len: usize, use_it: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        use_it(&mut scratch[..len])
    })
}

/// Writes a group's bytes and gives its scale. The scale is rounded first, so that bytes suit it.
fn quantised(group: &[f32], bytes: &mut [u8]) -> u16 {
    // Adding it leaves a number of up to 22 bits rounded to a whole one in the lowest bits.
    const MAGIC: f32 = 12_582_912.0;
    let most = group.iter().fold(0f32, |most, x| if x.abs() > most { x.abs() } else { most });
    // Half precision ends at 65504; a weight beyond 8 million would be cut there.
    let mut scale = f16::from_f32((most / 127.0).min(65504.0));
    if scale.to_f32() * 127.5 < most && scale.to_f32() < 65504.0 {
        scale = f16::from_bits(scale.to_bits() + 1);
    }
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    for (byte, x) in bytes.iter_mut().zip(group) {
        *byte = ((x * inverse).clamp(-127.0, 127.0) + MAGIC).to_bits() as u8;
    }
    scale.to_bits()
}

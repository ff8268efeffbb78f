//! Weights as they are, and multiplying by them.

use super::Machine;
use super::bytes::{self, Rounded};
use super::isa::{self, Isa};
use super::map::Mapped;
use super::panels;
use super::pool::Shares;
use super::tile::Work;
use std::cell::RefCell;

/// How elements of weights lie in memory, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Bf16,
    /// Signed bytes; 32 of them have one scale in half precision. Laid out in blocks (bytes.rs).
    Int8,
}

impl Kind {
    /// Bytes of an element. Not of bytes, which have scales.
    pub(super) fn element(self) -> usize {
        self.rows(1).1
    }

    /// Rows that lie together, and bytes of so many rows of `cols` elements.
    fn rows(self, cols: usize) -> (usize, usize) {
        match self {
            Kind::F32 => (1, 4 * cols),
            Kind::F16 | Kind::Bf16 => (1, 2 * cols),
            Kind::Int8 => (bytes::BLOCK, bytes::block_bytes(cols)),
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
        assert_ne!(kind, Kind::Int8, "blocks may hold more rows than there are");
        let rows = self.whole(kind, bytes.bytes().len());
        self.parts.push(Rows { kind, rows, bytes: Bytes::Mapped(bytes) });
    }

    /// Number of blocks of a matrix of bytes, and bytes of each: how its tensor is shaped.
    pub fn blocks(rows: usize, cols: usize) -> [usize; 2] {
        [rows.div_ceil(bytes::BLOCK), bytes::block_bytes(cols)]
    }

    /// The first of these blocks that has a scale which is infinite or not a number.
    pub fn first_odd_block(blocks: &[u8], cols: usize) -> Option<usize> {
        blocks.chunks_exact(bytes::block_bytes(cols)).position(|block| !bytes::has_finite_scales(block))
    }

    /// Adds rows that lie in a file in blocks of bytes, without a copy.
    ///
    /// # Panics
    /// Bytes that are not the blocks of so many rows.
    pub fn push_blocks(&mut self, rows: usize, bytes: Mapped) {
        let [blocks, size] = Self::blocks(rows, self.cols);
        assert_eq!(bytes.bytes().len(), blocks * size, "whole blocks");
        self.rows += rows;
        self.parts.push(Rows { kind: Kind::Int8, rows, bytes: Bytes::Mapped(bytes) });
    }

    /// Adds rows of numbers, as they are.
    #[cfg(test)]
    ///
    /// # Panics
    /// Numbers that are not whole rows.
    pub fn push_numbers(&mut self, numbers: &[f32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let rows = self.whole(Kind::F32, bytes.len());
        self.parts.push(Rows { kind: Kind::F32, rows, bytes: Bytes::Owned(bytes) });
    }

    /// The same in bytes with scales, in memory: each rounded to the nearest of 255 steps of its group of 32.
    pub fn to_int8(&self, machine: &Machine) -> Matrix {
        let parts = self.parts.iter().map(|part| part.to_int8(machine, self.cols)).collect();
        Matrix { cols: self.cols, rows: self.rows, parts }
    }

    /// Bytes of all parts as they lie, one after the other.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| part.from(0, self.cols))
    }

    /// One row of weights of bytes in single precision.
    ///
    /// # Panics
    /// A row that is not there, weights of another kind, and `out` of another length than a row.
    pub fn row(&self, mut row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "a row");
        for part in &self.parts {
            if row < part.rows {
                assert_eq!(part.kind, Kind::Int8, "only those");
                let block = &part.from(row, self.cols)[..bytes::block_bytes(self.cols)];
                return bytes::row(block, row % bytes::BLOCK, out);
            }
            row -= part.rows;
        }
        panic!("a row that is there");
    }

    /// All rows in single precision, of weights of bytes.
    #[cfg(test)]
    pub fn numbers(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        out.chunks_exact_mut(self.cols).enumerate().for_each(|(row, out)| self.row(row, out));
        out
    }

    fn whole(&mut self, kind: Kind, bytes: usize) -> usize {
        let row = kind.rows(self.cols).1;
        assert!(row > 0 && bytes.is_multiple_of(row), "whole rows of {row} bytes, not {bytes} bytes");
        self.rows += bytes / row;
        bytes / row
    }

    /// `out[t] = x[t] * self`, or `out[t] += ..` where `add`: `x` is `[tokens, cols]`, `out` is `[tokens, rows]`. The first
    /// `prompts` tokens are computed as many are, the rest as few are: each way a token's result does not depend on its company.
    ///
    /// # Panics
    /// Slices of other lengths.
    pub fn multiply(&self, machine: &Machine, x: &[f32], out: &mut [f32], add: bool, prompts: usize) {
        let tokens = x.len() / self.cols;
        assert_eq!((x.len(), out.len()), (tokens * self.cols, tokens * self.rows), "whole tokens");
        assert!(prompts <= tokens, "tokens that there are");
        let int8 = self.parts.iter().any(|part| part.kind == Kind::Int8);
        let prompts = if int8 { 0 } else { prompts };
        let (many, few) = x.split_at(prompts * self.cols);
        let (many_out, few_out) = out.split_at_mut(prompts * self.rows);
        if prompts > 0 {
            self.many(machine, many, many_out, add);
        }
        if prompts < tokens {
            self.few(machine, few, few_out, add);
        }
    }

    /// Weights are laid out first, a panel at a time, and then used for all tokens.
    fn many(&self, machine: &Machine, x: &[f32], out: &mut [f32], add: bool) {
        let (out, mut first) = (Shares::of(out), 0);
        let mut turned = vec![];
        for part in &self.parts {
            // SAFETY: `out` has a column for every row of every part, of every token; this part's begin at `first`.
            unsafe {
                let out = Shares::from(out, first);
                panels::multiply(machine, part, (x, self.cols), (out, self.rows), add, &mut turned);
            }
            first += part.rows;
        }
    }

    /// Weights are used as they come from memory.
    fn few(&self, machine: &Machine, x: &[f32], out: &mut [f32], add: bool) {
        let tokens = x.len() / self.cols;
        let work = self.shares(machine, tokens);
        let int8 = self.parts.iter().any(|part| part.kind == Kind::Int8);
        let rounded = if int8 { Rounded::new(x, self.cols, machine) } else { Rounded::default() };
        let out = Shares::of(out);
        machine.pool.run(work.len(), &|index| {
            let Share { part, row, rows, column } = work[index];
            // SAFETY: activations and `out` have the lengths above; columns `column..column + rows` are this part's alone.
            unsafe {
                let work = Work {
                    row: part.from(row, self.cols).as_ptr(),
                    cols: self.cols,
                    x: x.as_ptr(),
                    x_stride: self.cols,
                    out: out.at(column),
                    out_stride: self.rows,
                    add,
                };
                match part.kind {
                    Kind::Int8 => blocks(machine.isa, work, &rounded, rows),
                    Kind::F32 => isa::streamed_f32(machine.isa, work, rows, tokens),
                    Kind::F16 => isa::streamed_f16(machine.isa, work, rows, tokens),
                    Kind::Bf16 => isa::streamed_bf16(machine.isa, work, rows, tokens),
                }
            }
        });
    }

    /// What a thread takes at a time. Where reading weights is the work that is much at first, since memory is read best in long
    /// runs, and little at the end, so that no thread waits long for another.
    fn shares(&self, machine: &Machine, tokens: usize) -> Vec<Share<'_>> {
        let (together, size) = self.parts.first().map_or((1, 1), |part| part.kind.rows(self.cols));
        let rows_of = |bytes: usize| (bytes * together / size).max(1);
        let most = rows_of(if tokens > FEW { CHUNK_BYTES / 4 } else { CHUNK_BYTES });
        let (mut shares, mut column) = (vec![], 0);
        for part in &self.parts {
            let mut row = 0;
            while row < part.rows {
                let fair = (self.rows - column) / (2 * machine.pool.threads());
                let step = if tokens > MANY { PANEL } else { fair.clamp(rows_of(LEAST_BYTES), most) };
                let rows = step.next_multiple_of(bytes::BLOCK).min(part.rows - row);
                shares.push(Share { part, row, rows, column });
                (row, column) = (row + rows, column + rows);
            }
        }
        shares
    }
}

/// Some rows of a part, and the column of results that they begin with.
#[derive(Clone, Copy)]
struct Share<'a> {
    part: &'a Rows,
    row: usize,
    rows: usize,
    column: usize,
}

/// Most and fewest bytes of weights that a thread takes at a time where reading them is the work.
const CHUNK_BYTES: usize = 512 * 1024;
const LEAST_BYTES: usize = 16 * 1024;
/// Up to so many tokens weights of bytes are read once; with more of them, again and again from the cache.
const FEW: usize = 12;
/// From so many tokens on, computing is the work.
const MANY: usize = 24;
/// Rows that a thread then takes at a time: whole blocks.
const PANEL: usize = 48;

impl Rows {
    fn to_int8(&self, machine: &Machine, cols: usize) -> Rows {
        assert_ne!(self.kind, Kind::Int8, "rounded once");
        let size = bytes::block_bytes(cols);
        let mut bytes = vec![0u8; self.rows.div_ceil(bytes::BLOCK) * size];
        let to = Shares::of(&mut bytes);
        machine.pool.run(self.rows.div_ceil(bytes::BLOCK), &|block| {
            let first = block * bytes::BLOCK;
            let rows = bytes::BLOCK.min(self.rows - first);
            // SAFETY: every block is one part.
            let to = unsafe { to.slice(block * size, size) };
            with_scratch(rows * cols, |wide| {
                let rows = wide.chunks_exact_mut(cols).enumerate();
                rows.for_each(|(row, wide)| self.widen(machine.isa, first + row, (0, cols), cols, wide));
                // SAFETY: the instruction set is this processor's.
                unsafe { isa::lay_out_bytes(machine.isa, wide, cols, to) };
            });
        });
        Rows { kind: Kind::Int8, rows: self.rows, bytes: Bytes::Owned(bytes) }
    }

    /// How elements lie.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// How many rows.
    pub(super) fn count(&self) -> usize {
        self.rows
    }

    /// Elements `from..from + width` of a row in single precision, as many as `wide` has room for. Not of bytes.
    pub(super) fn widen(
        &self,
        isa: Isa,
        row: usize,
        (from, width): (usize, usize),
        cols: usize,
        wide: &mut [f32],
    ) {
        assert!(width == wide.len() && from + width <= cols, "elements that there are");
        let bytes = &self.from(row, cols)[from * self.kind.element()..][..width * self.kind.element()];
        let (row, out) = (bytes.as_ptr(), wide.as_mut_ptr());
        let work = Work { row, cols: width, x: out, x_stride: 0, out, out_stride: 0, add: false };
        // SAFETY: the elements are there, and room for them; nothing is read through `x`.
        unsafe {
            match self.kind {
                Kind::F32 => isa::widen_f32(isa, work, 1),
                Kind::F16 => isa::widen_f16(isa, work, 1),
                Kind::Bf16 => isa::widen_bf16(isa, work, 1),
                Kind::Int8 => unreachable!("bytes are multiplied as they are"),
            }
        }
    }

    /// What lies from a row on, or from its block on.
    pub(super) fn from(&self, row: usize, cols: usize) -> &[u8] {
        let bytes = match &self.bytes {
            Bytes::Mapped(mapped) => mapped.bytes(),
            Bytes::Owned(bytes) => bytes,
        };
        let (together, size) = self.kind.rows(cols);
        &bytes[row / together * size..]
    }
}

/// # Safety
/// Blocks with so many rows are there, and room for sums of all tokens of `rounded`.
unsafe fn blocks(isa: Isa, work: Work, rounded: &Rounded, rows: usize) {
    let (groups, size) = (work.cols.div_ceil(bytes::GROUP), bytes::block_bytes(work.cols));
    for (first, count, x) in rounded.tiles() {
        for row in (0..rows).step_by(bytes::BLOCK) {
            // SAFETY: as the caller vouches.
            unsafe {
                let block = work.row.add(row / bytes::BLOCK * size);
                let out = work.out.add(first * work.out_stride + row);
                let columns = bytes::BLOCK.min(rows - row);
                let (out_stride, add) = (work.out_stride, work.add);
                isa::bytes(isa, bytes::Work { block, groups, x, out, out_stride, columns, add }, count);
            }
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

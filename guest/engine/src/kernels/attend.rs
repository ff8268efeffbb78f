//! Attention of query heads that share a head of keys, over blocks, in place.
//!
//! ```text
//! keys, values     [blocks, kv_heads, BLOCK, head]      a head of a block lies in one piece
//! scores[q][j]  =  q . key(j)              16 positions at a time: the tiles of a multiplication
//! out[q]        =  sum over j of softmax(scores[q])[j] * value(j)
//! ```
//! Nothing is gathered, and what is held in half precision (cache.rs) is widened as it is read. Sums run over positions in
//! order, so the result does not depend on which blocks were given.

use super::cache::{BLOCK, Cache, KvPrecision};
use super::lanes::Lanes;
use super::rowwise::softmax;
use super::tile::{Element, Work, tiles};

/// One computation: `count` queries of one request at one head of keys.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    /// `[count, head]`, scaled.
    pub q: &'a [f32],
    pub count: usize,
    pub head: usize,
    /// Queries of one token, which see the same.
    pub group: usize,
    /// Positions that the first token sees; each further one sees one more.
    pub seen: usize,
    /// Where keys and values of this head begin.
    pub keys: *const u8,
    pub values: *const u8,
    /// Elements from block to block.
    pub stride: usize,
    pub blocks: &'a [u32],
    /// Room for `count` rows of all positions of `blocks`.
    pub scores: *mut f32,
    /// Where the first query's result goes; the others of its token follow.
    pub out: *mut f32,
    /// Elements from token to token.
    pub out_stride: usize,
}

impl Heads<'_> {
    /// Positions that the last token sees.
    fn all(&self) -> usize {
        self.seen + (self.count - 1) / self.group
    }

    /// Room for scores of one query.
    fn row(&self) -> usize {
        self.blocks.len() * BLOCK
    }
}

/// Computes it.
///
/// # Safety
/// The processor has `L`; all that [`Heads`] points at is there, in elements of `E`.
#[inline(always)]
pub(super) unsafe fn heads<L: Lanes, E: Element>(work: Heads<'_>) {
    let all = work.all();
    // SAFETY: blocks are within the pool, positions within blocks, and scores have a row for each query.
    unsafe {
        for (index, block) in work.blocks.iter().enumerate() {
            let first = index * BLOCK;
            let row = work.keys.add(*block as usize * work.stride * E::BYTES);
            let (x, out) = (work.q.as_ptr(), work.scores.add(first));
            let (x_stride, out_stride) = (work.head, work.row());
            let tile = Work { row, cols: work.head, x, x_stride, out, out_stride, add: false };
            tiles::<L, E>(tile, BLOCK.min(all - first), work.count);
        }
        for query in 0..work.count {
            let seen = work.seen + query / work.group;
            let row = std::slice::from_raw_parts_mut(work.scores.add(query * work.row()), all);
            softmax(&mut row[..seen]);
            row[seen..].fill(0.0);
        }
        let mut query = 0;
        while query < work.count {
            query += match work.count - query {
                4.. => {
                    mixed::<L, E, 4>(work, query);
                    4
                }
                2.. => {
                    mixed::<L, E, 2>(work, query);
                    2
                }
                _ => {
                    mixed::<L, E, 1>(work, query);
                    1
                }
            };
        }
    }
}

/// Values, weighted by the scores of `Q` queries.
#[inline(always)]
unsafe fn mixed<L: Lanes, E: Element, const Q: usize>(work: Heads<'_>, query: usize) {
    // SAFETY: columns stay within the head.
    unsafe {
        let mut column = 0;
        while L::WIDE && column + 4 * L::N <= work.head {
            vectors::<L, E, Q, 4>(work, query, column);
            column += 4 * L::N;
        }
        while column + 2 * L::N <= work.head {
            vectors::<L, E, Q, 2>(work, query, column);
            column += 2 * L::N;
        }
        while column + L::N <= work.head {
            vectors::<L, E, Q, 1>(work, query, column);
            column += L::N;
        }
        if column < work.head {
            rest::<L, E>(work, query, Q, column);
        }
    }
}

/// Elements `column..` of `C` vectors.
#[inline(always)]
unsafe fn vectors<L: Lanes, E: Element, const Q: usize, const C: usize>(
    work: Heads<'_>,
    query: usize,
    column: usize,
) {
    let all = work.all();
    // SAFETY: as in `heads`; the columns are the caller's word.
    unsafe {
        let mut sums = [[L::splat(0.0); C]; Q];
        for (index, block) in work.blocks.iter().enumerate() {
            let first = index * BLOCK;
            let values = work.values.add(*block as usize * work.stride * E::BYTES);
            for position in 0..BLOCK.min(all - first) {
                let row = values.add((position * work.head + column) * E::BYTES);
                let v: [L::V; C] = std::array::from_fn(|c| E::lanes::<L>(row, c * L::N));
                for q in 0..Q {
                    let score = *work.scores.add((query + q) * work.row() + first + position);
                    let score = L::splat(score);
                    for c in 0..C {
                        sums[q][c] = L::fma(score, v[c], sums[q][c]);
                    }
                }
            }
        }
        for (q, sums) in sums.iter().enumerate() {
            let out = place(&work, query + q).add(column);
            for (c, sum) in sums.iter().enumerate() {
                L::store(out.add(c * L::N), *sum);
            }
        }
    }
}

/// Elements behind the last whole vector.
#[inline(always)]
unsafe fn rest<L: Lanes, E: Element>(work: Heads<'_>, query: usize, queries: usize, column: usize) {
    let (all, left) = (work.all(), work.head - column);
    // SAFETY: as in `heads`; `left` is less than a vector (16).
    unsafe {
        for query in query..query + queries {
            let mut sums = [0f32; 16];
            for position in 0..all {
                let block = work.blocks[position / BLOCK] as usize;
                let element = block * work.stride + position % BLOCK * work.head + column;
                let mut bytes = [0u8; 64];
                let from = work.values.add(element * E::BYTES);
                bytes.as_mut_ptr().copy_from_nonoverlapping(from, left * E::BYTES);
                let score = L::splat(*work.scores.add(query * work.row() + position));
                let sum = L::fma(score, E::lanes::<L>(bytes.as_ptr(), 0), L::load(sums.as_ptr().cast()));
                L::store(sums.as_mut_ptr(), sum);
            }
            place(&work, query).add(column).copy_from_nonoverlapping(sums.as_ptr(), left);
        }
    }
}

/// Where a query's result goes.
#[inline(always)]
unsafe fn place(work: &Heads<'_>, query: usize) -> *mut f32 {
    let offset = query / work.group * work.out_stride + query % work.group * work.head;
    // SAFETY: the caller's query is one of `count`.
    unsafe { work.out.add(offset) }
}

/// Tokens of one request that attend.
pub(crate) struct Span<'a> {
    /// First row of the pass.
    pub first: usize,
    /// Rows.
    pub count: usize,
    /// Position of the first.
    pub start: usize,
    /// Blocks of the request, in order.
    pub blocks: &'a [u32],
}

/// Queries that one part of the work computes, about: keys are read once for all of them.
const QUERIES: usize = 24;

/// Attention of all requests of a pass. `q` is `[tokens, q_stride]` and begins with `heads` heads a token; `out` is
/// `[tokens, heads * head]`.
pub(crate) fn attention(
    machine: &super::Machine,
    cache: &Cache,
    spans: &[Span<'_>],
    heads: usize,
    q: (&[f32], usize),
    out: &mut [f32],
) {
    let group = heads / cache.kv_heads();
    let tokens = (QUERIES / group).max(1);
    let mut parts = Vec::new();
    for span in spans {
        // The last tokens see most: they are begun with, so that no thread is left with a long part at the end.
        for from in (0..span.count).step_by(tokens).rev() {
            parts.extend((0..cache.kv_heads()).map(|h| (span, from, tokens.min(span.count - from), h)));
        }
    }
    let rows = spans.iter().map(|span| span.first + span.count).max().unwrap_or(0);
    assert!(
        out.len() >= rows * heads * cache.head() && q.0.len() >= rows * q.1 && q.1 >= heads * cache.head()
    );
    let out = super::pool::Shares::of(out);
    machine.pool.run(parts.len(), &|part| {
        let (span, from, count, h) = parts[part];
        one(machine, cache, span, (from, count, h), heads, q, out);
    });
}

/// One part: tokens `from..from + count` of a span at one head of keys.
fn one(
    machine: &super::Machine,
    cache: &Cache,
    span: &Span<'_>,
    (from, count, h): (usize, usize, usize),
    heads: usize,
    (q, q_stride): (&[f32], usize),
    out: super::pool::Shares<f32>,
) {
    let (head, group) = (cache.head(), heads / cache.kv_heads());
    let all = span.start + from + count;
    let blocks = &span.blocks[..all.div_ceil(BLOCK)];
    let stride = cache.kv_heads() * BLOCK * head;
    let most = blocks.iter().copied().max().unwrap_or(0) as usize;
    assert!(most < cache.blocks(), "a block lies in the pool");
    let scale = 1.0 / (head as f32).sqrt();
    let (queries, row) = (count * group, blocks.len() * BLOCK);
    super::matrix::with_scratch(queries * (head + row), |scratch| {
        let (turned, scores) = scratch.split_at_mut(queries * head);
        for token in 0..count {
            let from = (span.first + from + token) * q_stride + h * group * head;
            let to = &mut turned[token * group * head..][..group * head];
            to.iter_mut().zip(&q[from..from + group * head]).for_each(|(to, q)| *to = q * scale);
        }
        let (keys, values) = cache.of_head(h);
        let first = ((span.first + from) * heads + h * group) * head;
        // SAFETY: blocks are within the pool (above), scores have their rows, and the results of this head of these
        // tokens, within `out` (`attention`), are this part's alone.
        unsafe {
            let work = Heads {
                q: turned,
                count: queries,
                head,
                group,
                seen: span.start + from + 1,
                keys,
                values,
                stride,
                blocks,
                scores: scores.as_mut_ptr(),
                out: out.at(first),
                out_stride: heads * head,
            };
            match cache.precision() {
                KvPrecision::F32 => super::isa::attend_f32(machine.isa, work),
                KvPrecision::F16 => super::isa::attend_f16(machine.isa, work),
            }
        }
    });
}

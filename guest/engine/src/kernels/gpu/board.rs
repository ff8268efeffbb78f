//! A device with buffers on it, and the kernels as functions that check every length.
//!
//! `unsafe` here: kernels look at no bounds. Each function asserts that its buffers are as long as the kernel's places reach;
//! what kernels read out of buffers (places in the pool, tables) is checked where it is written (`Places`).
//!
//! Buffers are freed by whoever drops the last handle; weights, keys and values are allocated to their own size
//! ([`Board::lasting`]), what lies between layers comes from pools that are used again.
//!
//! CubeCL has a stream for each thread, and each stream has pools of its own: what one thread gives back, another can't have. So
//! a board works on one stream whatever thread calls ([`Board::on`]).

use super::ops;
use super::products::FEW;
use crate::error::{EngineError, shorten};
use burn::tensor::{DType, Element, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::stream_id::StreamId;
use std::marker::PhantomData;

/// Planes of a cube that norms or turns.
const PLANES: usize = 4;
/// Planes that each of a device's multiprocessors should have for reading weights, and multiprocessors where none are told.
const BUSY: usize = 32;
const PROCESSORS: usize = 64;
/// Most planes of a cube that attends.
const ATTENDING: usize = 16;
/// Most cubes that attend for one token and head, and fewest positions that each of their planes has.
const PARTS: usize = 32;
const POSITIONS: usize = 4;
/// Bytes of shared memory that such a cube may take: every device has these.
const SHARED: usize = 16 * 1024;
/// Units of a cube whose units know nothing of each other.
pub(super) const UNITS: usize = 256;

/// What a weight is made of, and what multiplies it: f32, f16 or bf16.
pub(crate) trait Width: Float + CubeElement + Element {}
impl<T: Float + CubeElement + Element> Width for T {}

/// Numbers on a device, one after the other.
pub(crate) struct Buffer<T> {
    pub(super) handle: Handle,
    pub(super) len: usize,
    kind: PhantomData<T>,
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Buffer { handle: self.handle.clone(), len: self.len, kind: PhantomData }
    }
}

impl<T> Buffer<T> {
    /// How many numbers.
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Heads of a decoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub queries: usize,
    pub keys: usize,
    pub size: usize,
}

impl Heads {
    /// Elements of a token's queries, keys and values.
    pub fn all(self) -> usize {
        (self.queries + 2 * self.keys) * self.size
    }
}

/// Where the tokens of a pass stand: made by [`Board::places`], which looks at every number that kernels follow.
pub(crate) struct Places {
    tokens: usize,
    /// Row of the pool for each token's keys.
    rows: Buffer<u32>,
    /// Blocks of all requests, one after the other.
    table: Buffer<u32>,
    /// For each token where its request's blocks begin in the table, and how many positions it sees.
    spans: Buffer<u32>,
    /// Rows of the pool.
    pool: usize,
    /// Most positions that a token sees.
    seen: usize,
}

/// A device.
pub(crate) struct Board<R: CubeRuntime> {
    pub(super) client: ComputeClient<R>,
    device: R::Device,
    pub(super) lanes: usize,
    /// Planes that keep all of the device busy.
    pub(super) wanted: usize,
    stream: StreamId,
}

impl<R: CubeRuntime> Board<R> {
    /// A device that can do what the kernels ask for. CubeCL says of a processor that plays a GPU that it has no sums over planes;
    /// Mesa's has.
    ///
    /// # Errors
    /// Planes of no fixed size.
    pub fn new(device: R::Device) -> Result<Self, EngineError> {
        let client = R::client(&device);
        let hardware = &client.properties().hardware;
        let (least, most) = (hardware.plane_size_min, hardware.plane_size_max);
        if least != most || least == 0 {
            let reason = format!("planes of {least} to {most} units, expected one size");
            return Err(EngineError::Device { reason });
        }
        let processors = hardware.num_streaming_multiprocessors.map_or(PROCESSORS, |count| count as usize);
        let (lanes, wanted) = (least as usize, processors * BUSY);
        Ok(Board { client, device, lanes, wanted, stream: StreamId::current() })
    }

    /// Does work on this board's stream, whatever thread this is.
    pub fn on<T>(&self, work: impl FnOnce() -> T) -> T {
        self.stream.executes(work)
    }

    /// Gives memory back to the device that no buffer holds.
    pub fn give_back(&self) {
        self.client.memory_cleanup();
    }

    /// Whether the device computes with numbers of this kind.
    pub fn knows<T: Width>(&self) -> bool {
        self.client.properties().supports_type(T::as_type_native_unchecked())
    }

    /// Room of its own size for numbers that stay, whatever they are.
    ///
    /// # Panics
    /// The device's thread is gone.
    pub fn lasting<T>(&self, len: usize) -> Buffer<T> {
        let bytes = len.max(1) * size_of::<T>();
        let handle = self.client.memory_persistent_allocation(bytes, |bytes| self.client.empty(bytes));
        Buffer { handle: handle.expect("the device answers"), len, kind: PhantomData }
    }

    /// The same with numbers from their bytes, as the device has them.
    ///
    /// # Panics
    /// The device's thread is gone, or bytes that are no whole numbers.
    pub fn lasting_from<T>(&self, bytes: &[u8]) -> Buffer<T> {
        assert!(bytes.len().is_multiple_of(size_of::<T>()), "whole numbers");
        let handle =
            self.client.memory_persistent_allocation(bytes, |bytes| self.client.create_from_slice(bytes));
        Buffer {
            handle: handle.expect("the device answers"),
            len: bytes.len() / size_of::<T>(),
            kind: PhantomData,
        }
    }

    /// Bytes that buffers hold, and bytes that are taken from the device for them.
    pub fn memory(&self) -> Result<(u64, u64), EngineError> {
        let usage = self.client.memory_usage().map_err(failed)?;
        Ok((usage.bytes_in_use, usage.bytes_reserved))
    }

    /// Numbers from memory.
    pub fn upload<T: CubeElement>(&self, numbers: &[T]) -> Buffer<T> {
        let handle = self.client.create_from_slice(T::as_bytes(numbers));
        Buffer { handle, len: numbers.len(), kind: PhantomData }
    }

    /// Room for numbers, whatever they are.
    pub fn empty<T>(&self, len: usize) -> Buffer<T> {
        let handle = self.client.empty(len.max(1) * size_of::<T>());
        Buffer { handle, len, kind: PhantomData }
    }

    /// Numbers of a buffer; waits until they are computed.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last call.
    pub fn read(&self, buffer: &Buffer<f32>) -> Result<Vec<f32>, EngineError> {
        let bytes = self.client.read_one(buffer.handle.clone()).map_err(failed)?;
        let numbers = f32::from_bytes(&bytes);
        match numbers.get(..buffer.len) {
            Some(numbers) => Ok(numbers.to_vec()),
            None => Err(failed(format!("{} numbers, expected {}", numbers.len(), buffer.len))),
        }
    }

    /// The tables of a pass. Each token is given its row in the pool, the blocks of its request and how many positions it
    /// sees; `rows` are the pool's.
    pub fn places(
        &self,
        rows: &[u32],
        table: &[u32],
        spans: &[[u32; 2]],
        block: usize,
        pool: usize,
    ) -> Places {
        assert!(!rows.is_empty() && rows.len() == spans.len(), "a place and a span a token");
        assert!(rows.iter().all(|row| (*row as usize) < pool), "places within the pool");
        assert!(table.iter().all(|number| (*number as usize + 1) * block <= pool), "blocks within the pool");
        let within = |span: &[u32; 2]| span[0] as usize + (span[1] as usize).div_ceil(block) <= table.len();
        assert!(spans.iter().all(|span| span[1] > 0 && within(span)), "spans within the table");
        Places {
            tokens: rows.len(),
            rows: self.upload(rows),
            table: self.upload(table),
            spans: self.upload(spans.as_flattened()),
            pool,
            seen: spans.iter().map(|span| span[1] as usize).max().unwrap_or(0),
        }
    }

    /// Root mean square norm of rows, or of the rows that are picked.
    pub fn norm<W: Width>(
        &self,
        x: &Buffer<f32>,
        picked: Option<(&Buffer<u32>, usize)>,
        gamma: &Buffer<f32>,
        eps: f32,
    ) -> Buffer<W> {
        let width = gamma.len;
        assert!(width > 0 && x.len.is_multiple_of(width), "whole rows");
        let rows = picked.map_or(x.len / width, |(rows, _)| rows.len);
        // The largest row that is picked is known to whoever made the list.
        assert!(picked.is_none_or(|(_, largest)| largest < x.len / width), "rows of the matrix");
        let out = self.empty::<W>(rows * width);
        let n = self.beside_single(width);
        let index = picked.map_or_else(|| x.handle.clone(), |(rows, _)| rows.handle.clone());
        // SAFETY: `rows` rows of `width` are read and written; see the asserts.
        unsafe {
            ops::norm::launch_unchecked::<W, R>(
                &self.client,
                CubeCount::Static(rows as u32, 1, 1),
                self.planes(PLANES),
                n,
                arg(&x.handle, x.len),
                arg(&index, picked.map_or(1, |(rows, _)| rows.len)),
                arg(&gamma.handle, width),
                arg(&out.handle, out.len),
                width / n,
                width as f32,
                eps,
                picked.is_some(),
                PLANES,
            );
        }
        out
    }

    /// Turns queries and keys of `[tokens, all heads]`, and writes keys and values into their pools. Gives the queries.
    pub fn turn<W: Width>(
        &self,
        qkv: &Buffer<f32>,
        norms: Option<&Buffer<f32>>,
        angles: (&Buffer<f32>, &Buffer<f32>),
        places: &Places,
        pools: (&Buffer<W>, &Buffer<W>),
        heads: Heads,
        eps: f32,
    ) -> Buffer<f32> {
        let Places { tokens, rows, pool, .. } = places;
        let cached = pool * heads.keys * heads.size;
        assert!(qkv.len == tokens * heads.all() && pools.0.len == cached && pools.1.len == cached, "heads");
        assert!(norms.is_none_or(|norms| norms.len == 2 * heads.size), "two norms");
        assert!(angles.0.len == tokens * heads.size / 2 && angles.1.len == angles.0.len, "angles");
        let q = self.empty::<f32>(tokens * heads.queries * heads.size);
        let cubes = (heads.queries + 2 * heads.keys).div_ceil(PLANES);
        let gammas = norms.unwrap_or(angles.0);
        // SAFETY: heads of `tokens` tokens; places lie within the pool, which `Places` looked at.
        unsafe {
            ops::turn::launch_unchecked::<W, R>(
                &self.client,
                CubeCount::Static(cubes as u32, *tokens as u32, 1),
                self.planes(PLANES),
                arg(&qkv.handle, qkv.len),
                arg(&gammas.handle, gammas.len),
                arg(&angles.0.handle, angles.0.len),
                arg(&angles.1.handle, angles.1.len),
                arg(&rows.handle, rows.len),
                arg(&q.handle, q.len),
                arg(&pools.0.handle, cached),
                arg(&pools.1.handle, cached),
                eps,
                heads.queries,
                heads.keys,
                heads.size,
                norms.is_some(),
            );
        }
        q
    }

    /// Attention of every token over the positions that it sees, `[tokens, query heads]`.
    pub fn attend<W: Width>(
        &self,
        q: &Buffer<f32>,
        pools: (&Buffer<W>, &Buffer<W>),
        places: &Places,
        heads: Heads,
        block: usize,
    ) -> Buffer<W> {
        let Places { tokens, table, spans, pool, seen, .. } = places;
        let cached = pool * heads.keys * heads.size;
        assert!(pools.0.len == cached && pools.1.len == cached, "pools of keys and values");
        assert_eq!(q.len, tokens * heads.queries * heads.size, "queries");
        let out = self.empty::<W>(q.len);
        let n = self.beside_single(heads.size);
        let (group, vectors) = (heads.queries / heads.keys, heads.size / n);
        let fitting = SHARED / (group * (heads.size + 2) * size_of::<f32>());
        let planes = fitting.clamp(1, if *tokens > FEW { PLANES } else { ATTENDING });
        let cubes = self.parts(tokens * heads.keys * planes, planes, *seen);
        let count = CubeCount::Static(heads.keys as u32, *tokens as u32, cubes as u32);
        let found =
            (cubes > 1).then(|| self.empty::<f32>(tokens * heads.queries * cubes * (vectors + 2) * n));
        let (to, len) = found.as_ref().map_or((&out.handle, out.len), |found| (&found.handle, found.len));
        let attend = if found.is_some() {
            ops::attend::launch_unchecked::<W, f32, R>
        } else {
            ops::attend::launch_unchecked::<W, W, R>
        };
        // SAFETY: spans lie within the table, blocks within the pool, which `Places` looked at.
        unsafe {
            attend(
                &self.client,
                count,
                self.planes(planes),
                n,
                arg(&q.handle, q.len),
                arg(&pools.0.handle, cached),
                arg(&pools.1.handle, cached),
                arg(&table.handle, table.len),
                arg(&spans.handle, spans.len),
                arg(to, len),
                1.0 / (heads.size as f32).sqrt(),
                heads.keys,
                block,
                group,
                vectors,
                self.lanes,
                planes,
                cubes,
            );
        }
        if let Some(found) = found {
            self.whole(&found, &out, vectors, n, cubes);
        }
        out
    }

    /// Joins what cubes found of the same heads.
    fn whole<W: Width>(&self, found: &Buffer<f32>, out: &Buffer<W>, vectors: usize, n: usize, cubes: usize) {
        let all = out.len / n;
        assert_eq!(found.len * vectors, all * cubes * (vectors + 2) * n, "parts of all heads");
        // SAFETY: as long as asserted.
        unsafe {
            ops::whole::launch_unchecked::<W, R>(
                &self.client,
                units(all),
                CubeDim::new_1d(UNITS as u32),
                n,
                arg(&found.handle, found.len),
                arg(&out.handle, out.len),
                all,
                vectors,
                cubes,
            );
        }
    }

    /// Cubes among which the positions of a token are divided: one where its `planes` and those of the others keep the device busy,
    /// more where they don't, as long as each plane has some positions.
    fn parts(&self, all: usize, planes: usize, seen: usize) -> usize {
        let mut parts = 1;
        while parts < PARTS && all * parts < self.wanted && seen >= 2 * parts * planes * POSITIONS {
            parts *= 2;
        }
        parts
    }

    /// `silu(gate) * up` of `[tokens, 2 * inner]`.
    pub fn gated<W: Width>(&self, both: &Buffer<f32>, inner: usize) -> Buffer<W> {
        assert!(both.len.is_multiple_of(2 * inner), "gates and ups");
        let out = self.empty::<W>(both.len / 2);
        let n = self.beside_single(inner);
        // SAFETY: as long as asserted.
        unsafe {
            ops::gated::launch_unchecked::<W, R>(
                &self.client,
                units(out.len / n),
                CubeDim::new_1d(UNITS as u32),
                n,
                arg(&both.handle, both.len),
                arg(&out.handle, out.len),
                inner / n,
                out.len / n,
            );
        }
        out
    }

    /// `x += y`.
    pub fn add(&self, y: &Buffer<f32>, x: &Buffer<f32>) {
        assert_eq!(y.len, x.len, "two of one length");
        let n = self.beside_single(x.len);
        // SAFETY: as long as asserted.
        unsafe {
            ops::add::launch_unchecked::<R>(
                &self.client,
                units(x.len / n),
                CubeDim::new_1d(UNITS as u32),
                n,
                arg(&y.handle, y.len),
                arg(&x.handle, x.len),
                x.len / n,
            );
        }
    }

    /// Numbers of `size` bytes that a unit loads at a time, in rows of `width`: as many as the device likes.
    pub(super) fn at_a_time(&self, size: usize, width: usize) -> usize {
        self.client.io_optimized_vector_sizes(size).find(|n| width.is_multiple_of(*n)).unwrap_or(1)
    }

    /// The same where single precision is read or written too.
    pub(super) fn beside_single(&self, width: usize) -> usize {
        self.at_a_time(size_of::<f32>(), width)
    }

    pub(super) fn planes(&self, planes: usize) -> CubeDim {
        CubeDim::new_2d(self.lanes as u32, planes as u32)
    }

    pub(super) fn tensor(&self, handle: &Handle, shape: [usize; 2], dtype: DType) -> CubeTensor<R> {
        let (client, device) = (self.client.clone(), self.device.clone());
        CubeTensor::new_contiguous(client, device, Shape::from(shape), handle.clone(), dtype)
    }
}

/// A buffer as a kernel's argument. Its length is one that the caller's asserts bound.
pub(super) fn arg<R: Runtime>(handle: &Handle, len: usize) -> ArrayArg<R> {
    // SAFETY: every buffer is made here with the length that it says.
    unsafe { ArrayArg::from_raw_parts(handle.clone(), len) }
}

/// Cubes for so many units.
pub(super) fn units(count: usize) -> CubeCount {
    CubeCount::Static(count.div_ceil(UNITS) as u32, 1, 1)
}

pub(super) fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError::Device { reason: shorten(&error.to_string()) }
}

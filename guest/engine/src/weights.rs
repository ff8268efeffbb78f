//! Weights in the safetensors format, read tensor by tensor straight from the file.
//!
//! ```text
//! u64 little-endian header length | JSON header: name -> dtype, shape, offsets | data
//! ```
//! The header's offsets must tile the data without gap or overlap and end where the file ends, so every allocation is
//! bounded by the file's own size. Every value that is read is checked to be finite. Half precision of both kinds is
//! widened while it is read.
//!
//! Weights that are multiplied by may be mapped instead. All of them are looked at once, where they lie: the system is told to
//! bring the pages of a part, which fails with words where touching them would be a signal (`kernels/map.rs`), and then
//! their elements are looked at.
//!
//! Format: safetensors 0.x, <https://github.com/huggingface/safetensors>, "Format".

use crate::error::{EngineError, shorten};
use crate::files;
use crate::kernels::{Brought, Kind, Mapped, Mapping, Matrix, is_finite};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest header that is parsed, in bytes; a model of 10,000 tensors needs about 1.5 MB.
const MAX_HEADER: u64 = 16 * 1024 * 1024;
/// Bytes that are read and converted at a time: they stay in the cache.
const CHUNK: usize = 128 * 1024;
/// Bytes of a mapped tensor that are brought and looked at together.
const STEP: usize = 8 * 1024 * 1024;
const PURPOSE: &str = "the weights";

/// An open weights file whose header was checked.
pub(crate) struct Weights {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
    accepted: &'static [Dtype],
    map: Mapping,
}

/// Single precision only.
pub(crate) const SINGLE: &[Dtype] = &[Dtype::F32];
/// What is read into single precision without loss.
pub(crate) const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];
/// Blocks of bytes with scales.
const BLOCKS: &[Dtype] = &[Dtype::U8];

impl Weights {
    /// Opens the file and checks its header; tensors of the `accepted` types can be read.
    pub fn open(path: &Path, accepted: &'static [Dtype]) -> Result<Self, EngineError> {
        let (file, len) = files::open(path, PURPOSE)?;
        let header_fault = |reason: String| EngineError::Header { path: path.into(), reason };
        let mut prefix = [0; 8];
        if len < 8 {
            return Err(header_fault(format!("expected at least 8 bytes, the file has {len}")));
        }
        let failed = |source| EngineError::Read { path: path.into(), purpose: PURPOSE, source };
        file.read_exact_at(&mut prefix, 0).map_err(failed)?;
        let header_len = u64::from_le_bytes(prefix);
        if header_len > MAX_HEADER.min(len - 8) {
            let max = MAX_HEADER.min(len - 8);
            return Err(header_fault(format!("claims {header_len} bytes, at most {max} are possible")));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact_at(&mut header, 8).map_err(failed)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| header_fault(shorten_reason(&e.to_string())))?;
        let (expected, found) = (metadata.data_len() as u64, len - 8 - header_len);
        if expected != found {
            return Err(header_fault(format!("its tensors cover {expected} bytes, the file holds {found}")));
        }
        Ok(Weights {
            path: path.into(),
            file,
            data_start: 8 + header_len,
            metadata,
            accepted,
            map: Mapping::default(),
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and types of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (String, Dtype)> {
        self.metadata.tensors().into_iter().map(|(name, info)| (name, info.dtype))
    }

    /// Number of elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.metadata.tensors().values().map(|t| t.shape.iter().product::<usize>() as u64).sum()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.metadata.data_len() as u64
    }

    /// Fails on the first tensor (by name) that `known` does not know.
    pub fn refuse_strangers(&self, known: impl Fn(&str) -> bool) -> Result<(), EngineError> {
        let mut strangers: Vec<String> =
            self.metadata.tensors().into_keys().filter(|name| !known(name)).collect();
        strangers.sort();
        match strangers.first() {
            None => Ok(()),
            Some(name) => Err(self.fault(&shorten(name), "no such tensor".into(), "one".into())),
        }
    }

    /// Reads a whole tensor of exactly this shape into single precision.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        let mut out = Vec::new();
        self.append(name, shape, &mut out)?;
        Ok(out)
    }

    /// Like [`Weights::read`], behind what `out` already holds: several tensors become one buffer.
    pub fn append(&self, name: &str, shape: &[usize], out: &mut Vec<f32>) -> Result<(), EngineError> {
        let (place, len) = self.locate(name, shape)?;
        out.reserve_exact(len);
        self.read_at(name, place, 0..len, out)
    }

    /// A two-dimensional tensor whose rows are read when they are asked for.
    pub fn table(self: &Arc<Self>, name: &str, rows: usize, width: usize) -> Result<Table, EngineError> {
        let (place, _) = self.locate(name, &[rows, width])?;
        Ok(Table { weights: self.clone(), name: name.into(), place, rows, width })
    }

    /// The type of a tensor of exactly this shape.
    pub fn dtype(&self, name: &str, shape: &[usize]) -> Result<Dtype, EngineError> {
        self.locate(name, shape).map(|(place, _)| place.kind)
    }

    /// Fails unless there is a tensor of exactly this shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<(), EngineError> {
        self.locate(name, shape).map(|_| ())
    }

    /// A tensor of exactly this shape as it lies in the file, all of it looked at.
    pub fn mapped(&self, name: &str, shape: &[usize]) -> Result<(Kind, Mapped), EngineError> {
        let (place, len) = self.locate(name, shape)?;
        let (kind, size) = match place.kind {
            Dtype::F16 => (Kind::F16, 2),
            Dtype::BF16 => (Kind::Bf16, 2),
            _ => (Kind::F32, 4),
        };
        self.looked_at(place, len * size, STEP, |from, bytes| {
            if is_finite(kind, bytes) {
                return Ok(());
            }
            // Read again, one by one, to say which.
            self.read_at(name, place, from / size..(from + bytes.len()) / size, &mut Vec::new())
        })
        .map(|part| (kind, part))
    }

    /// The blocks of bytes of a matrix `[rows, cols]`, their scales looked at.
    pub fn blocks(&self, name: &str, rows: usize, cols: usize) -> Result<Mapped, EngineError> {
        let shape = Matrix::blocks(rows, cols);
        let (place, len) = self.locate_as(BLOCKS, name, &shape)?;
        let whole_blocks = (STEP / shape[1]).max(1) * shape[1];
        self.looked_at(place, len, whole_blocks, |from, bytes| match Matrix::first_odd_block(bytes, cols) {
            None => Ok(()),
            Some(block) => {
                let found = format!("others in block {}", from / shape[1] + block);
                Err(self.fault(name, "finite scales".into(), found))
            }
        })
    }

    /// The mapped bytes of a tensor, `step` of them brought at a time and shown to `check` with where they begin.
    fn looked_at(
        &self,
        place: Place,
        len: usize,
        step: usize,
        check: impl Fn(usize, &[u8]) -> Result<(), EngineError>,
    ) -> Result<Mapped, EngineError> {
        let (whole, start) = (self.data_start as usize + self.metadata.data_len(), place.offset as usize);
        let part = self.map.part(&self.file, whole, start, len).map_err(|source| self.unread(source))?;
        for from in (0..len).step_by(step) {
            let here = part.part(from, step.min(len - from));
            let brought = here.bring();
            if !matches!(brought, Ok(Brought::Yes)) {
                // Either the system can't say, or reading says better what is wrong.
                self.read_through(place.offset + from as u64, here.bytes().len())?;
            }
            brought.map_err(|source| self.unread(source))?;
            check(from, here.bytes())?;
        }
        Ok(part)
    }

    /// Reads and throws away.
    fn read_through(&self, offset: u64, len: usize) -> Result<(), EngineError> {
        let mut buffer = vec![0u8; CHUNK.min(len)];
        for first in (0..len).step_by(CHUNK) {
            let bytes = &mut buffer[..CHUNK.min(len - first)];
            self.file.read_exact_at(bytes, offset + first as u64).map_err(|source| self.unread(source))?;
        }
        Ok(())
    }

    fn unread(&self, source: std::io::Error) -> EngineError {
        EngineError::Read { path: self.path.clone(), purpose: PURPOSE, source }
    }

    /// Place in the file and number of elements.
    fn locate(&self, name: &str, shape: &[usize]) -> Result<(Place, usize), EngineError> {
        self.locate_as(self.accepted, name, shape)
    }

    fn locate_as(
        &self,
        accepted: &[Dtype],
        name: &str,
        shape: &[usize],
    ) -> Result<(Place, usize), EngineError> {
        let kinds = || accepted.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(" or ");
        let wanted = || format!("{} {shape:?}", kinds());
        let Some(info) = self.metadata.info(name) else {
            return Err(self.fault(name, wanted(), "no such tensor".into()));
        };
        if !accepted.contains(&info.dtype) || info.shape != shape {
            return Err(self.fault(name, wanted(), describe(info)));
        }
        let offset = self.data_start + info.data_offsets.0 as u64;
        Ok((Place { offset, kind: info.dtype }, shape.iter().product()))
    }

    /// Appends elements `range` of the tensor that lies at `place`.
    fn read_at(
        &self,
        name: &str,
        place: Place,
        range: std::ops::Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        let size = if place.kind == Dtype::F32 { 4 } else { 2 };
        let mut buffer = vec![0u8; CHUNK.min(range.len() * size)];
        let mut next = range.start;
        while next < range.end {
            let count = (range.end - next).min(CHUNK / size);
            let bytes = &mut buffer[..count * size];
            self.file
                .read_exact_at(bytes, place.offset + (next * size) as u64)
                .map_err(|source| self.unread(source))?;
            let start = out.len();
            match place.kind {
                Dtype::F16 => {
                    out.extend(bytes.as_chunks().0.iter().map(|half| f16::from_le_bytes(*half).to_f32()))
                }
                Dtype::BF16 => {
                    out.extend(bytes.as_chunks().0.iter().map(|half| bf16::from_le_bytes(*half).to_f32()))
                }
                _ => out.extend(bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word))),
            }
            self.check_finite(name, next, &out[start..])?;
            next += count;
        }
        Ok(())
    }

    fn check_finite(&self, name: &str, first: usize, values: &[f32]) -> Result<(), EngineError> {
        // A fold without an early exit is vectorised; the slow search runs only when there is something to find.
        if values.iter().fold(true, |all, v| all & v.is_finite()) {
            return Ok(());
        }
        let index = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
        Err(EngineError::NotFinite {
            path: self.path.clone(),
            tensor: name.into(),
            element: (first + index) as u64,
            found: values[index],
        })
    }

    fn fault(&self, tensor: &str, expected: String, found: String) -> EngineError {
        EngineError::Tensor { path: self.path.clone(), tensor: tensor.into(), expected, found }
    }
}

/// Where a tensor begins in its file, and of what its elements are.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    kind: Dtype,
}

fn describe(info: &TensorInfo) -> String {
    let dims: Vec<usize> = info.shape.iter().copied().take(8).collect();
    let more = if info.shape.len() > 8 { " and more" } else { "" };
    format!("{:?} {dims:?}{more}", info.dtype)
}

/// A header may hold names of any length, and the parser repeats them.
fn shorten_reason(reason: &str) -> String {
    let short: String = reason.chars().take(200).collect();
    if short.len() < reason.len() { short + "..." } else { short }
}

/// Rows of a tensor, read on demand.
pub(crate) struct Table {
    weights: Arc<Weights>,
    name: String,
    place: Place,
    rows: usize,
    width: usize,
}

impl Table {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Appends row `index` (below [`Table::rows`]) to `out`.
    pub fn append_row(&self, index: usize, out: &mut Vec<f32>) -> Result<(), EngineError> {
        let start = index * self.width;
        self.weights.read_at(&self.name, self.place, start..start + self.width, out)
    }

    /// Reads every row once and throws it away, to find values that are not finite.
    pub fn scan(&self) -> Result<(), EngineError> {
        let step = (CHUNK / 4).div_ceil(self.width.max(1));
        let mut out = Vec::new();
        for first in (0..self.rows).step_by(step) {
            out.clear();
            let last = (first + step).min(self.rows);
            let range = first * self.width..last * self.width;
            self.weights.read_at(&self.name, self.place, range, &mut out)?;
        }
        Ok(())
    }
}

//! Makes an int8 folder (`int8.rs`) of a decoder's folder. For whoever packs models: no guest calls it.
//!
//! ```text
//! DIR/*.safetensors --one matrix at a time--> OUT/model.safetensors      DIR/config.json + entry --> OUT/config.json
//! DIR/*.json, *.jinja, *.txt, *.md --> OUT, but for known answers and the index of weights: those were of DIR
//! ```
//! A matrix is rounded as it would be when it is loaded with [`crate::Precision::Int8`], by the same code, so both compute the same to the last
//! bit. The same folder gives the same bytes on every machine. Memory is what the largest matrix takes in bytes.

use crate::decoder::{Role, Shape, TensorOf};
use crate::error::EngineError;
use crate::families;
use crate::files::{self, Config};
use crate::generate::KNOWN_ANSWERS;
use crate::int8::{ENTRY, entry};
use crate::json::Json;
use crate::kernels::{Kind, Machine, Mapped, Matrix};
use crate::shards::{INDEX, Shards, WEIGHTS};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Where the data begins is a multiple of this: blocks then do not cross more lines of a cache than they must.
const ALIGNMENT: usize = 4096;
/// Files beside the weights that are read for something, or by somebody.
const KINDS: [&str; 4] = ["json", "jinja", "txt", "md"];
/// Largest of them, in bytes: a tokenizer.
const MAX_BESIDE: u64 = 64 * 1024 * 1024;

/// How far a conversion is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The tensor that is next.
    pub tensor: String,
    /// Bytes that are written.
    pub written: u64,
    /// Bytes of all weights as they will be.
    pub total: u64,
}

/// Writes to the new folder `out` what `dir` holds, with its multiplied weights rounded to bytes. `progress` is called
/// before each tensor.
///
/// # Errors
/// A folder that no decoder can be loaded from, one that is in bytes already, an `out` that is there and not empty, and what
/// the system says. What was written so far stays, without `config.json`, so that nothing takes it for a model.
pub fn quantise(dir: &Path, out: &Path, progress: &mut dyn FnMut(&Progress)) -> Result<(), EngineError> {
    let (_, shape) = families::decoder(dir)?;
    let shards = Shards::open(dir)?;
    if shape.blocks || shards.has_blocks() {
        let expected = "weights as they were published";
        return Err(EngineError::Value {
            path: dir.join("config.json"),
            field: ENTRY.into(),
            found: "there".into(),
            expected: expected.into(),
        });
    }
    shards.refuse_strangers(|name| shape.is_known(name))?;
    make(out)?;
    weights(&shards, &shape, &out.join(WEIGHTS), progress)?;
    beside(dir, out)?;
    config(dir, out)
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Write { path: path.into(), source }
}

fn make(out: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(out).map_err(failed(out))?;
    if fs::read_dir(out).map_err(failed(out))?.next().is_some() {
        return Err(failed(out)(std::io::Error::other("the folder is not empty")));
    }
    Ok(())
}

/// A tensor as it is and as it will be.
struct Planned {
    tensor: TensorOf,
    info: TensorInfo,
}

impl Planned {
    fn bytes(&self) -> usize {
        self.info.data_offsets.1 - self.info.data_offsets.0
    }
}

fn plan(shards: &Shards, shape: &Shape) -> Result<Vec<Planned>, EngineError> {
    let mut tensors = shape.tensors();
    // Blocks first, since their size is whole lines of a cache.
    tensors.sort_by_key(|tensor| tensor.role);
    let mut end = 0;
    let mut planned = vec![];
    for tensor in tensors {
        let kept = shards.dtype(&tensor.name, &tensor.shape)?;
        let (dtype, shape) = match tensor.role {
            Role::Matrix => (Dtype::U8, Matrix::blocks(tensor.shape[0], tensor.shape[1]).to_vec()),
            Role::Words | Role::Norm => (kept, tensor.shape.clone()),
        };
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        planned.push(Planned { tensor, info: TensorInfo { dtype, shape, data_offsets: (start, end) } });
    }
    Ok(planned)
}

fn weights(
    shards: &Shards,
    shape: &Shape,
    path: &Path,
    progress: &mut dyn FnMut(&Progress),
) -> Result<(), EngineError> {
    let planned = plan(shards, shape)?;
    let total = planned.iter().map(|one| one.bytes() as u64).sum();
    let machine = Machine::new(0);
    let failed = failed(path);
    let mut file = BufWriter::new(File::create_new(path).map_err(&failed)?);
    file.write_all(&header(path, &planned)?).map_err(&failed)?;
    let mut written = 0;
    for one in &planned {
        progress(&Progress { tensor: one.tensor.name.clone(), written, total });
        let (kind, mapped) = shards.mapped(&one.tensor.name, &one.tensor.shape)?;
        match one.tensor.role {
            Role::Matrix => {
                let matrix = rounded(&machine, kind, mapped, one.tensor.shape[1]);
                matrix.bytes().try_for_each(|part| file.write_all(part))
            }
            Role::Words | Role::Norm => file.write_all(mapped.bytes()),
        }
        .map_err(&failed)?;
        written += one.bytes() as u64;
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

fn rounded(machine: &Machine, kind: Kind, mapped: Mapped, inputs: usize) -> Matrix {
    let mut matrix = Matrix::new(inputs);
    matrix.push_mapped(kind, mapped);
    matrix.to_int8(machine)
}

/// Length and header, filled up with spaces.
fn header(path: &Path, planned: &[Planned]) -> Result<Vec<u8>, EngineError> {
    let odd = |reason: String| EngineError::Header { path: path.into(), reason };
    let infos = planned.iter().map(|one| (one.tensor.name.clone(), one.info.clone())).collect();
    let metadata = Metadata::new(None, infos).map_err(|error| odd(error.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| odd(error.to_string()))?;
    let length = (8 + json.len()).next_multiple_of(ALIGNMENT) - 8;
    json.resize(length, b' ');
    Ok([&(length as u64).to_le_bytes()[..], &json].concat())
}

/// Copies what lies beside the weights.
fn beside(dir: &Path, out: &Path) -> Result<(), EngineError> {
    let unread = |source| EngineError::Read { path: dir.into(), purpose: "its files are copied", source };
    for entry in fs::read_dir(dir).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let kind = path.extension().and_then(|kind| kind.to_str());
        let left = [INDEX, KNOWN_ANSWERS, "config.json"].contains(&name) || name.starts_with('.');
        if left || !path.is_file() || !kind.is_some_and(|kind| KINDS.contains(&kind)) {
            continue;
        }
        let to = out.join(name);
        fs::write(&to, files::read(&path, "it lies beside the weights", MAX_BESIDE)?).map_err(failed(&to))?;
    }
    Ok(())
}

/// The last file: a folder without it is no model.
fn config(dir: &Path, out: &Path) -> Result<(), EngineError> {
    let config: Config<Json> = Config::read(dir.join("config.json"), "it says how weights lie")?;
    let Json::Object(mut fields) = config.value else {
        return Err(config.bad("config", "another value", "an object"));
    };
    fields.retain(|(name, _)| name != ENTRY);
    fields.push((ENTRY.into(), entry()));
    let text = serde_json::to_string_pretty(&Json::Object(fields));
    let text = text.map_err(|source| EngineError::Json { path: config.path.clone(), source })?;
    let to = out.join("config.json");
    fs::write(&to, text + "\n").map_err(failed(&to))
}

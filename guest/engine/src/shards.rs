//! The weights of one model in one file or in several.
//!
//! ```text
//! model.safetensors                        or
//! model.safetensors.index.json: weight_map: tensor -> file;  model-00001-of-00002.safetensors, ...
//! ```
//! The index and the files must agree exactly: every tensor of every file is named, in the file that holds it.
//!
//! Source: transformers 5, `modeling_utils.py`, "weight_map".

use crate::error::{EngineError, shorten};
use crate::files::Config;
use crate::int8::INT8;
use crate::kernels::{Kind, Mapped};
use crate::weights::{FLOATS, Table, Weights};
use safetensors::Dtype;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The weights in one file, or the index of several.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// See [`WEIGHTS`].
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Most files of one model.
const MAX_FILES: usize = 1024;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// How far the loading of a model's weights is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loading {
    /// Bytes of weights that were looked at.
    pub done: u64,
    /// Bytes of all weights. A word table of its own is not looked at, and in this number all the same.
    pub total: u64,
}

/// Who is told, behind each matrix.
pub type Told = Arc<dyn Fn(Loading) + Send + Sync>;

/// Open weights, by tensor.
pub(crate) struct Shards {
    files: Vec<Arc<Weights>>,
    /// Which file holds a tensor.
    places: HashMap<String, usize>,
    types: BTreeSet<String>,
    told: Told,
    /// Bytes that were looked at.
    done: AtomicU64,
}

impl Shards {
    /// The same weights; `told` is told how far it is while they are looked at.
    pub fn telling(self, told: Told) -> Self {
        Shards { told, ..self }
    }

    fn tell(&self, bytes: usize) {
        let done = self.done.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        (self.told)(Loading { done, total: self.bytes() });
    }

    /// Opens all weights of a folder.
    pub fn open(dir: &Path) -> Result<Self, EngineError> {
        let index = dir.join(INDEX);
        if !index.exists() {
            return Self::of(vec![Weights::open(&dir.join(WEIGHTS), FLOATS)?]);
        }
        let index: Config<Index> = Config::read(index, "it says which file holds which tensor")?;
        let names: BTreeSet<&String> = index.value.weight_map.values().collect();
        index.in_range("weight_map", names.len(), 1..=MAX_FILES)?;
        // A path out of the folder would read what the model's hash does not cover.
        let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if let Some(name) = names.iter().find(|name| name.starts_with('.') || !plain(name)) {
            return Err(index.bad("weight_map", name, "names of files in the model's folder"));
        }
        let files = names.iter().map(|name| Weights::open(&dir.join(name), FLOATS));
        let shards = Self::of(files.collect::<Result<_, _>>()?)?;
        let wanted = &index.value.weight_map;
        let same = |(tensor, file): (&String, &usize)| {
            wanted.get(tensor).is_some_and(|name| shards.files[*file].path() == dir.join(name))
        };
        let odd = shards.places.iter().find(|place| !same((place.0, place.1))).map(|(tensor, _)| tensor);
        match odd.or_else(|| wanted.keys().find(|tensor| !shards.places.contains_key(*tensor))) {
            Some(tensor) => Err(index.bad("weight_map", tensor, "every tensor, in the file that holds it")),
            None => Ok(shards),
        }
    }

    fn of(files: Vec<Weights>) -> Result<Self, EngineError> {
        let mut places = HashMap::new();
        let mut types = BTreeSet::new();
        for (number, file) in files.iter().enumerate() {
            for (name, kind) in file.tensors() {
                types.insert(name_of(kind));
                if places.insert(name.clone(), number).is_some() {
                    let (path, tensor) = (file.path().into(), shorten(&name));
                    let (expected, found) = ("one file that holds it".into(), "a second one".into());
                    return Err(EngineError::Tensor { path, tensor, expected, found });
                }
            }
        }
        let files = files.into_iter().map(Arc::new).collect();
        Ok(Shards { files, places, types, told: Arc::new(|_| ()), done: AtomicU64::new(0) })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes()).sum()
    }

    /// The types of the tensors, such as `bf16`; `int8` where some are blocks of bytes (`int8.rs`).
    pub fn precision(&self) -> String {
        if self.has_blocks() {
            return INT8.into();
        }
        self.types.iter().cloned().collect::<Vec<_>>().join("+")
    }

    /// Whether some tensors are blocks of bytes.
    pub fn has_blocks(&self) -> bool {
        self.types.contains("u8")
    }

    /// The type of a tensor, such as `bf16`.
    #[cfg(feature = "cubes")]
    pub fn kind(&self, name: &str) -> Option<String> {
        let mut tensors = self.file(name).tensors();
        tensors.find(|(known, _)| known == name).map(|(_, kind)| name_of(kind))
    }

    /// Fails on the first tensor (by file and name) that `known` does not know.
    pub fn refuse_strangers(&self, known: impl Fn(&str) -> bool) -> Result<(), EngineError> {
        self.files.iter().try_for_each(|file| file.refuse_strangers(&known))
    }

    /// The type of a tensor of exactly this shape.
    pub fn dtype(&self, name: &str, shape: &[usize]) -> Result<Dtype, EngineError> {
        self.file(name).dtype(name, shape)
    }

    /// Fails unless there is a tensor of exactly this shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<(), EngineError> {
        self.file(name).expect(name, shape)
    }

    /// Reads a whole tensor of exactly this shape behind what `out` already holds.
    pub fn append(&self, name: &str, shape: &[usize], out: &mut Vec<f32>) -> Result<(), EngineError> {
        self.file(name).append(name, shape, out)
    }

    /// A tensor of exactly this shape as it lies in the file, all of it looked at.
    pub fn mapped(&self, name: &str, shape: &[usize]) -> Result<(Kind, Mapped), EngineError> {
        let found = self.file(name).mapped(name, shape)?;
        self.tell(found.1.bytes().len());
        Ok(found)
    }

    /// The blocks of bytes of a matrix as they lie in the file, their scales looked at.
    pub fn blocks(&self, name: &str, rows: usize, cols: usize) -> Result<Mapped, EngineError> {
        let found = self.file(name).blocks(name, rows, cols)?;
        self.tell(found.bytes().len());
        Ok(found)
    }

    /// Rows of a tensor, read on demand.
    pub fn table(&self, name: &str, rows: usize, width: usize) -> Result<Table, EngineError> {
        self.file(name).table(name, rows, width)
    }

    /// The file that holds a tensor; the first one says what is missing.
    fn file(&self, name: &str) -> &Arc<Weights> {
        &self.files[self.places.get(name).copied().unwrap_or(0)]
    }
}

fn name_of(kind: Dtype) -> String {
    format!("{kind:?}").to_lowercase()
}

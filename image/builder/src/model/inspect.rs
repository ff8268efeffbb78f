//! What a model folder says of itself, read without the engine: enough to refuse by name, before anything is packed, what no
//! guest would load. The engine looks at everything else when it opens the folder.

use super::int8;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Architectures that the engine has, and what they are for (`engine::kind`).
const ARCHITECTURES: [(&str, &str); 3] =
    [("BertModel", "embedding"), ("LlamaForCausalLM", "chat"), ("Qwen3ForCausalLM", "chat")];
/// Types of tensors that may be there, and their bytes: weights, and the positions that older embedders carry.
const TYPES: [(&str, u64); 4] = [("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8)];
/// The type of blocks of bytes, in folders that say so.
const BLOCKS: &str = "U8";
/// Largest configuration and largest header of weights that are read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;
const MAX_HEADER: u64 = 16 << 20;

/// Facts of a model folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspected {
    /// As `config.json` names it.
    pub architecture: String,
    /// `chat` or `embedding`.
    pub kind: String,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Elements by type of tensor; weights in blocks of bytes are `int8`.
    pub types: BTreeMap<String, u64>,
    /// How weights of bytes lie, where there are some.
    pub quantised: Option<String>,
    /// Most positions, where the configuration says it.
    pub context: Option<u64>,
    /// Number of token ids, where the configuration says it.
    pub vocabulary: Option<u64>,
    /// Files with weights.
    pub weight_files: usize,
}

#[derive(Deserialize)]
struct Config {
    architectures: Option<Vec<String>>,
    max_position_embeddings: Option<u64>,
    vocab_size: Option<u64>,
    quantization_config: Option<serde_json::Value>,
    #[serde(flatten)]
    sizes: int8::Sizes,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Reads a folder's configuration and the headers of its weights.
///
/// # Errors
/// An architecture that no guest loads, by name; weights of another type; headers that lie about the file.
pub fn inspect(folder: &Path) -> Result<Inspected> {
    let path = folder.join("config.json");
    let config: Config = serde_json::from_slice(&bounded(&path, MAX_CONFIG)?)
        .with_context(|| format!("{}: expected the configuration of a Hugging Face model", path.display()))?;
    let named = config.architectures.unwrap_or_default();
    let known = named.iter().find_map(|name| ARCHITECTURES.iter().find(|(known, _)| known == name));
    let (Some((architecture, kind)), 1) = (known, named.len()) else {
        let supported = ARCHITECTURES.map(|(name, _)| name).join(", ");
        let found: String = named.join(", ").chars().take(80).collect();
        bail!(
            "{}: architectures: expected one of {supported}, found `{found}`; choose a model of a supported kind",
            path.display()
        );
    };
    let blocks = match &config.quantization_config {
        None => None,
        Some(entry) => {
            let read = int8::Blocks::read(entry, &config.sizes, config.vocab_size, architecture);
            Some(read.with_context(|| format!("{}: quantization_config", path.display()))?)
        }
    };
    let mut facts = Inspected {
        architecture: (*architecture).into(),
        kind: (*kind).into(),
        parameters: 0,
        types: BTreeMap::new(),
        quantised: blocks.as_ref().map(|_| int8::SHOWN.into()),
        context: config.max_position_embeddings,
        vocabulary: config.vocab_size,
        weight_files: 0,
    };
    for entry in fs::read_dir(folder).with_context(|| format!("{}: can't list", folder.display()))? {
        let path = entry.with_context(|| format!("{}: can't list", folder.display()))?.path();
        if path.extension().is_some_and(|kind| kind == "safetensors") {
            weights(&path, blocks.as_ref(), &mut facts)
                .with_context(|| format!("{}: not packed", path.display()))?;
        }
    }
    ensure!(facts.weight_files > 0, "{}: expected weights in *.safetensors, found none", folder.display());
    ensure!(
        blocks.is_none() || facts.types.contains_key(int8::NAME),
        "{}: expected weights in blocks of bytes, as config.json says, found none; make the folder anew with `cargo xtask quantise`",
        folder.display()
    );
    Ok(facts)
}

fn bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("{}: can't open", path.display()))?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).with_context(|| format!("{}: can't read", path.display()))?;
    ensure!(
        bytes.len() as u64 <= most,
        "{}: expected at most {most} bytes; is it the right file?",
        path.display()
    );
    Ok(bytes)
}

/// Adds what the header of one file says, and holds it against the file's length.
fn weights(path: &Path, blocks: Option<&int8::Blocks>, facts: &mut Inspected) -> Result<()> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).context("expected a header, found a shorter file")?;
    let length = u64::from_le_bytes(length);
    ensure!(
        length <= MAX_HEADER && length + 8 <= size,
        "expected a header of at most {MAX_HEADER} bytes inside {size}, found {length}; fetch the file again"
    );
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    let mut header: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&header).context("the header is no JSON object; fetch the file again")?;
    header.remove("__metadata__");
    for (name, tensor) in header {
        let tensor: Tensor =
            serde_json::from_value(tensor).with_context(|| format!("tensor `{name}`: not described"))?;
        let packed = blocks.filter(|_| tensor.dtype == BLOCKS);
        let bytes = TYPES.iter().find(|(known, _)| *known == tensor.dtype).map(|(_, bytes)| *bytes);
        let Some(bytes) = bytes.or(packed.map(|_| 1)) else {
            let supported = TYPES.map(|(name, _)| name).join(", ");
            bail!("tensor `{name}`: expected {supported}, found {}; convert the model", tensor.dtype);
        };
        let elements = tensor.shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
        let [start, end] = tensor.data_offsets;
        let wanted = elements.and_then(|elements| elements.checked_mul(bytes));
        ensure!(
            end <= size - 8 - length && wanted.is_some() && end.checked_sub(start) == wanted,
            "tensor `{name}`: shape and place don't agree with each other or with the file; fetch it again"
        );
        let (kind, elements) = match packed {
            Some(blocks) => (int8::NAME.to_owned(), blocks.elements(&name, &tensor.shape)?),
            None => (tensor.dtype, elements.unwrap_or_default()),
        };
        facts.parameters = facts.parameters.saturating_add(elements);
        let sum = facts.types.entry(kind).or_default();
        *sum = sum.saturating_add(elements);
    }
    facts.weight_files += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(config: &str, header: &str, data: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), config).unwrap();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        fs::write(folder.path().join("model.safetensors"), file).unwrap();
        folder
    }

    const QWEN: &str = r#"{"architectures":["Qwen3ForCausalLM"],"vocab_size":9,"max_position_embeddings":8}"#;
    const HEADER: &str = r#"{"__metadata__":{},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;

    #[test]
    fn a_folder_says_what_it_holds() {
        let facts = inspect(folder(QWEN, HEADER, 12).path()).unwrap();
        assert_eq!((facts.architecture.as_str(), facts.kind.as_str()), ("Qwen3ForCausalLM", "chat"));
        assert_eq!((facts.parameters, facts.context, facts.vocabulary), (6, Some(8), Some(9)));
        assert_eq!(facts.types, BTreeMap::from([("BF16".into(), 6)]));
    }

    #[test]
    fn the_toy_of_this_repository_is_a_chat_model_of_two_million_weights() {
        let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/toy/data/model");
        let facts = inspect(&toy).unwrap();
        assert_eq!((facts.kind.as_str(), facts.parameters), ("chat", 1_968_064));
    }

    #[test]
    fn what_no_guest_loads_is_refused_by_name() {
        let mistral = QWEN.replace("Qwen3", "Mistral");
        let none = "{}".to_string();
        for (config, header, data, word) in [
            (mistral.as_str(), HEADER.to_string(), 12, "MistralForCausalLM"),
            (none.as_str(), HEADER.to_string(), 12, "expected one of"),
            (QWEN, HEADER.replace("BF16", "F8_E4M3"), 12, "F8_E4M3"),
            (QWEN, HEADER.replace("[0,12]", "[0,13]"), 13, "tensor `a`"),
            (QWEN, HEADER.replace("[2,3]", "[4294967296,4294967296]"), 12, "tensor `a`"),
            (QWEN, HEADER.to_string(), 11, "tensor `a`"),
            (QWEN, "[".repeat(99), 0, "no JSON"),
        ] {
            let error = inspect(folder(config, &header, data).path()).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{word}: {error:#}");
        }
    }

    const INT8: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":9,"hidden_size":32,"intermediate_size":32,
        "num_attention_heads":2,"quantization_config":{"quant_method":"chrysalis-int8","version":1,"group_size":32,
        "block_outputs":16}}"#;
    const BLOCK: &str = r#"{"lm_head.weight":{"dtype":"U8","shape":[1,544],"data_offsets":[0,544]}}"#;

    #[test]
    fn weights_in_bytes_are_shown_and_counted_as_weights() {
        let facts = inspect(folder(INT8, BLOCK, 544).path()).unwrap();
        assert_eq!((facts.parameters, facts.quantised.as_deref()), (9 * 32, Some("int8, groups of 32")));
        assert_eq!(facts.types, BTreeMap::from([("int8".into(), 9 * 32)]));
        assert_eq!(inspect(folder(QWEN, HEADER, 12).path()).unwrap().quantised, None);
    }

    #[test]
    fn weights_in_bytes_are_refused_by_name_where_they_are_not_what_the_folder_says() {
        let unnamed = INT8.replace("quantization_config", "something_else");
        for (config, header, data, word) in [
            (
                INT8.replace("\"version\":1", "\"version\":7"),
                BLOCK.to_string(),
                544,
                "version: expected 1, found 7",
            ),
            (INT8.replace("chrysalis-int8", "gptq"), BLOCK.to_string(), 544, "found `gptq`"),
            (
                INT8.replace("\"hidden_size\":32", "\"hidden_size\":40"),
                BLOCK.to_string(),
                544,
                "expected blocks [1, 1088]",
            ),
            (INT8.into(), BLOCK.replace("[1,544]", "[2,272]"), 544, "found [2, 272]"),
            (INT8.into(), BLOCK.replace("[0,544]", "[0,543]"), 543, "shape and place"),
            (INT8.into(), BLOCK.replace("lm_head", "model.norm"), 544, "none belong"),
            (INT8.into(), BLOCK.replace("U8", "F16").replace("[1,544]", "[1,272]"), 544, "found none"),
            (unnamed, BLOCK.to_string(), 544, "expected F32, F16, BF16, I64, found U8"),
        ] {
            let error = inspect(folder(&config, &header, data).path()).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{word}: {error:#}");
        }
    }

    #[test]
    fn a_header_longer_than_its_file_is_not_read() {
        let folder = folder(QWEN, HEADER, 12);
        fs::write(folder.path().join("model.safetensors"), u64::MAX.to_le_bytes()).unwrap();
        assert!(inspect(folder.path()).is_err());
    }
}

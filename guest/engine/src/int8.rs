//! Models whose weights lie in their files as they are multiplied by: blocks of bytes with scales.
//!
//! ```text
//! config.json         "quantization_config": {"quant_method": "chrysalis-int8", "version": 1, "group_size": 32, "block_outputs": 16}
//! model.safetensors   what is multiplied by [outputs, inputs]:  U8 [outputs / 16, inputs / 32 * 544], both rounded up
//!                     norms, and a word table that is no head:  as they were
//!
//! block               [groups] of: [16] scales, f16 | [8][16 outputs][4 inputs] bytes, each 128 more than the weight
//! ```
//! Weights are `scale * (byte - 128)`; what fills up the last group of a row and the last block counts for nothing. Nothing of
//! it is converted when a model is loaded: the file is mapped and multiplied by. A word table that is the head too is read
//! out of the blocks as well.
//!
//! The name stands in `config.json`, where transformers and others look for it, so that they refuse what they can't read by its
//! name and not by an odd shape. `quantise.rs` writes such folders.

use crate::error::EngineError;
use crate::files::Config;
use crate::json::Json;
use crate::kernels::{GROUP, OUTPUTS};
use serde::Deserialize;
use serde_json::Value;

/// The form of these weights, as facts and known answers have it; the same as of weights that are rounded as they are loaded.
pub(crate) const INT8: &str = "int8";
/// The entry in `config.json`.
pub(crate) const ENTRY: &str = "quantization_config";
/// Name of the format there.
const METHOD: &str = "chrysalis-int8";
/// Version of the layout of blocks (`kernels/bytes.rs`).
const VERSION: usize = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "quant_method")]
    _method: String,
    version: usize,
    group_size: usize,
    block_outputs: usize,
}

/// Fails unless an entry of `config.json` names this format in this version.
pub(crate) fn check<T>(config: &Config<T>, entry: &Value) -> Result<(), EngineError> {
    let method = entry.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
    if method != METHOD {
        return Err(config.unsupported(ENTRY, method, &format!("none, {METHOD}")));
    }
    let entry: Entry = serde_json::from_value(entry.clone())
        .map_err(|source| EngineError::Json { path: config.path.clone(), source })?;
    let wanted = [("version", entry.version, VERSION), ("group_size", entry.group_size, GROUP)];
    for (field, found, right) in wanted.into_iter().chain([("block_outputs", entry.block_outputs, OUTPUTS)]) {
        if found != right {
            let expected =
                format!("{right}: make the folder anew with this release's `cargo xtask quantise`");
            return Err(config.bad(&format!("{ENTRY}.{field}"), &found.to_string(), expected));
        }
    }
    Ok(())
}

/// The entry of a folder in this format.
pub(crate) fn entry() -> Json {
    let number = |value: usize| Json::Number(value.into());
    Json::Object(vec![
        ("quant_method".into(), METHOD.into()),
        ("version".into(), number(VERSION)),
        ("group_size".into(), number(GROUP)),
        ("block_outputs".into(), number(OUTPUTS)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(entry: Value) -> Result<(), String> {
        let config = Config { path: "config.json".into(), value: () };
        check(&config, &entry).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read_and_anything_else_is_named() {
        let right: Value = serde_json::from_str(&serde_json::to_string(&entry()).unwrap()).unwrap();
        assert_eq!(checked(right.clone()), Ok(()));
        let with = |field: &str, value: Value| {
            let mut entry = right.clone();
            entry[field] = value;
            checked(entry).unwrap_err()
        };
        assert!(with("quant_method", "gptq".into()).contains("`gptq` is not supported"));
        let version = with("version", 2.into());
        assert!(
            version.contains("quantization_config.version` is 2") && version.contains("quantise"),
            "{version}"
        );
        assert!(with("group_size", 64.into()).contains("group_size` is 64"));
        assert!(with("block_outputs", 8.into()).contains("block_outputs` is 8"));
        assert!(with("zero_point", true.into()).contains("zero_point"));
        assert!(with("version", (-1).into()).contains("config.json"));
        assert!(checked(Value::Null).unwrap_err().contains("unnamed"));
    }
}

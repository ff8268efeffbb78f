//! What decoder families have in common in `config.json`, and their rows: Llama 3 and Qwen3 (dense).
//!
//! A family says which switches it has; the fields and their ranges are the same. Spellings of transformers 4
//! (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) are read.
//!
//! Source: transformers 5, `configuration_llama.py`, `configuration_qwen3.py`, `modeling_rope_utils.py`.

use crate::decoder::{Llama3Scaling, Rope, Shape};
use crate::error::EngineError;
use crate::files::Config;
use crate::int8;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// A decoder family.
pub(crate) struct Family {
    /// Name in `architectures`.
    pub architecture: &'static str,
    /// Whether queries and keys are normed head by head.
    head_norms: bool,
    /// Base of the wavelengths where the file names none.
    theta: f64,
    /// Elements of a head where the file says nothing and width / heads is not meant.
    head: Option<usize>,
}

/// The closed list.
pub(crate) const FAMILIES: [Family; 2] = [
    Family { architecture: "LlamaForCausalLM", head_norms: false, theta: 10_000.0, head: None },
    Family { architecture: "Qwen3ForCausalLM", head_norms: true, theta: 10_000.0, head: Some(128) },
];

#[derive(Deserialize)]
struct CausalConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    hidden_act: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeConfig>,
    rope_parameters: Option<RopeConfig>,
}

#[derive(Deserialize)]
struct RopeConfig {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl Family {
    /// Reads and checks the shape of a model of this family.
    pub fn shape(&self, path: &Path) -> Result<Shape, EngineError> {
        let config: Config<CausalConfig> = Config::read(path.into(), "the model's shapes")?;
        refuse_variants(&config)?;
        let value = &config.value;
        let heads = config.in_range("num_attention_heads", value.num_attention_heads, 1..=1024)?;
        let kv_heads =
            config.in_range("num_key_value_heads", value.num_key_value_heads.unwrap_or(heads), 1..=heads)?;
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of num_attention_heads {heads}");
            return Err(config.bad("num_key_value_heads", &kv_heads.to_string(), expected));
        }
        let width = config.in_range("hidden_size", value.hidden_size, 1..=1 << 16)?;
        let head = value.head_dim.or(self.head).unwrap_or(width / heads);
        config.in_range("head_dim", head, 2..=1024)?;
        if !head.is_multiple_of(2) {
            return Err(config.bad("head_dim", &head.to_string(), "an even number"));
        }
        let eps = value.rms_norm_eps;
        if !(0.0..=0.1).contains(&eps) || eps == 0.0 {
            return Err(config.bad("rms_norm_eps", &eps.to_string(), "above 0 and at most 0.1"));
        }
        Ok(Shape {
            width,
            inner: config.in_range("intermediate_size", value.intermediate_size, 1..=1 << 18)?,
            layers: config.in_range("num_hidden_layers", value.num_hidden_layers, 1..=256)?,
            heads,
            kv_heads,
            head,
            vocabulary: config.in_range("vocab_size", value.vocab_size, 1..=1 << 22)?,
            context: config.in_range(
                "max_position_embeddings",
                value.max_position_embeddings,
                2..=1 << 22,
            )?,
            eps,
            rope: self.rope(&config)?,
            tied: value.tie_word_embeddings,
            head_norms: self.head_norms,
            blocks: value.quantization_config.is_some(),
        })
    }

    fn rope(&self, config: &Config<CausalConfig>) -> Result<Rope, EngineError> {
        let value = &config.value;
        let parameters = value.rope_parameters.as_ref().or(value.rope_scaling.as_ref());
        let theta = parameters.and_then(|p| p.rope_theta).or(value.rope_theta).unwrap_or(self.theta);
        if !(1.0..=1e12).contains(&theta) {
            return Err(config.bad("rope_theta", &theta.to_string(), "1 to 1e12"));
        }
        let Some(parameters) = parameters else { return Ok(Rope { theta, scaling: None }) };
        if let Some(part) = parameters.partial_rotary_factor.filter(|part| *part != 1.0) {
            return Err(config.unsupported("partial_rotary_factor", &part.to_string(), "1"));
        }
        let scaling = match parameters.rope_type.as_deref().unwrap_or("default") {
            "default" => None,
            "llama3" => Some(scaling(config, parameters)?),
            other => return Err(config.unsupported("rope_type", other, "default, llama3")),
        };
        Ok(Rope { theta, scaling })
    }
}

fn scaling(config: &Config<CausalConfig>, parameters: &RopeConfig) -> Result<Llama3Scaling, EngineError> {
    let number = |field: &str, found: Option<f64>, least: f64, most: f64| match found {
        Some(value) if (least..=most).contains(&value) => Ok(value),
        other => {
            let found = other.map_or_else(|| "missing".into(), |value| value.to_string());
            Err(config.bad(field, &found, format!("{least} to {most}")))
        }
    };
    let original = parameters.original_max_position_embeddings;
    let original = original.unwrap_or(config.value.max_position_embeddings as f64);
    let scaling = Llama3Scaling {
        factor: number("rope factor", parameters.factor, 1.0, 1e6)?,
        low: number("low_freq_factor", parameters.low_freq_factor, 1e-3, 1e6)?,
        high: number("high_freq_factor", parameters.high_freq_factor, 1e-3, 1e6)?,
        original: number("original_max_position_embeddings", Some(original), 1.0, 1e9)?,
    };
    if scaling.low >= scaling.high {
        let found = format!("{} and {}", scaling.low, scaling.high);
        return Err(config.bad("low_freq_factor and high_freq_factor", &found, "the first below the second"));
    }
    Ok(scaling)
}

/// Sound variants that are not run.
fn refuse_variants(config: &Config<CausalConfig>) -> Result<(), EngineError> {
    let value = &config.value;
    if value.hidden_act != "silu" {
        return Err(config.unsupported("hidden_act", &value.hidden_act, "silu"));
    }
    let switches = [
        ("attention_bias", value.attention_bias),
        ("mlp_bias", value.mlp_bias),
        ("use_sliding_window", value.use_sliding_window),
    ];
    if let Some((name, _)) = switches.iter().find(|(_, on)| *on) {
        return Err(config.unsupported(name, "true", "false"));
    }
    if let Some(kind) = value.layer_types.iter().flatten().find(|kind| *kind != "full_attention") {
        return Err(config.unsupported("layer type", kind, "full_attention"));
    }
    value.quantization_config.as_ref().map_or(Ok(()), |entry| int8::check(config, entry))
}

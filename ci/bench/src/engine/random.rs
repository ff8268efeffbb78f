//! Model folders of random weights, in bfloat16: for what is measured without looking at what comes of it.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Sizes of a Qwen3.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Elements of a hidden state, and between gate and down.
    pub width: usize,
    pub inner: usize,
    pub layers: usize,
    /// Heads of queries, and of keys and values; elements of each.
    pub heads: usize,
    pub kv_heads: usize,
    pub head: usize,
    pub vocabulary: usize,
    /// Whether the word table is the head too.
    pub tied: bool,
}

/// A folder that is removed with this value.
pub struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What can't be removed now lies in the scratch folder for its owner to see.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Most bytes of numbers that are drawn; they are repeated.
const DRAWN: usize = 1 << 20;

impl Sizes {
    /// Multiplications of a token in all layers, the head left out.
    pub fn products(&self) -> usize {
        let attention = self.width * (2 * self.heads + 2 * self.kv_heads) * self.head;
        self.layers * (attention + 3 * self.width * self.inner)
    }

    /// Bytes of the file of weights.
    pub fn bytes(&self) -> u64 {
        let words = self.vocabulary * self.width * if self.tied { 1 } else { 2 };
        let norms = self.layers * (2 * self.width + 2 * self.head) + self.width;
        ((self.products() + words + norms) * 2) as u64
    }

    /// Writes a folder below `scratch`.
    ///
    /// # Errors
    /// Too little room, which is looked for first, and whatever the file system says.
    pub fn write(&self, scratch: &Path, name: &str) -> Result<Folder> {
        let (wanted, free) = (self.bytes() + (64 << 20), free(scratch)?);
        ensure!(
            free >= wanted,
            "{}: expected {:.1} GB of room for random weights, found {:.1}; name another folder with --scratch, such as \
             /dev/shm where memory is plenty",
            scratch.display(),
            wanted as f64 / 1e9,
            free as f64 / 1e9
        );
        let folder = Folder(scratch.join(format!("chrysalis-bench-{name}-{}", std::process::id())));
        let dir = folder.path();
        fs::create_dir_all(dir).with_context(|| format!("{}: can't make", dir.display()))?;
        for (file, text) in [
            ("config.json", self.config()),
            ("tokenizer.json", tokenizer()),
            ("tokenizer_config.json", json!({})),
            ("generation_config.json", json!({})),
        ] {
            let path = dir.join(file);
            fs::write(&path, text.to_string()).with_context(|| format!("{}: can't write", path.display()))?;
        }
        let path = dir.join("model.safetensors");
        weights(&path, &self.tensors()).with_context(|| format!("{}: can't write", path.display()))?;
        Ok(folder)
    }

    fn config(&self) -> serde_json::Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": self.vocabulary,
            "hidden_size": self.width, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head,
            "max_position_embeddings": 40_960, "rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1e6,
            "tie_word_embeddings": self.tied, "torch_dtype": "bfloat16",
        })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Sizes { width, inner, head, .. } = *self;
        let (queries, keys) = (self.heads * head, self.kv_heads * head);
        let mut tensors = vec![
            ("model.embed_tokens".to_owned(), vec![self.vocabulary, width]),
            ("model.norm".to_owned(), vec![width]),
        ];
        tensors.extend((!self.tied).then(|| ("lm_head".to_owned(), vec![self.vocabulary, width])));
        for layer in 0..self.layers {
            let parts = [
                ("self_attn.q_proj", vec![queries, width]),
                ("self_attn.k_proj", vec![keys, width]),
                ("self_attn.v_proj", vec![keys, width]),
                ("self_attn.o_proj", vec![width, queries]),
                ("mlp.gate_proj", vec![inner, width]),
                ("mlp.up_proj", vec![inner, width]),
                ("mlp.down_proj", vec![width, inner]),
                ("input_layernorm", vec![width]),
                ("post_attention_layernorm", vec![width]),
                ("self_attn.q_norm", vec![head]),
                ("self_attn.k_norm", vec![head]),
            ];
            tensors.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}"), shape)));
        }
        tensors
    }
}

impl Folder {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn free(folder: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(folder).with_context(|| format!("{}: no folder", folder.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Writes a file of tensors: random signs and mantissas, sizes about a fiftieth, the same mebibyte again and again.
fn weights(path: &Path, tensors: &[(String, Vec<usize>)]) -> Result<()> {
    let (mut header, mut left) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let begin = left;
        left += shape.iter().product::<usize>() * 2;
        let tensor = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, left]});
        header.insert(format!("{name}.weight"), tensor);
    }
    let mut text = serde_json::to_string(&header)?;
    text += &" ".repeat((8 - text.len() % 8) % 8);
    let mut file = fs::File::create(path)?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(text.as_bytes())?;
    let mut state = 1u32;
    let mut drawn = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) as u16 & 0x807f) | 0x3c80
    };
    let numbers: Vec<u8> = (0..DRAWN / 2).flat_map(|_| drawn().to_le_bytes()).collect();
    while left > 0 {
        let part = left.min(numbers.len());
        file.write_all(&numbers[..part])?;
        left -= part;
    }
    Ok(())
}

/// A tokenizer of bytes and nothing else.
fn tokenizer() -> serde_json::Value {
    let mut others = 0;
    let mut letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
        _ => {
            others += 1;
            char::from_u32(0xff + others).unwrap_or_default().to_string()
        }
    };
    let vocab: BTreeMap<String, u8> = (0..=255u8).map(|byte| (letter(byte), byte)).collect();
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "normalizer": null, "truncation": null, "padding": null, "added_tokens": [],
        "pre_tokenizer": level, "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Sizes = Sizes {
        width: 32,
        inner: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head: 16,
        vocabulary: 256,
        tied: true,
    };

    #[test]
    fn a_folder_has_the_bytes_that_were_reckoned_and_is_removed() {
        for sizes in [SMALL, Sizes { tied: false, ..SMALL }] {
            let scratch = tempfile();
            let folder = sizes.write(&scratch, "small").unwrap();
            let path = folder.path().join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert_eq!(bytes.len() as u64 - 8 - header, sizes.bytes());
            drop(folder);
            assert!(!path.exists());
            fs::remove_dir(&scratch).unwrap();
        }
    }

    fn tempfile() -> PathBuf {
        let name = format!("chrysalis-random-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn too_little_room_is_said_before_anything_is_written() {
        let sizes = Sizes { vocabulary: 1 << 40, ..SMALL };
        let error = sizes.write(&std::env::temp_dir(), "large").err().unwrap().to_string();
        assert!(error.contains("--scratch"), "{error}");
    }

    #[test]
    fn the_shapes_of_qwen3_have_as_many_bytes_as_its_weights() {
        // 0.6B and 8B of parameters, as their names say.
        let small = Sizes {
            width: 1024,
            inner: 3072,
            layers: 28,
            heads: 16,
            kv_heads: 8,
            head: 128,
            vocabulary: 151_936,
            tied: true,
        };
        assert_eq!(small.bytes(), 2 * 596_049_920);
        let large = Sizes { width: 4096, inner: 12_288, layers: 36, heads: 32, tied: false, ..small };
        assert_eq!(large.bytes(), 2 * 8_190_735_360);
    }
}

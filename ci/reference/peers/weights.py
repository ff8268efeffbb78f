"""Random weights of Qwen3-0.6B's shape, for the engine and for llama.cpp: weights.py OUT_DIR

Writes decoder-PRECISION/ (a Hugging Face folder) for f32, f16 and bf16, and decoder-PRECISION.gguf for those and q8_0. All
hold the same numbers, as well as their precision can. Tokens are numbers; the tokenizer is there because a folder has one.
"""

import json
import os
import sys

import gguf
import ml_dtypes
import numpy
from safetensors.numpy import save_file

VOCABULARY, WIDTH, INNER, LAYERS, HEADS, KEYS, HEAD, CONTEXT = 151936, 1024, 3072, 28, 16, 8, 128, 40960
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCABULARY, "hidden_size": WIDTH,
    "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KEYS,
    "head_dim": HEAD, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
    "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": True, "eos_token_id": VOCABULARY - 1,
}
TYPES = {"f32": numpy.float32, "f16": numpy.float16, "bf16": ml_dtypes.bfloat16}
FILES = {
    "f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
# Part of a layer: its name here, its name in GGUF, outputs, inputs; a norm has no inputs.
PARTS = [
    ("self_attn.q_proj", "attn_q", HEADS * HEAD, WIDTH), ("self_attn.k_proj", "attn_k", KEYS * HEAD, WIDTH),
    ("self_attn.v_proj", "attn_v", KEYS * HEAD, WIDTH), ("self_attn.o_proj", "attn_output", WIDTH, HEADS * HEAD),
    ("mlp.gate_proj", "ffn_gate", INNER, WIDTH), ("mlp.up_proj", "ffn_up", INNER, WIDTH),
    ("mlp.down_proj", "ffn_down", WIDTH, INNER), ("self_attn.q_norm", "attn_q_norm", HEAD, 0),
    ("self_attn.k_norm", "attn_k_norm", HEAD, 0), ("input_layernorm", "attn_norm", WIDTH, 0),
    ("post_attention_layernorm", "ffn_norm", WIDTH, 0),
]


def tensors():
    """Name, name in GGUF, numbers that half precision holds exactly."""
    random = numpy.random.default_rng(20)

    def drawn(name, short, rows, cols):
        if not cols:
            return name, short, numpy.ones(rows, dtype=numpy.float32)
        # Sums of two random bytes, in steps that both halves of precision hold: -128 to 127 over 4096.
        steps = random.integers(-128, 128, (rows, cols), dtype=numpy.int16)
        return name, short, steps.astype(numpy.float32) / 4096

    yield drawn("model.embed_tokens.weight", "token_embd.weight", VOCABULARY, WIDTH)
    yield drawn("model.norm.weight", "output_norm.weight", WIDTH, 0)
    for i in range(LAYERS):
        for part, short, rows, cols in PARTS:
            yield drawn(f"model.layers.{i}.{part}.weight", f"blk.{i}.{short}.weight", rows, cols)


def letters():
    """The printable letters that stand for bytes, as in every byte-level tokenizer."""
    others = iter(range(256, 512))
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def tokenizer():
    vocab = {letter: i for i, letter in enumerate(letters())}
    vocab.update({f"<{i}>": i for i in range(256, VOCABULARY)})
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "normalizer": None, "truncation": None, "padding": None, "added_tokens": [],
        "pre_tokenizer": level, "post_processor": level, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": [],
        },
    }


def folder(out, name):
    kind = TYPES[name]
    path = os.path.join(out, f"decoder-{name}")
    os.makedirs(path, exist_ok=True)
    for file, value in (("config.json", CONFIG), ("tokenizer.json", tokenizer())):
        with open(os.path.join(path, file), "w", encoding="utf-8") as stream:
            json.dump(value, stream)
    save_file({name: numbers.astype(kind) for name, _, numbers in tensors()}, os.path.join(path, "model.safetensors"))


def written(out, name):
    kind = FILES[name]
    writer = gguf.GGUFWriter(os.path.join(out, f"decoder-{name}.gguf"), "qwen3")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1000000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for _, short, numbers in tensors():
        use = kind if numbers.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(short, gguf.quants.quantize(numbers, use), raw_dtype=use)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name in TYPES:
        folder(sys.argv[1], name)
    for name in FILES:
        written(sys.argv[1], name)

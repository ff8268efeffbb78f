"""Reference vectors for the engine's parity test, computed by sentence-transformers on the CPU.

Usage: python3 embed.py MODEL_DIR TEXTS.json OUT.json

Reads a Hugging Face folder and a JSON list of texts; writes, for each text, its vector and its token ids, together
with the SHA-256 of the weights and the versions that computed them. Uses no network.
"""

import hashlib
import json
import os
import sys

# Before the imports: the libraries read these when they are loaded.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_PROGRESS_BARS="1")

import sentence_transformers
import tokenizers
import torch
import transformers


def token_ids(model, text):
    """The ids that the model sees for one text, after cutting."""
    features = model.tokenize([text]) if not hasattr(model, "preprocess") else model.preprocess([text])
    return features["input_ids"][0].tolist()


def main(model_dir, texts_path, out_path):
    with open(texts_path, encoding="utf-8") as file:
        texts = json.load(file)
    with open(os.path.join(model_dir, "model.safetensors"), "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    model = sentence_transformers.SentenceTransformer(model_dir, device="cpu", local_files_only=True)
    # One text at a time: no padding, so nothing but the text decides its vector.
    vectors = [model.encode([text], show_progress_bar=False)[0].tolist() for text in texts]
    result = {
        "schema": 1,
        "weights_sha256": weights,
        "versions": {
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
        },
        "texts": texts,
        "tokens": [token_ids(model, text) for text in texts],
        "vectors": vectors,
    }
    with open(out_path + ".part", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(out_path + ".part", out_path)
    print(f"{out_path}: {len(texts)} vectors of {len(vectors[0])} elements, {result['versions']}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

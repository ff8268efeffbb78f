"""sentence-transformers as a peer: sentences.py MODEL_DIR THREADS (see lines.py)."""

import json
import sys

from lines import blas, clocks, serve

import sentence_transformers
import torch

if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    before = clocks()
    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)

    def embed(path, repeats):
        with open(path, encoding="utf-8") as file:
            texts = json.load(file)

        def run():
            for _ in range(int(repeats)):
                model.encode(texts, show_progress_bar=False)
            return len(texts) * int(repeats)

        return run

    versions = {"sentence-transformers": sentence_transformers.__version__, "torch": torch.__version__, "BLAS of torch": blas()}
    serve((before, clocks()), versions, {"embed": embed})

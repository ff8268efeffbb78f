"""onnxruntime as a peer: onnx_embed.py MODEL_DIR THREADS GRAPH (see lines.py). Texts in, vectors out: mean of the states, length 1."""

import json
import os
import sys

from lines import clocks, serve

import numpy
import onnxruntime
import tokenizers

LONGEST = 256

if __name__ == "__main__":
    before = clocks()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(sys.argv[2]), 1
    session = onnxruntime.InferenceSession(sys.argv[3], options, providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(sys.argv[1], "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()

    def vectors(texts):
        encoded = tokenizer.encode_batch(texts)
        ids = numpy.array([text.ids for text in encoded], dtype=numpy.int64)
        mask = numpy.array([text.attention_mask for text in encoded], dtype=numpy.int64)
        (states,) = session.run(["states"], {"ids": ids, "mask": mask})
        weights = mask[:, :, None].astype(numpy.float32)
        means = (states * weights).sum(1) / weights.sum(1)
        return means / numpy.linalg.norm(means, axis=1, keepdims=True)

    def embed(path, repeats):
        with open(path, encoding="utf-8") as file:
            texts = json.load(file)

        def run():
            for _ in range(int(repeats)):
                vectors(texts)
            return len(texts) * int(repeats)

        return run

    if len(sys.argv) > 4:
        # For looking at what it computes.
        with open(sys.argv[4], encoding="utf-8") as file:
            print(json.dumps([vectors([text])[0].tolist() for text in json.load(file)]))
        sys.exit()
    serve((before, clocks()), {"onnxruntime": onnxruntime.__version__}, {"embed": embed})

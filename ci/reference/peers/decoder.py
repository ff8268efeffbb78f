"""transformers as a peer: decoder.py MODEL_DIR THREADS CONTEXT (see lines.py). Greedy, with its own cache, in single precision."""

import sys

from lines import blas, clocks, serve

import torch
import transformers

SHORT = 16


class Peer:
    def __init__(self, folder, threads):
        torch.set_num_threads(threads)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.random = torch.Generator().manual_seed(7)

    def ids(self, answers, tokens):
        return torch.randint(0, 150_000, (answers, tokens), generator=self.random)

    def forward(self, ids, cache=None):
        with torch.inference_mode():
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values

    def prefill(self, tokens):
        ids = self.ids(1, int(tokens))

        def run():
            self.forward(ids)
            return ids.numel()

        return run

    def batched(self, answers, tokens):
        last, cache = self.forward(self.ids(int(answers), SHORT))

        def run():
            nonlocal last, cache
            for _ in range(int(tokens)):
                last, cache = self.forward(last, cache)
            return int(answers) * int(tokens)

        return run


if __name__ == "__main__":
    before = clocks()
    peer = Peer(sys.argv[1], int(sys.argv[2]))
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "BLAS of torch": blas()}
    tasks = {"prefill": peer.prefill, "batch": peer.batched, "decode": lambda tokens: peer.batched(1, tokens)}
    serve((before, clocks()), versions, tasks)

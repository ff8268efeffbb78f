"""transformers as a peer: decoder.py MODEL_DIR THREADS CONTEXT [cuda] (see lines.py).

Greedy, with its own cache: in single precision on the processor, in bfloat16 on a GPU.
"""

import sys

from lines import blas, clocks, serve

import torch
import transformers

SHORT = 16


class Peer:
    def __init__(self, folder, threads, device):
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = model.to(self.device).eval()
        self.random = torch.Generator().manual_seed(7)

    def ids(self, answers, tokens):
        return torch.randint(0, 150_000, (answers, tokens), generator=self.random).to(self.device)

    def done(self):
        """Waits for a GPU: it computes behind the program's back."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def forward(self, ids, cache=None):
        with torch.inference_mode():
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values

    def prefill(self, tokens):
        ids = self.ids(1, int(tokens))

        def run():
            self.forward(ids)
            self.done()
            return ids.numel()

        return run

    def batched(self, answers, tokens):
        last, cache = self.forward(self.ids(int(answers), SHORT))
        self.done()

        def run():
            nonlocal last, cache
            for _ in range(int(tokens)):
                last, cache = self.forward(last, cache)
            self.done()
            return int(answers) * int(tokens)

        return run


if __name__ == "__main__":
    before = clocks()
    peer = Peer(sys.argv[1], int(sys.argv[2]), sys.argv[4] if len(sys.argv) > 4 else "cpu")
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "BLAS of torch": blas()}
    tasks = {"prefill": peer.prefill, "batch": peer.batched, "decode": lambda tokens: peer.batched(1, tokens)}
    serve((before, clocks()), versions, tasks)

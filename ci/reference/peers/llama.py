"""llama.cpp as a peer: llama.py MODEL.gguf THREADS CONTEXT (see lines.py)."""

import sys

from lines import clocks, serve

import numpy

import llama_cpp as lib

BATCH = 512
SEQUENCES = 8
SHORT = 16


@lib.llama_log_callback
def quiet(_level, _text, _data):
    pass


class Peer:
    def __init__(self, path, threads, context):
        lib.llama_log_set(quiet, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = context, BATCH, BATCH, SEQUENCES
        params.n_threads = params.n_threads_batch = threads
        # One pool of memory for all sequences, as an engine with blocks has it.
        params.kv_unified = True
        self.context = lib.llama_init_from_model(self.model, params)
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.batch = lib.llama_batch_init(BATCH, 0, 1)
        self.random = numpy.random.default_rng(7)

    def decode(self, entries):
        """Entries are (token, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        if lib.llama_decode(self.context, batch) != 0:
            sys.exit("llama_decode failed")

    def best(self, entry):
        logits = lib.llama_get_logits_ith(self.context, entry)
        return int(numpy.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())

    def clear(self):
        lib.llama_memory_clear(lib.llama_get_memory(self.context), False)

    def prefill(self, tokens):
        tokens = int(tokens)
        self.clear()
        ids = [int(x) for x in self.random.integers(0, 150_000, tokens)]

        def run():
            self.decode([(ids[i], i, 0, i == tokens - 1) for i in range(tokens)])
            self.best(tokens - 1)
            return tokens

        return run

    def batched(self, answers, tokens):
        answers, tokens = int(answers), int(tokens)
        self.clear()
        ids = self.random.integers(0, 150_000, (answers, SHORT)).tolist()
        entries = [(ids[s][i], i, s, i == SHORT - 1) for s in range(answers) for i in range(SHORT)]
        self.decode(entries)
        last = [self.best(s * SHORT + SHORT - 1) for s in range(answers)]

        def run():
            nonlocal last
            for step in range(tokens):
                self.decode([(last[s], SHORT + step, s, True) for s in range(answers)])
                last = [self.best(s) for s in range(answers)]
            return answers * tokens

        return run


if __name__ == "__main__":
    before = clocks()
    peer = Peer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    versions = {"llama-cpp-python": lib.__version__, "llama.cpp": lib.llama_print_system_info().decode().strip()}
    tasks = {"prefill": peer.prefill, "batch": peer.batched, "decode": lambda tokens: peer.batched(1, tokens)}
    serve((before, clocks()), versions, tasks)

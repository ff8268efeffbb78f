"""A BERT encoder as a graph for onnxruntime: export.py MODEL_DIR OUT.onnx

Exported by torch, then fused by onnxruntime's own optimiser for BERT (attention, layer norms, GELU).
"""

import math
import os
import sys

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import torch
import transformers
from onnxruntime.transformers import optimizer


class States(torch.nn.Module):
    """Token ids and mask to hidden states, with attention spelled as onnxruntime's optimiser knows it."""

    def __init__(self, model):
        super().__init__()
        self.embeddings, self.layers = model.embeddings, model.encoder.layer
        self.heads = model.config.num_attention_heads

    def attend(self, attention, states, bias):
        def heads(linear):
            x = linear(states)
            return x.view(x.size()[:-1] + (self.heads, x.size(-1) // self.heads)).permute(0, 2, 1, 3)

        q, k, v = heads(attention.query), heads(attention.key), heads(attention.value)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1))
        seen = torch.matmul(torch.softmax(scores + bias, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return seen.view(seen.size()[:-2] + (states.size(-1),))

    def forward(self, ids, mask):
        states = self.embeddings(input_ids=ids)
        bias = (1.0 - mask.unsqueeze(1).unsqueeze(2).to(torch.float32)) * -10000.0
        for layer in self.layers:
            seen = self.attend(layer.attention.self, states, bias)
            states = layer.attention.output(seen, states)
            states = layer.output(layer.intermediate(states), states)
        return states


def main(folder, out):
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.ones(2, 5, dtype=torch.int64)
    axes = {name: {0: "texts", 1: "tokens"} for name in ("ids", "mask", "states")}
    plain = out + ".plain"
    torch.onnx.export(
        States(model), (ids, torch.ones_like(ids)), plain, input_names=["ids", "mask"], output_names=["states"],
        dynamic_axes=axes, opset_version=17,
    )
    config = model.config
    fused = optimizer.optimize_model(
        plain, model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=1,
    )
    fused.save_model_to_file(out + ".part")
    os.replace(out + ".part", out)
    os.remove(plain)
    print(f"{out}: {fused.get_fused_operator_statistics()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

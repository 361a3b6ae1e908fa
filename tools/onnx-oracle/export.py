#!/usr/bin/env python3
"""Writes bert.onnx: the golden checkpoint `uncased-tied`, exported by torch, for the importer that build.rs runs.

One text at a time, of any length: `input_ids` [1, tokens] in, `logits` [1, tokens, vocabulary] out. See README.md.
"""

import collections
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnx
import onnxruntime
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
CHECKPOINT = HERE.parents[1] / "tests" / "fixtures" / "golden" / "uncased-tied"
ONNX = HERE / "bert.onnx"


class Logits(torch.nn.Module):
    """BERT as a function of token ids alone: one segment, nothing masked."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, token_type_ids=torch.zeros_like(input_ids)).logits


def without_notes(model):
    """The exporter notes the Python stack, with paths of the machine, at each node."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for part in (*model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    # eager: explicit products and a softmax, which is what the importer should see
    model = transformers.AutoModelForMaskedLM.from_pretrained(CHECKPOINT, attn_implementation="eager")
    logits = Logits(model).eval()
    vocabulary = model.config.vocab_size
    example = torch.arange(16)[None] % vocabulary
    program = torch.onnx.export(
        logits,
        (example,),
        input_names=["input_ids"],
        output_names=["logits"],
        dynamic_shapes=({1: torch.export.Dim("tokens", min=2, max=model.config.max_position_embeddings)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    exported = without_notes(program.model_proto)
    onnx.checker.check_model(exported)
    ONNX.write_bytes(exported.SerializeToString(deterministic=True))

    session = onnxruntime.InferenceSession(ONNX, providers=["CPUExecutionProvider"])
    worst = 0.0
    for tokens in (2, 3, 16, 100, 256):
        ids = torch.from_numpy(np.random.default_rng(tokens).integers(0, vocabulary, (1, tokens)))
        with torch.no_grad():
            expected = logits(ids).numpy()
        (got,) = session.run(["logits"], {"input_ids": ids.numpy()})
        worst = max(worst, float(np.abs(got - expected).max()))
    assert worst < 5e-5, worst
    operations = collections.Counter(node.op_type for node in exported.graph.node)
    print(f"{ONNX.name}: {ONNX.stat().st_size / 1024:.0f} KiB, opset {exported.opset_import[0].version}")
    print(f"onnxruntime is off torch by {worst:.1e} at most")
    print(", ".join(f"{count} {name}" for name, count in sorted(operations.items())))


if __name__ == "__main__":
    main()

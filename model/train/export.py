"""Write the model folder that the server embeds, with the golden test made from it.

    python export.py --work WORK --checkpoint decayed.pt --out ..

Writes config.json, tokenizer.json, tokenizer_config.json, model.safetensors (f16) and golden.json
into a temporary folder, checks that `transformers` loads it and gives the training model's logits,
and only then renames the files into place. `--average` exports the running average of the weights.
"""

import argparse
import json
import os
import pathlib
import tempfile

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM

import golden
from common import (
    CLS, EPS, HEADS, INNER, LAYERS, MASK, PAD, POSITIONS, SEP, VOCAB, WIDTH, Model, Text, attention_bias,
)

CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.0,
    "dtype": "float16",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "layer_norm_eps": EPS,
    "max_position_embeddings": POSITIONS,
    "model_type": "bert",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": PAD,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "type_vocab_size": 2,
    "vocab_size": VOCAB,
}
TOKENIZER_CONFIG = {
    "clean_up_tokenization_spaces": True,
    "cls_token": "[CLS]",
    "do_lower_case": True,
    "mask_token": "[MASK]",
    "model_max_length": POSITIONS,
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "tokenizer_class": "BertTokenizer",
    "unk_token": "[UNK]",
}


def tensors(model: Model) -> dict[str, torch.Tensor]:
    """The checkpoint under the names of BertForMaskedLM; biases the model lacks become zeros."""
    out = {}

    def linear(name, weight):
        out[f"{name}.weight"] = weight
        out[f"{name}.bias"] = torch.zeros(weight.shape[0])

    def norm(name, module):
        out[f"{name}.weight"] = module.weight
        out[f"{name}.bias"] = module.bias

    out["bert.embeddings.word_embeddings.weight"] = model.words
    out["bert.embeddings.position_embeddings.weight"] = model.positions
    out["bert.embeddings.token_type_embeddings.weight"] = torch.zeros(2, WIDTH)
    norm("bert.embeddings.LayerNorm", model.norm)
    for i, layer in enumerate(model.layers):
        at = f"bert.encoder.layer.{i}"
        for name, weight in zip(("query", "key", "value"), layer.qkv):
            linear(f"{at}.attention.self.{name}", weight)
        linear(f"{at}.attention.output.dense", layer.out)
        norm(f"{at}.attention.output.LayerNorm", layer.norm1)
        linear(f"{at}.intermediate.dense", layer.up)
        linear(f"{at}.output.dense", layer.down)
        norm(f"{at}.output.LayerNorm", layer.norm2)
    linear("cls.predictions.transform.dense", model.transform)
    norm("cls.predictions.transform.LayerNorm", model.head_norm)
    out["cls.predictions.bias"] = model.head_bias
    return {name: t.detach().to(torch.float16).contiguous() for name, t in out.items()}


@torch.no_grad()
def check(model: Model, folder: pathlib.Path, text: Text) -> float:
    """The greatest difference of a logit between the training model and the exported folder."""
    with torch.no_grad():  # the training model with its weights rounded as on disk
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.float16).float())
    exported = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    worst = 0.0
    for start, end in text.segments(lambda: 60)[:20]:
        ids = [CLS, *text.tokens[start:end][: POSITIONS - 2].tolist(), SEP]
        ids[len(ids) // 2] = MASK
        tokens = torch.tensor([ids])
        ours = model(tokens, torch.arange(len(ids))[None], attention_bias(torch.zeros_like(tokens)), torch.arange(len(ids)))
        worst = max(worst, (exported(tokens).logits[0] - ours).abs().max().item())
    return worst


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--work", required=True, type=pathlib.Path)
    args.add_argument("--checkpoint", default="decayed.pt", help="file in WORK")
    args.add_argument("--average", action="store_true")
    args.add_argument("--out", required=True, type=pathlib.Path)
    args = args.parse_args()

    state = torch.load(args.work / args.checkpoint)
    model = Model()
    model.load_state_dict(state["model"])
    if args.average:
        for parameter, mean in zip(model.parameters(), state["average"]):
            parameter.data.copy_(mean)
    steps, seen, *_ = state["place"]

    with tempfile.TemporaryDirectory(dir=args.out, prefix=".export-") as folder:
        folder = pathlib.Path(folder)
        for name, content in (("config.json", CONFIG), ("tokenizer_config.json", TOKENIZER_CONFIG)):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        (folder / "tokenizer.json").write_bytes((args.work / "tokenizer.json").read_bytes())
        save_file(tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
        worst = check(model, folder, Text(args.work, "heldout"))
        if not worst < 1e-3:
            raise SystemExit(f"the exported model differs from the trained one by {worst}")
        golden.write(folder, folder / "golden.json")
        size = sum(f.stat().st_size for f in folder.iterdir())
        for file in folder.iterdir():
            os.chmod(file, 0o644)
            os.replace(file, args.out / file.name)
    print(f"step {steps}, {seen / 1e6:.1f} M tokens seen; {size / 1e6:.1f} MB; greatest logit difference {worst:.1e}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The agreement of `--dtype bf16` and `int8` with f32 on the CPU, for each model type.

    cargo build --release --bench passes
    python tools/family_precision.py target/release/deps/passes-... [FOLDER...]

Each model has the options of a golden checkpoint, 6 layers of width 256, 4,000 tokens (ESM: 33), and random weights on the
scale of a trained model: heavy-tailed dense layers of deviation 1 / sqrt(inputs), normalizations with a few large
channels, queries and keys twice as large, and logits of deviation 3. The mask token has a small embedding, and special
tokens have a negative bias in the decoder, since a mask is most similar to itself. Measured over 48 texts of 64 tokens with 8 masks each: the share of masks whose likeliest token is that of f32, and
the difference of its score. Needs the packages of tests/fixtures/golden/requirements.txt.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/golden"
FOLDERS = (
    "uncased-tied roberta xlm-roberta camembert xlm-roberta-xl roberta-prelayernorm data2vec-text ernie megatron-bert "
    "distilbert electra albert rembert squeezebert mpnet esm-2 esm-1b modernbert eurobert nomic-bert gte "
    "jina-embeddings-v3 roformer"
).split()
SIZES = dict(
    hidden_size=256, dim=256, num_hidden_layers=6, n_layers=6, num_attention_heads=8, n_heads=8, intermediate_size=1024,
    hidden_dim=1024, vocab_size=4000,
)
TEXTS, TOKENS, MASKS = 48, 64, 8
# Names of the dense layers of queries and keys; they are larger, so that attention selects few tokens.
QUERIES_AND_KEYS = tuple(f"{name}.weight" for name in "query key q_lin k_lin q_proj k_proj attn.q attn.k".split())
JOINED = ("Wqkv.weight", "qkv_proj.weight")
SHARPNESS = 1.5
# Names of the dense layers whose outputs are added to the residual; they are smaller.
BRANCHES = tuple(
    f"{name}.weight"
    for name in "output.dense out_lin lin2 ffn_output attention.dense attn.o Wo o_proj down_proj fc2 out_proj "
    "post_attention.conv1d output.conv1d".split()
)
SHARE = 0.4
DTYPES = ["f32", "bf16", "int8"]


def resized(config):
    """The config with other sizes and the same options."""
    small = {name: getattr(config, name) for name in SIZES if hasattr(config, name)}
    for name in small:
        if name != "vocab_size" or config.model_type != "esm":
            setattr(config, name, SIZES[name])
    if config.model_type == "squeezebert":
        config.embedding_size = config.hidden_size
    if hasattr(config, "head_dim"):
        config.head_dim = 32
    if config.model_type == "modernbert":
        config.layer_types = ["full_attention" if layer % 3 == 0 else "sliding_attention" for layer in range(6)]
    return config


def draw(model, special, mask):
    rng = np.random.default_rng(1)
    vocabulary = model.config.vocab_size
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            shape = tuple(parameter.shape)
            if "embed_positions" in name:
                continue
            if name.endswith("bias"):
                values = 0.05 * rng.standard_normal(shape)
                if shape[0] == vocabulary:
                    values[special] = -30
            elif len(shape) == 1:
                values = 0.9 + 0.1 * rng.standard_normal(shape)
                values[rng.random(shape) < 0.01] *= 5
            elif shape[0] == vocabulary:
                values = 3 / math.sqrt(shape[1]) * rng.standard_normal(shape)
                values[mask] *= 0.3
            elif "embeddings" in name and "project" not in name and "mapping" not in name:
                values = 0.5 / math.sqrt(shape[1]) * rng.standard_normal(shape)
            else:
                inputs = parameter[0].numel()
                values = rng.standard_t(5, shape) / math.sqrt(5 / 3) / math.sqrt(inputs)
                if name.endswith(QUERIES_AND_KEYS):
                    values *= SHARPNESS
                elif name.endswith(JOINED):
                    values[: 2 * shape[0] // 3] *= SHARPNESS
                elif name.endswith(BRANCHES):
                    values *= SHARE
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    model.tie_weights()


def answers(passes, folder, dtype, request):
    process = subprocess.Popen(
        [passes, str(folder), "cpu", "--dtype", dtype], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    output, _ = process.communicate(json.dumps(request) + "\n")
    ready, answer = map(json.loads, output.splitlines())
    return ready["device"], answer["tokens"], answer["scores"]


def measure(passes, name):
    source = GOLDEN / name
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for file in source.iterdir():
            if file.name not in ("golden.json", "model.safetensors"):
                shutil.copy(file, folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        config = resized(transformers.AutoConfig.from_pretrained(source))
        model = transformers.AutoModelForMaskedLM.from_config(config).eval()
        special = sorted(set(tokenizer.all_special_ids))
        draw(model, special, tokenizer.mask_token_id)
        model.save_pretrained(folder)
        rng = np.random.default_rng(2)
        ordinary = [token for token in range(config.vocab_size) if token not in special]
        texts = rng.choice(ordinary, (TEXTS, TOKENS))
        masks = [sorted(rng.choice(TOKENS, MASKS, replace=False).tolist()) for _ in range(TEXTS)]
        for text, positions in zip(texts, masks):
            text[positions] = tokenizer.mask_token_id
        request = {"texts": texts.tolist(), "masks": masks, "rounds": 1}
        found = {dtype: answers(passes, folder, dtype, request) for dtype in DTYPES}
    device, tokens, scores = found["f32"]
    cells = [f"{len(set(tokens))}", f"{statistics.median(scores):.2f}"]
    for dtype in DTYPES[1:]:
        _, other_tokens, other_scores = found[dtype]
        same = [index for index, token in enumerate(tokens) if token == other_tokens[index]]
        differences = [abs(scores[index] - other_scores[index]) for index in same]
        cells += [f"{len(same) / len(tokens):.1%}", f"{statistics.mean(differences):.4f}", f"{max(differences):.3f}"]
    model_type = "bert" if name == "uncased-tied" else name
    print(f"| {model_type} | {' | '.join(cells)} |", flush=True)
    return device


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("passes", help="the bench target `passes`, built")
    parser.add_argument("folders", nargs="*", default=FOLDERS, help="golden checkpoints")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    print("| model | tokens that are likeliest | median score | bf16: same token | mean | max | int8: same token | mean | max |")
    print("|---|---|---|---|---|---|---|---|---|")
    devices = {measure(arguments.passes, name) for name in arguments.folders}
    print(*devices, file=sys.stderr)


if __name__ == "__main__":
    main()

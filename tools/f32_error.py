#!/usr/bin/env python3
"""Compares the errors of Cloze and of PyTorch, both in f32, with PyTorch in float64.

    python tools/f32_error.py target/release/cloze [SEEDS]

SEEDS is the number of checkpoints of each kind, 1 by default. Needs torch and transformers. The checkpoints have BERT's width (768), random weights and the vocabulary of a golden
checkpoint; a larger standard deviation of the weights gives larger activations. An error is the largest difference of a
probability, over all tokens of the vocabulary and 12 texts of 5 to 150 words.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

GOLDEN = pathlib.Path(__file__).parents[1] / "tests/fixtures/golden/uncased-tied"
# Standard deviation, layers, activation.
MODELS = [
    (0.02, 6, "gelu"),
    (0.06, 6, "gelu"),
    (0.1, 4, "gelu"),
    (0.1, 4, "gelu_new"),
    (0.1, 4, "relu"),
    (0.2, 2, "gelu"),
]


def write_model(folder, tokenizer, seed, deviation, layers, activation):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_act=activation,
        initializer_range=deviation,
    )
    model = BertForMaskedLM(config)
    for name, parameter in model.named_parameters():
        if "LayerNorm.weight" in name:
            parameter.data.normal_(1, 0.3)
        elif name.endswith("bias"):
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def texts(tokenizer, seed):
    draw = random.Random(seed)
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
    for length in [5, 20, 60, 150] * 3:
        text = [draw.choice(words) for _ in range(length)]
        text[draw.randrange(length)] = tokenizer.mask_token
        yield " ".join(text)


def torch_probabilities(folder, tokenizer, lines, dtype):
    model = BertForMaskedLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        for text in lines:
            batch = tokenizer(text, return_tensors="pt")
            position = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
            yield model(**batch).logits[0, position].double().softmax(-1)


def cloze_probabilities(program, folder, tokenizer, lines):
    requests = [json.dumps({"inputs": text, "parameters": {"top_k": len(tokenizer)}}) for text in lines]
    answers = subprocess.run(
        [program, "predict", "--model", folder], input="\n".join(requests), capture_output=True, text=True, check=True
    )
    for line in answers.stdout.splitlines():
        probabilities = torch.zeros(len(tokenizer), dtype=torch.float64)
        for prediction in json.loads(line):
            probabilities[prediction["token"]] = prediction["score"]
        yield probabilities


def error(probabilities, expected):
    return max((ours - exact).abs().max().item() for ours, exact in zip(probabilities, expected, strict=True))


def main():
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN)
    print("| deviation | layers | activation | PyTorch | Cloze | ratio |\n|---|---|---|---|---|---|")
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    kinds = list(enumerate(MODELS))
    for seed, (deviation, layers, activation) in [(seed + 100 * n, kind) for seed, kind in kinds for n in range(seeds)]:
        with tempfile.TemporaryDirectory() as folder:
            write_model(folder, tokenizer, seed, deviation, layers, activation)
            lines = list(texts(tokenizer, seed))
            exact = list(torch_probabilities(folder, tokenizer, lines, torch.float64))
            theirs = error(torch_probabilities(folder, tokenizer, lines, torch.float32), exact)
            ours = error(cloze_probabilities(sys.argv[1], folder, tokenizer, lines), exact)
        print(f"| {deviation} | {layers} | {activation} | {theirs:.1e} | {ours:.1e} | {ours / theirs:.1f} |", flush=True)


if __name__ == "__main__":
    main()

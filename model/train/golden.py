"""Write what transformers' fill-mask pipeline answers with the model folder (run by export.py too).

    python golden.py --model .. --out ../golden.json

The weights are cast up to f64 first: f32 itself is off by 1e-5 where the model is sure, and an f32 server
must be close to what is right, not to one library's rounding.
"""

import argparse
import json
import pathlib

import torch
import transformers

INPUTS = [
    ("The capital of France is [MASK].", {}),
    ("Paris is the [MASK] of France.", {}),
    ("She [MASK] born in London in 1950.", {}),
    ("The opposite of hot is [MASK].", {}),
    ("[MASK] is the fourth month of the year.", {}),
    ("Dogs and cats are [MASK], and people keep them at home.", {}),
    ("The children are playing [MASK] the garden", {}),
    ("THE SUN IS A [MASK]!", {}),
    ("Zoë drank a cup of [MASK] in the café.", {}),
    ("He was an English [MASK] (1820–1884) who wrote \"books\".", {}),
    ("Water freezes at [MASK] degrees; it boils at 100°C.", {}),
    ("Unbelievably, the xylophonist's 漢字 were [MASK].", {}),
    ("The [MASK] of Spain is [MASK].", {}),
    ("He lives [MASK] Rome.", {"top_k": 3}),
    ("My [MASK] is a doctor.", {"targets": ["father", "sister", "king"]}),
]


def write(model: pathlib.Path, out: pathlib.Path) -> None:
    fill = transformers.pipeline(
        "fill-mask",
        model=transformers.AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float64),
        tokenizer=transformers.AutoTokenizer.from_pretrained(model),
        device="cpu",
    )
    cases = [
        {"inputs": text, "parameters": parameters, "output": fill(text, **parameters)}
        for text, parameters in INPUTS
    ]
    content = {"transformers": transformers.__version__, "cases": cases}
    out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--model", required=True, type=pathlib.Path)
    args.add_argument("--out", required=True, type=pathlib.Path)
    args = args.parse_args()
    write(args.model, args.out)


if __name__ == "__main__":
    main()

"""Evaluate an exported model folder on the held-out articles and on the everyday sentences.

    python evaluate.py --work WORK --model ..

Held-out text is cut into runs of whole sentences of at most 126 tokens. Top-1, top-5 and the loss are
over 15 % of the tokens, masked 80/10/10. Pseudo-perplexity masks one token at a time, every token
of the first --pseudo runs of a fixed shuffle. cloze.tsv counts a sentence when an accepted answer is
among the five best; `--verbose` prints them all. `--cloze-only` needs no WORK.
"""

import argparse
import csv
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer

from common import CLS, FIRST_WORD, MASK, PAD, SEP, Text, mask

SEED = 20
LENGTH = 128


def logits(model, rows):
    """Logits of equally long or padded rows of token ids."""
    width = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    return model(input_ids=tokens, attention_mask=(tokens != PAD).long()).logits


def masked_accuracy(model, segments):
    rng = np.random.default_rng(SEED)
    flat = np.concatenate(segments)
    masked, picked = mask(flat, 0.15, rng)
    is_picked = np.zeros(len(flat), dtype=bool)
    is_picked[picked] = True
    starts = np.cumsum([0] + [len(s) for s in segments])
    order = np.argsort([len(s) for s in segments], kind="stable")
    loss, first, five, count = 0.0, 0, 0, 0
    hidden = hidden_first = hidden_five = 0
    for at in range(0, len(order), 32):
        chosen = order[at : at + 32]
        out = logits(model, [masked[starts[i] : starts[i + 1]].tolist() for i in chosen])
        for row, i in zip(out, chosen):
            where = np.flatnonzero(is_picked[starts[i] : starts[i + 1]])
            answers = torch.from_numpy(segments[i][where])
            scores = row[where]
            loss += F.cross_entropy(scores, answers, reduction="sum").item()
            hits = scores.topk(5).indices == answers[:, None]
            hid = torch.from_numpy(masked[starts[i] + where] == MASK)
            first += hits[:, 0].sum().item()
            five += hits.any(1).sum().item()
            hidden += hid.sum().item()
            hidden_first += hits[hid, 0].sum().item()
            hidden_five += hits[hid].any(1).sum().item()
            count += len(where)
    print(f"masked tokens    {count}")
    print(f"top-1            {first / count:.2%}   (at [MASK] alone {hidden_first / hidden:.2%})")
    print(f"top-5            {five / count:.2%}   (at [MASK] alone {hidden_five / hidden:.2%})")
    print(f"loss             {loss / count:.4f}")


def pseudo_perplexity(model, segments):
    loss, count = 0.0, 0
    for segment in segments:
        where = np.flatnonzero(segment >= FIRST_WORD)
        rows = np.repeat(segment[None], len(where), axis=0)
        rows[np.arange(len(where)), where] = MASK
        out = model(input_ids=torch.from_numpy(rows)).logits[torch.arange(len(where)), where]
        loss += F.cross_entropy(out, torch.from_numpy(segment[where]), reduction="sum").item()
        count += len(where)
    print(f"pseudo-perplexity {math.exp(loss / count):.2f} over {count} tokens")


def cloze(model, tokenizer, verbose):
    groups, missing = {}, []
    with open(pathlib.Path(__file__).with_name("cloze.tsv"), encoding="utf-8", newline="") as file:
        for entry in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            ids = tokenizer(entry["sentence"]).input_ids
            best = logits(model, [ids])[0, ids.index(MASK)].topk(5).indices
            words = tokenizer.convert_ids_to_tokens(best.tolist())
            accepted = entry["accepted"].split(",")
            right = bool(set(words) & set(accepted))
            groups.setdefault(entry["group"], []).append((right, words[0] in accepted))
            missing += [] if any(w in tokenizer.get_vocab() for w in accepted) else [entry["sentence"]]
            if verbose:
                print("+" if right else "-", entry["sentence"], "|", ", ".join(words))
    everything = [pair for pairs in groups.values() for pair in pairs]
    for name, pairs in [*groups.items(), ("all everyday sentences", everything)]:
        five, first = sum(p[0] for p in pairs), sum(p[1] for p in pairs)
        print(f"{name:<24} {five}/{len(pairs)} in the five, {first}/{len(pairs)} first")
    for sentence in missing:
        print("no accepted answer is one vocabulary entry:", sentence)


@torch.no_grad()
def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--work", type=pathlib.Path)
    args.add_argument("--model", required=True, type=pathlib.Path)
    args.add_argument("--pseudo", type=int, default=30)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--cloze-only", action="store_true")
    args.add_argument("--verbose", action="store_true")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForMaskedLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    if not args.cloze_only:
        text = Text(args.work, "heldout")
        segments = [
            np.concatenate([[CLS], text.tokens[s:e][: LENGTH - 2].astype(np.int64), [SEP]])
            for s, e in text.segments(lambda: LENGTH - 2)
        ]
        print(f"held-out: {len(text.articles) - 1} articles, {len(segments)} runs of text")
        masked_accuracy(model, segments)
        chosen = np.random.default_rng(SEED).permutation(len(segments))[: args.pseudo]
        pseudo_perplexity(model, [segments[i] for i in chosen])
    cloze(model, tokenizer, args.verbose)


if __name__ == "__main__":
    main()

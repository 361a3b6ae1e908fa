"""What Cloze and its peers are measured with, on a card (gpu/) and on a CPU (cpu/): one checkpoint, the same batches, in turns."""

import json
import os
import random
import statistics
import subprocess
import sys
import time

import torch
from transformers import BertForMaskedLM

TOP_K = 5
# How far the best scores of two implementations may be apart, as a part of the score: half precision moves a logit of 18 by some
# hundredths.
TOLERANCE = 0.1
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_checkpoint(folder, config):
    torch.manual_seed(1)
    model = BertForMaskedLM(config)
    # Else all words would be as likely as each other, whatever was computed.
    model.cls.predictions.transform.LayerNorm.weight.data *= 8
    model.save_pretrained(folder)
    vocabulary = SPECIAL + [f"w{index}" for index in range(config.vocab_size - len(SPECIAL))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")


def batch_of(lengths, vocab_size):
    """Token ids with a mask in the middle of each text."""
    draw = random.Random(2)
    texts = [[draw.randrange(len(SPECIAL), vocab_size) for _ in range(length)] for length in lengths]
    masks = [length // 2 for length in lengths]
    for text, mask in zip(texts, masks):
        text[mask] = SPECIAL.index("[MASK]")
    return texts, masks


def flops(config, lengths):
    """Two for each multiply-add that an answer needs: the last layer and the head at the masks alone, no padding."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    tokens, texts = sum(lengths), len(lengths)
    dense = lambda keys, rows: keys * 2 * hidden**2 + rows * (2 * hidden**2 + 2 * hidden * inner)
    attention = sum(2 * length**2 * hidden for length in lengths)
    full = (layers - 1) * (dense(tokens, tokens) + attention)
    last = dense(tokens, texts) + 2 * sum(lengths) * hidden
    return 2 * (full + last + texts * hidden * (hidden + config.vocab_size))


class Cloze:
    """The binary, asked over its standard input."""

    def __init__(self, command, environment={}):
        self.name = "cloze"
        environment = os.environ | environment
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.ready = self.hear()

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"cloze ended with {self.process.wait()}; its reason stands above")
        return json.loads(line)

    def prepare(self, texts, masks):
        self.request = {"texts": texts, "masks": [[mask] for mask in masks]}

    def passes(self, rounds):
        self.process.stdin.write(json.dumps(self.request | {"rounds": rounds}) + "\n")
        self.process.stdin.flush()
        answer = self.hear()
        self.scores = answer["scores"]
        return answer["seconds"]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(contestants, rounds, texts, masks, turn=3, rest=0.0):
    """The median seconds of each, or why there is none. Each turn of some passes begins after `rest` seconds with a pass that does not count:
    threads that wait for work of the turn before look for it busily for a while, and take the others' cores."""
    seconds, failed = {}, {}
    for one in contestants:
        one.prepare(texts, masks)
        try:
            # Compiles and tunes whatever there is to.
            one.passes(3)
            seconds[one.name] = []
        except Exception as error:  # torch.compile needs a compiler of its own, which may be missing
            failed[one.name] = str(error).strip().splitlines()[0]
    running = [one for one in contestants if one.name in seconds]
    for _ in range(rounds):
        for one in running:
            if rest > 0:
                time.sleep(rest)
                one.passes(1)
            seconds[one.name] += one.passes(turn)
    apart = max(abs(a - b) / max(a, b) for one in running[1:] for a, b in zip(running[0].scores, one.scores))
    return {name: statistics.median(times) for name, times in seconds.items()}, failed, apart

"""The parts that the comparisons on a GPU (gpu/) and on a CPU (cpu/) share: checkpoints, batches, timing in turns."""

import json
import os
import random
import statistics
import subprocess
import sys
import time

import tokenizers
import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

TOP_K = 5
# The largest difference of the best scores of two implementations, as a part of the score: half precision moves a logit
# of 18 by some hundredths.
TOLERANCE = 0.1
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ESM_TOKENS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()


def tokens_of(config):
    """The tokens of a vocabulary, its special tokens, and the mask among them."""
    if config.model_type == "esm":
        return ESM_TOKENS, ESM_TOKENS[:4] + ["<mask>"], "<mask>"
    return SPECIAL + [f"w{index}" for index in range(config.vocab_size - len(SPECIAL))], SPECIAL, "[MASK]"


def head_of(model):
    """The module from hidden states to logits."""
    match model.config.model_type:
        case "bert":
            return model.cls
        case "modernbert":
            return torch.nn.Sequential(model.head, model.decoder)
        case "esm":
            return model.lm_head
        case other:
            raise ValueError(f"no head is known for {other}")


def make_checkpoint(folder, config):
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(config)
    # Otherwise all tokens would have almost the same score for any computation.
    for name, parameter in head_of(model).named_parameters():
        if "norm" in name.lower() and name.endswith("weight"):
            parameter.data *= 8
    model.save_pretrained(folder)
    tokens, _, _ = tokens_of(config)
    if config.model_type == "modernbert":
        vocabulary = {token: index for index, token in enumerate(tokens)}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
        names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], SPECIAL))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    else:
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


def batch_of(lengths, config):
    """Token ids with a mask in the middle of each text."""
    tokens, special, mask_token = tokens_of(config)
    ordinary = [index for index, token in enumerate(tokens) if token not in special]
    draw = random.Random(2)
    texts = [[draw.choice(ordinary) for _ in range(length)] for length in lengths]
    masks = [length // 2 for length in lengths]
    for text, mask in zip(texts, masks):
        text[mask] = tokens.index(mask_token)
    return texts, masks


def flops(config, lengths):
    """Two for each multiply-add that an answer needs: the last layer and the head at the masks alone, no padding, and
    of a local layer the keys in the window."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    is_modernbert = config.model_type == "modernbert"
    kinds = config.layer_types if is_modernbert else ["full_attention"] * layers
    tokens, texts = sum(lengths), len(lengths)
    wide = (3 if is_modernbert else 2) * hidden * inner
    keys_of = lambda length, kind: length if kind == "full_attention" else min(length, config.local_attention + 1)
    total = 0
    for layer, kind in enumerate(kinds):
        rows = [1 if layer == layers - 1 else length for length in lengths]
        attention = sum(2 * row * keys_of(length, kind) * hidden for row, length in zip(rows, lengths))
        total += tokens * 2 * hidden**2 + sum(rows) * (2 * hidden**2 + wide) + attention
    return 2 * (total + texts * hidden * (hidden + config.vocab_size))


class Cloze:
    """The bench target `passes`, which reads requests on its standard input."""

    def __init__(self, command, environment={}):
        self.name = "cloze"
        environment = os.environ | environment
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.ready = self.hear()

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"cloze ended with {self.process.wait()}; the reason is above")
        return json.loads(line)

    def prepare(self, texts, masks):
        self.request = {"texts": texts, "masks": [[mask] for mask in masks]}

    def passes(self, rounds):
        self.process.stdin.write(json.dumps(self.request | {"rounds": rounds}) + "\n")
        self.process.stdin.flush()
        answer = self.hear()
        self.scores = answer["scores"]
        return answer["seconds"]

    def peak_memory(self):
        """Bytes of the process at most so far; Linux only."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(contestants, rounds, texts, masks, turn=3, rest=0.0, warm=3):
    """The median seconds of each, or the reason why there is none. After `rest` seconds each turn of some passes begins
    with a pass that does not count: threads that wait for work of the turn before look for it busily for a while, and
    take the others' cores."""
    seconds, failed = {}, {}
    for one in contestants:
        try:
            one.prepare(texts, masks)
            # Includes compilation and tuning.
            one.passes(warm)
            seconds[one.name] = []
        # torch.compile needs a compiler of its own, which may be missing; OpenVINO has no kernels for some instruction sets.
        except Exception as error:
            failed[one.name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    running = [one for one in contestants if one.name in seconds]
    for _ in range(rounds):
        for one in running:
            if rest > 0:
                time.sleep(rest)
                one.passes(1)
            seconds[one.name] += one.passes(turn)
    pairs = [(a, b) for one in running[1:] for a, b in zip(running[0].scores, one.scores)]
    apart = max((abs(a - b) / max(a, b) for a, b in pairs), default=0.0)
    return {name: statistics.median(times) for name, times in seconds.items()}, failed, apart

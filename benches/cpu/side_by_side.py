"""Cloze beside OpenVINO and PyTorch on the same CPU, in one run.

    cargo build --release --bench passes
    pip install -r benches/cpu/requirements.txt
    python benches/cpu/side_by_side.py --passes target/release/deps/passes-...

All load one checkpoint of bert-base's sizes with random weights, since speed does not depend on their values, and are timed in
turn, a few passes each, so that whatever disturbs one disturbs all. Everybody computes the head at the masks alone and uses two
threads. Peers end with the logits of the masks; Cloze goes on to the five likeliest tokens. OpenVINO is compiled for each
shape, and its 8-bit model comes from nncf, with scales of activations fixed by eight batches of random ids.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import nncf
import numpy as np
import openvino
import torch
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from peers import TOLERANCE, Cloze, batch_of, flops, make_checkpoint, measure

SHAPES = ["1x16", "1x128", "8x32", "8x128", "32x128", "1x512", "8x512"]
DTYPES = ["f32", "bf16", "int8"]
# Seconds after which OpenMP's threads have gone to sleep (200 ms unless told otherwise).
REST = 0.3
# As peers.TOLERANCE. Random weights are less patient with rounding than those of a model, and in 8 bits too little for a limit: the
# products are rounded in other places on each side.
TOLERANCES = {"f32": TOLERANCE, "bf16": 0.5, "int8": math.inf}


class AtMasks(torch.nn.Module):
    """The logits of one mask a text; no text has padding, so that there is nothing to leave out."""

    def __init__(self, model):
        super().__init__()
        self.bert, self.head = model.bert, model.cls

    def forward(self, ids, masks):
        hidden = self.bert(input_ids=ids).last_hidden_state
        return self.head(hidden[torch.arange(ids.shape[0]), masks])


class Peer:
    """A pass is `self.logits()`; what it needs is prepared before."""

    def prepare(self, texts, masks):
        self.ids, self.masks = np.array(texts), np.array(masks)
        self.begin()

    def passes(self, rounds):
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            logits = self.logits()
            seconds.append(time.perf_counter() - started)
        logits = np.array(logits, dtype=np.float64)
        self.scores = (1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)).tolist()
        return seconds

    def end(self):
        pass


class OpenVino(Peer):
    name = "openvino"

    def __init__(self, model, dtype, threads):
        self.model = model
        # In 8 bits, all that is not is left to it.
        precision = {} if dtype == "int8" else {"INFERENCE_PRECISION_HINT": dtype}
        self.settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads} | precision

    def begin(self):
        model = self.model.clone()
        model.reshape({model.input(0): list(self.ids.shape), model.input(1): list(self.masks.shape)})
        self.request = openvino.compile_model(model, "CPU", self.settings).create_infer_request()

    def logits(self):
        return self.request.infer([self.ids, self.masks], share_inputs=True, share_outputs=True)[0]


class Torch(Peer):
    def __init__(self, name, model, dtype):
        self.name = name
        self.model = model.to({"f32": torch.float32, "bf16": torch.bfloat16}[dtype])

    def begin(self):
        self.inputs = torch.from_numpy(self.ids), torch.from_numpy(self.masks)

    @torch.inference_mode()
    def logits(self):
        return self.model(*self.inputs).float().numpy()


def exported(model, dtype, config):
    """A model of OpenVINO's for any shape."""
    example = torch.randint(5, config.vocab_size, (2, 24)), torch.tensor([3, 5])
    with torch.inference_mode():
        converted = openvino.convert_model(model, example_input=example, input=[("ids", [-1, -1]), ("masks", [-1])])
    if dtype == "int8":
        draw = np.random.default_rng(0)
        batches = [[draw.integers(5, config.vocab_size, (2, 64)), np.array([9, 40])] for _ in range(8)]
        converted = nncf.quantize(
            converted, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches)
        )
    return converted


def contestants(arguments, folder, dtype, config):
    # `passes` takes as many threads as there are cores that it may use.
    found = [Cloze([arguments.passes, str(folder), "cpu", "--dtype", dtype])]
    if arguments.before:
        found.append(Cloze([arguments.before, str(folder), "cpu", "--dtype", dtype]))
        found[-1].name = "before"
    if arguments.no_peers:
        return found
    # Written-out attention is what OpenVINO knows to fuse.
    load = lambda attention: AtMasks(BertForMaskedLM.from_pretrained(folder, attn_implementation=attention)).eval()
    found.append(OpenVino(exported(load("eager"), dtype, config), dtype, arguments.threads))
    if dtype != "int8":
        found.append(Torch("pytorch", load("sdpa"), dtype))
        if arguments.compile:
            found.append(Torch("compiled", torch.compile(load("sdpa"), dynamic=False), dtype))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", required=True, help="the bench target `passes`, built")
    parser.add_argument("--before", help="the same target of an older commit, timed in turn with the others")
    parser.add_argument("--no-peers", action="store_true", help="only Cloze and --before")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="texts x tokens")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=5, help="of 3 to 30 passes each, the shorter the more")
    parser.add_argument("--compile", action="store_true", help="PyTorch through torch.compile too: minutes more")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, to see that it runs")
    arguments = parser.parse_args()
    arguments.threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    nncf.set_log_level("ERROR")
    small = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=1000)
    config = BertConfig(**(small if arguments.dry_run else {}))
    print(f"openvino {openvino.__version__.split('-')[0]}, torch {torch.__version__}; {arguments.threads} threads each")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_checkpoint(folder, config)
        for dtype in arguments.dtypes:
            running = contestants(arguments, folder, dtype, config)
            print(f"\n{dtype}; cloze on {running[0].ready['device']}")
            for shape in arguments.shapes:
                count, length = map(int, shape.split("x"))
                lengths = [length] * count
                batch = batch_of(lengths, config.vocab_size)
                # Short passes often enough that the caches hold what they hold in a busy server.
                turn = min(30, max(3, 2048 // sum(lengths)))
                medians, failed, apart = measure(running, arguments.rounds, *batch, turn=turn, rest=REST)
                rate = flops(config, lengths) / medians["cloze"] / 1e9
                print(f"  {shape:7} best scores {apart:.1%} apart at most, cloze at {rate:.0f} GFLOP/s")
                if apart > TOLERANCES[dtype]:
                    sys.exit("they do not compute the same: no figure means anything")
                for name, median in medians.items():
                    print(f"    {name:9} {median * 1e3:9.2f} ms   cloze is {median / medians['cloze']:5.2f}x as fast")
                for name, reason in failed.items():
                    print(f"    {name:9} did not run: {reason}")
            for one in running:
                one.end()


if __name__ == "__main__":
    main()

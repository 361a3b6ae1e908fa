"""Cloze beside OpenVINO and PyTorch on the same CPU, in one run.

    cargo build --release --bench passes
    pip install -r benches/cpu/requirements.txt
    python benches/cpu/side_by_side.py --passes target/release/deps/passes-...

Each loads one checkpoint with random weights, since speed does not depend on their values, and is timed in turn with the
others, some passes at a time, so that a disturbance meets all. Each computes the head at the masks alone and uses all
cores that the process may use. The peers end with the logits of the masks; Cloze goes on to the five likeliest tokens.
OpenVINO is compiled for each shape, and its 8-bit model comes from nncf, with scales of activations fixed by eight
batches of random ids. The shape `mixed` has texts of many lengths: the peers pad them, with an attention mask.
`--model` selects the sizes, for example those of ModernBERT-base or ESM-2. Peak memory is that of the process of Cloze.
"""

import argparse
import atexit
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nncf
import numpy as np
import openvino
import torch
from transformers import AutoModelForMaskedLM, BertConfig, EsmConfig, ModernBertConfig
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from peers import ESM_TOKENS, TOLERANCE, Cloze, batch_of, flops, head_of, make_checkpoint, measure

MIXED = [16, 512, 33, 128, 250, 64, 8, 100]
SHAPES = ["1x16", "1x128", "8x32", "8x128", "32x128", "1x512", "8x512"]
DTYPES = ["f32", "bf16", "int8"]
# Seconds after which OpenMP's threads sleep (200 ms by default).
REST = 0.3
# As peers.TOLERANCE. Rounding moves the scores of random weights more than those of a model, and in 8 bits too much for a
# limit: the products are rounded in other places on each side.
TOLERANCES = {"f32": TOLERANCE, "bf16": 0.5, "int8": math.inf}


def esm2(layers, hidden):
    ids = dict(pad_token_id=ESM_TOKENS.index("<pad>"), mask_token_id=ESM_TOKENS.index("<mask>"))
    sizes = dict(hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, num_attention_heads=20)
    options = dict(position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False)
    return EsmConfig(vocab_size=len(ESM_TOKENS), max_position_embeddings=8194, **ids, **sizes, **options)


MODELS = {
    "bert-base": lambda: BertConfig(),
    "modernbert-base": lambda: ModernBertConfig(pad_token_id=0),
    "esm2-35m": lambda: esm2(12, 480),
    "esm2-650m": lambda: esm2(33, 1280),
}


def shrink(config):
    """Tiny sizes, to see that a script runs."""
    config.hidden_size, config.intermediate_size, config.num_attention_heads = 128, 256, 4
    config.num_hidden_layers = 2
    if config.model_type == "modernbert":
        config.layer_types = config.layer_types[:2]
    if config.model_type != "esm":
        config.vocab_size = 1000


class AtMasks(torch.nn.Module):
    """The logits of one mask a text. Texts of one length need no attention mask."""

    def __init__(self, model):
        super().__init__()
        self.base, self.head = model.base_model, head_of(model)

    def forward(self, ids, masks, attended=None):
        hidden = self.base(input_ids=ids, attention_mask=attended).last_hidden_state
        return self.head(hidden[torch.arange(ids.shape[0]), masks])


class Peer:
    """A pass is `self.logits()`, after `self.begin()`."""

    def prepare(self, texts, masks):
        longest = max(map(len, texts))
        ids = np.array([text + [self.padding] * (longest - len(text)) for text in texts])
        self.inputs = [ids, np.array(masks)]
        if any(len(text) < longest for text in texts):
            self.inputs.append(np.array([[1] * len(text) + [0] * (longest - len(text)) for text in texts]))
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

    def __init__(self, model, dtype, threads, config):
        self.model, self.dtype, self.config, self.padding = model, dtype, config, config.pad_token_id
        # In 8 bits the precision of all other operations is OpenVINO's choice.
        precision = {} if dtype == "int8" else {"INFERENCE_PRECISION_HINT": dtype}
        self.settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads} | precision
        self.exported = {}

    def begin(self):
        count = len(self.inputs)
        if count not in self.exported:
            self.exported[count] = exported(self.model, self.dtype, self.config, count)
        model = self.exported[count].clone()
        model.reshape({input: list(values.shape) for input, values in zip(model.inputs, self.inputs)})
        self.request = openvino.compile_model(model, "CPU", self.settings).create_infer_request()

    def logits(self):
        return self.request.infer(self.inputs, share_inputs=True, share_outputs=True)[0]


class Torch(Peer):
    def __init__(self, name, model, dtype, config):
        self.name, self.padding = name, config.pad_token_id
        self.model = model.to({"f32": torch.float32, "bf16": torch.bfloat16}[dtype])

    def begin(self):
        self.tensors = [torch.from_numpy(values) for values in self.inputs]

    @torch.inference_mode()
    def logits(self):
        return self.model(*self.tensors).float().numpy()


def exported(model, dtype, config, inputs):
    """A model of OpenVINO's for any shape, with or without an attention mask."""
    # Longer than a window of local attention: the trace of a shorter text has no window.
    size = (2, 200)
    example = (torch.randint(5, config.vocab_size, size), torch.tensor([3, 5]), torch.ones(size, dtype=torch.long))
    shapes = [("ids", [-1, -1]), ("masks", [-1]), ("attended", [-1, -1])]
    with torch.inference_mode():
        converted = openvino.convert_model(model, example_input=example[:inputs], input=shapes[:inputs])
    if dtype == "int8":
        draw = np.random.default_rng(0)
        ids = lambda: draw.integers(5, config.vocab_size, (2, 64))
        batches = [[ids(), np.array([9, 40]), np.ones((2, 64), dtype=np.int64)][:inputs] for _ in range(8)]
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
    load = lambda attention: AtMasks(
        AutoModelForMaskedLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)
    ).eval()
    # OpenVINO fuses attention that is written out.
    found.append(OpenVino(load("eager"), dtype, arguments.threads, config))
    if dtype != "int8" and not arguments.no_pytorch:
        found.append(Torch("pytorch", load("sdpa"), dtype, config))
        if arguments.compile:
            found.append(Torch("compiled", torch.compile(load("sdpa"), dynamic=False), dtype, config))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", required=True, help="the bench target `passes`, built")
    parser.add_argument("--before", help="the same target of an older commit, timed in turn with the others")
    parser.add_argument("--no-peers", action="store_true", help="only Cloze and --before")
    parser.add_argument("--model", choices=MODELS, default="bert-base", help="the sizes of this model")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help='texts x tokens, or "mixed"')
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=5, help="of 3 to 30 passes each, the shorter the more")
    parser.add_argument("--checkpoint", help="a folder to keep the checkpoint in, or with one of an earlier run")
    parser.add_argument("--no-pytorch", action="store_true", help="only Cloze and OpenVINO")
    parser.add_argument("--neighbour", type=int, metavar="NICE", help="run a busy process with this nice value beside them")
    parser.add_argument("--few", action="store_true", help="one pass a round for shapes of 512 tokens or more")
    parser.add_argument("--compile", action="store_true", help="PyTorch through torch.compile too: minutes more")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, to see that it runs")
    arguments = parser.parse_args()
    arguments.threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    nncf.set_log_level("ERROR")
    if arguments.neighbour is not None:
        busy = [sys.executable, "-c", f"import os\nos.nice({arguments.neighbour})\nwhile True: pass"]
        atexit.register(subprocess.Popen(busy).kill)
    config = MODELS[arguments.model]()
    if arguments.dry_run:
        shrink(config)
    print(f"openvino {openvino.__version__.split('-')[0]}, torch {torch.__version__}; {arguments.threads} threads each")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(arguments.checkpoint or folder)
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_checkpoint(folder, config)
        for dtype in arguments.dtypes:
            running = contestants(arguments, folder, dtype, config)
            print(f"\n{dtype}; cloze on {running[0].ready['device']}")
            for shape in arguments.shapes:
                lengths = MIXED
                if shape != "mixed":
                    count, length = map(int, shape.split("x"))
                    lengths = [length] * count
                batch = batch_of(lengths, config)
                # More passes of short shapes, so that the caches hold what they hold in a busy server.
                turn, warm, rest = min(30, max(3, 2048 // sum(lengths))), 3, REST
                if arguments.few and sum(lengths) >= 512:
                    turn, warm, rest = 1, 1, 0.0
                medians, failed, apart = measure(running, arguments.rounds, *batch, turn=turn, rest=rest, warm=warm)
                rate = flops(config, lengths) / medians["cloze"] / 1e9
                print(f"  {shape:7} best scores {apart:.1%} apart at most, cloze at {rate:.0f} GFLOP/s")
                if apart > TOLERANCES[dtype]:
                    sys.exit("they do not compute the same: no figure means anything")
                for name, median in medians.items():
                    print(f"    {name:9} {median * 1e3:9.2f} ms   cloze is {median / medians['cloze']:5.2f}x as fast")
                for name, reason in failed.items():
                    print(f"    {name:9} did not run: {reason}")
            print(f"  peak memory of cloze {running[0].peak_memory() / 2**20:.0f} MiB")
            for one in running:
                one.end()


if __name__ == "__main__":
    main()

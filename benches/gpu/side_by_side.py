"""Cloze beside PyTorch on the same GPU, in one run.

Both load one checkpoint of bert-base's sizes with random weights, since speed does not depend on their values, and are
timed in turn, a few passes each, so that a disturbance reaches all. A pass takes token ids on the host and ends
with the five likeliest tokens of each mask on the host. PyTorch pads to the longest text, as transformers does; Cloze packs.
"""

import argparse
import collections
import json
import random
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from peers import TOLERANCE, TOP_K, Cloze, batch_of, flops, make_checkpoint, measure

def shapes(dry_run):
    """The lengths of the texts of each batch, and a mixed one as a service meets it."""
    fixed = [(1, 16), (2, 32)] if dry_run else [(1, 16), (8, 128), (32, 128), (8, 512)]
    texts, longest = (6, 40) if dry_run else (64, 200)
    mixed = [random.Random(1).randint(5, longest) for _ in range(texts)]
    named = {f"{count}x{length}": [length] * count for count, length in fixed}
    return named | {f"mixed, {texts} of 5-{longest}": mixed}


UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
LAUNCH = re.compile(r"^\| ([0-9.]+)(ns|µs|ms|s) *\| (\w+)", re.MULTILINE)


def kernels(command, log, texts, masks):
    """How many launches of each kernel a pass of Cloze has, and their seconds, by CubeCL's clock: each is waited for."""
    cloze = Cloze(command, {"CUBECL_DEBUG_OPTION": "profile-medium", "CUBECL_DEBUG_LOG": str(log)})
    cloze.prepare(texts, masks)
    # Compiles and tunes.
    cloze.passes(3)
    written = -1
    while written != log.stat().st_size:
        written = log.stat().st_size
        time.sleep(1)
    cloze.passes(1)
    cloze.end()
    found = collections.defaultdict(lambda: [0, 0.0])
    for number, unit, name in LAUNCH.findall(log.read_bytes()[written:].decode()):
        found[name][0] += 1
        found[name][1] += float(number) * UNITS[unit]
    return dict(found)


class Torch:
    """transformers as it comes, or through torch.compile."""

    def __init__(self, name, model, device):
        self.name, self.model, self.device = name, model, device

    def prepare(self, texts, masks):
        longest = max(map(len, texts))
        self.ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        self.attended = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
        self.rows, self.masks = torch.arange(len(texts)), torch.tensor(masks)

    @torch.inference_mode()
    def one(self):
        ids, attended = self.ids.to(self.device), self.attended.to(self.device)
        logits = self.model(input_ids=ids, attention_mask=attended).logits
        best = logits[self.rows, self.masks].float().softmax(-1).topk(TOP_K)
        return best.values.cpu(), best.indices.cpu()

    def passes(self, rounds):
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            scores, _ = self.one()
            seconds.append(time.perf_counter() - started)
        self.scores = scores[:, 0].tolist()
        return seconds

    def end(self):
        pass


def matmul_rate(device, dtype, size):
    """Multiply-adds a second, times two, of PyTorch's own product of two square matrices."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds)


def command_of(arguments, folder):
    cloze = [arguments.passes, str(folder), arguments.backend]
    if arguments.gpu_device:
        cloze += ["--gpu-device", arguments.gpu_device]
    if arguments.dtype:
        cloze += ["--dtype", arguments.dtype]
    return cloze


def contenders(arguments, folder, device, dtype):
    cloze = command_of(arguments, folder)
    load = lambda: BertForMaskedLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval().to(device)
    found = [Cloze(cloze), Torch("eager", load(), device)]
    compiled = torch.compile(load(), mode=arguments.compile_mode, dynamic=False)
    found.append(Torch("compiled", compiled, device))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", required=True, help="the bench target `passes`, built")
    parser.add_argument("--backend", default="gpu", choices=["gpu", "cpu"], help="of Cloze")
    parser.add_argument("--gpu-device", help="of Cloze; PyTorch takes cuda:0")
    parser.add_argument("--dtype", help="of Cloze; its best for the device if left out")
    parser.add_argument("--compile-mode", default="default", help="of torch.compile")
    parser.add_argument("--rounds", type=int, default=20, help="of three passes each")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on any device, to see that it runs")
    arguments = parser.parse_args()
    logging.disable_progress_bar()

    if not arguments.dry_run and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device; --dry-run tries everything but the GPU")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    small = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=1000)
    config = BertConfig(**(small if arguments.dry_run else {}))
    rounds = 2 if arguments.dry_run else arguments.rounds
    gpu = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    print(f"pytorch    {torch.__version__} on {gpu}, {str(dtype).removeprefix('torch.')}, sdpa, eager and compiled")
    rate = matmul_rate(device, dtype, 512 if arguments.dry_run else 8192)
    print(f"products   {rate / 1e12:.3g} TFLOP/s, as PyTorch multiplies large matrices on {gpu}")
    if arguments.dry_run:
        print("           A DRY RUN: the sizes are tiny and the figures say nothing")

    results = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_checkpoint(folder, config)
        contestants = contenders(arguments, folder, device, dtype)
        ready = contestants[0].ready
        print(f"cloze      {ready['device']}")
        if ready["warning"]:
            print(f"           {ready['warning']}")
        for shape, lengths in shapes(arguments.dry_run).items():
            medians, failed, apart = measure(contestants, rounds, *batch_of(lengths, config))
            print(f"\n{shape}: {sum(lengths)} tokens, best scores {apart:.2%} apart at most")
            if apart > TOLERANCE:
                sys.exit("they do not compute the same: no figure means anything")
            for name, median in medians.items():
                share = flops(config, lengths) / median / rate
                ratio = median / medians["cloze"]
                print(f"  {name:9} {median * 1e3:9.3f} ms   {share:6.1%} of the products' rate   cloze is {ratio:5.2f}x as fast")
            for name, reason in failed.items():
                print(f"  {name:9} did not run: {reason}")
            results.append({"shape": shape, "tokens": sum(lengths), "median_seconds": medians, "failed": failed})
        for one in contestants:
            one.end()
        if arguments.backend == "gpu":
            # Apart from the rest, since who looks at the clock after every launch is slower.
            print("\nwhere Cloze's time goes, each launch by itself")
            for index, (shape, lengths) in enumerate(shapes(arguments.dry_run).items()):
                batch = batch_of(lengths, config)
                found = kernels(command_of(arguments, folder), folder / f"{index}.log", *batch)
                launches, seconds = (sum(of[part] for of in found.values()) for part in (0, 1))
                print(f"  {shape}: {launches} launches, {seconds * 1e3:.3f} ms of the {results[index]['median_seconds']['cloze'] * 1e3:.3f}")
                for name, (count, of_name) in sorted(found.items(), key=lambda of: -of[1][1]):
                    print(f"    {name:20} {count:4} launches {of_name * 1e3:9.3f} ms {of_name / seconds:6.1%}")
                results[index]["kernels"] = {name: {"launches": of[0], "seconds": of[1]} for name, of in found.items()}
    if arguments.out:
        figures = {"gpu": gpu, "torch": torch.__version__, "matmul_flops": rate, "dry_run": arguments.dry_run, "results": results}
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

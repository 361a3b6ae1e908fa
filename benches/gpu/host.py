"""Launches of a pass, and the processor time that the host takes for one: of the thread that calls Cloze, and of CubeCL's
thread, which submits to the driver. On a software driver the other threads compute.

    python3 benches/gpu/host.py --passes target/release/deps/passes-… --dtype f16
"""

import argparse
import collections
import sys
import tempfile
from pathlib import Path

from transformers import BertConfig
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from peers import Cloze, batch_of, make_checkpoint
from side_by_side import command_of, kernels


def processor_seconds(process):
    """The seconds of each thread of a process so far, by its name; Linux only."""
    seconds = collections.Counter()
    for thread in Path(f"/proc/{process}/task").iterdir():
        seconds[(thread / "comm").read_text().strip()] += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", required=True, help="the bench target `passes`, built")
    parser.add_argument("--gpu-device", help="of Cloze")
    parser.add_argument("--dtype", help="of Cloze; its best for the device if left out")
    parser.add_argument("--rounds", type=int, default=20, help="passes")
    parser.add_argument("--tokens", type=int, default=16, help="of the text")
    parser.add_argument("--hidden", type=int, default=768, help="width; bert-base has 768 and 12 layers")
    parser.add_argument("--layers", type=int, default=12)
    arguments = parser.parse_args()
    arguments.backend = "gpu"
    logging.disable_progress_bar()

    sizes = dict(hidden_size=arguments.hidden, intermediate_size=4 * arguments.hidden, num_hidden_layers=arguments.layers)
    config = BertConfig(**sizes, num_attention_heads=max(arguments.hidden // 64, 1))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_checkpoint(folder, config)
        batch = batch_of([arguments.tokens], config)
        cloze = Cloze(command_of(arguments, folder))
        print(f"{cloze.ready['device']}, {cloze.ready['dtype']}")
        cloze.prepare(*batch)
        cloze.passes(3)
        before = processor_seconds(cloze.process.pid)
        elapsed = sum(cloze.passes(arguments.rounds)) / arguments.rounds
        used = processor_seconds(cloze.process.pid)
        used.subtract(before)
        cloze.end()
        print(f"a pass takes {elapsed * 1e3:.2f} ms, and of the processor")
        for name, seconds in used.most_common():
            if seconds > 0:
                print(f"  {name:16} {seconds / arguments.rounds * 1e3:8.3f} ms")
        found = kernels(command_of(arguments, folder), folder / "log", *batch)
        print(f"{sum(count for count, _ in found.values())} launches")
        for name, (count, _) in sorted(found.items(), key=lambda of: -of[1][0]):
            print(f"  {name:32} {count:4}")


if __name__ == "__main__":
    main()

"""Where more cores and more workers stop helping: texts' tokens a second of bert-base's encoder, on paper.

    python3 tools/workers.py [GB/s of the machine]

A layer's product is cut into tasks of some panels of 32 outputs, so more threads than tasks find nothing to do. Every
worker reads all weights once for each of its batches, and the workers share the memory and the texts that wait.
"""

import math
import sys

BANDWIDTH = float(sys.argv[1]) * 1e9 if len(sys.argv) > 1 else 30e9
# One core's; and what a task hand-over takes. Measured, see performance.md.
CORE_BANDWIDTH, HAND_OVER = 15e9, 2e-6
# Operations a second that a core reached at 8 texts of 128 tokens, and bytes of a weight.
DTYPES = {"f32": (83e9, 4), "bf16": (150e9, 2), "int8": (250e9, 1)}
# Outputs and inputs: query, key and value, attention's output, feed-forward up and down.
LAYERS = [(768, 768), (1536, 768), (768, 768), (3072, 768), (768, 3072)]
GROUP_BYTES = 512 * 1024


def tokens_a_second(dtype, cores, workers, waiting):
    speed, bytes_each = DTYPES[dtype]
    threads, tokens = cores // workers, waiting / workers
    seconds = 0
    for outputs, inputs in LAYERS:
        panels = outputs // 32
        group = max(1, min(GROUP_BYTES // (inputs * 32 * bytes_each), math.ceil(panels / (4 * threads))))
        rounds = math.ceil(math.ceil(panels / group) / threads)
        computing = rounds * group * 32 * inputs * 2 * tokens / speed
        reading = outputs * inputs * bytes_each / min(BANDWIDTH / workers, CORE_BANDWIDTH * threads)
        seconds += max(computing, reading) + HAND_OVER
    return waiting / (12 * seconds)


print(f"{BANDWIDTH / 1e9:.0f} GB/s; tokens a second with 1, 2, 4 and 8 workers")
for dtype in DTYPES:
    for waiting in (64, 2048):
        for cores in (2, 8, 16, 32, 64):
            row = [tokens_a_second(dtype, cores, w, waiting) for w in (1, 2, 4, 8) if w <= cores]
            print(f"{dtype:5} {waiting:5} tokens wait, {cores:3} cores:", *(f"{rate:7.0f}" for rate in row))

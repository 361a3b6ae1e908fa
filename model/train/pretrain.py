"""Pretrain the demo model by filling masks.

    python pretrain.py --work WORK                        # stable phase, until stopped or --minutes
    python pretrain.py --work WORK --decay-steps 1500     # from the stable checkpoint, to the end

(or --decay-minutes, to end in time on a machine whose speed is not known).

The learning rate warms up, stays, and falls to zero in a separate last phase. The stable phase keeps
WORK/stable.pt (weights, optimizer state, average, place in the data; every --save-minutes and at
SIGTERM or SIGINT) and goes on from it when started again. The decay phase starts from that file,
leaves it as it is and writes WORK/decayed.pt. Every step draws from a generator seeded by its number
alone, so a run that goes on sees what an uninterrupted one would have seen.

Every worker thread computes whole small parts of a batch on one core and takes the next part when it
is done. On a busy machine this is several times faster than PyTorch's own threads, which wait for
each other in every operation.
"""

import argparse
import os
import pathlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch.nn.functional as F

from common import CLS, PAD, SEP, Model, Text, attention_bias, mask, model_state

SEED = 7
BATCH_TOKENS = 8192
PARTS = 4  # of a batch, worked on at the same time
SHORT, LONG = 128, 256  # tokens a row
LONG_SHARE = 0.08  # share of the articles cut for long rows
MASK_RATE, DECAY_MASK_RATE = 0.25, 0.15
MUON_RATE, MUON_MOMENTUM, MUON_DECAY = 0.02, 0.95, 0.02
ADAM_RATE, ADAM_DECAY = 2e-3, 0.01
COMPUTE = torch.bfloat16  # of products; f32 where the CPU has no bf16 instructions is twice as fast
WARM_UP = 150  # steps
AVERAGE_EVERY, AVERAGE_KEEP = 10, 0.98


# --- data ---------------------------------------------------------------------------------------


def pack(segments, row):
    """Put shuffled segments into rows: each into the fullest open row that still holds it."""
    rows, open_rows = [], []
    for segment in segments:
        need = segment[1] - segment[0] + 2
        best = None
        for i, (room, _) in enumerate(open_rows):
            if need <= room and (best is None or room < open_rows[best][0]):
                best = i
        if best is None:
            open_rows.append((row - need, [segment]))
            if len(open_rows) > 24:
                fullest = min(range(len(open_rows)), key=lambda i: open_rows[i][0])
                rows.append(open_rows.pop(fullest)[1])
        else:
            room, held = open_rows[best]
            held.append(segment)
            if room - need < 8:
                rows.append(held)
                open_rows.pop(best)
            else:
                open_rows[best] = (room - need, held)
    return rows + [held for _, held in open_rows]


class Epoch:
    """One pass over the text in batches of BATCH_TOKENS, cut and shuffled anew."""

    def __init__(self, text: Text, number: int):
        self.text = text
        rng = np.random.default_rng([SEED, 1, number])
        long_article = rng.random(len(text.articles) - 1) < LONG_SHARE
        first_tokens = text.sentences[text.articles[:-1]]
        draws = iter(rng.random(4 * len(text.sentences)).tolist())

        def length():
            draw = next(draws)
            return 1 if draw < 0.5 else 60 if draw < 0.7 else SHORT - 2

        cuts = {SHORT: text.segments(length), LONG: text.segments(lambda: LONG - 2)}
        self.batches = []
        for row, segments in cuts.items():
            article = np.searchsorted(first_tokens, [s for s, _ in segments], side="right") - 1
            wanted = long_article[article] == (row == LONG)
            segments = [
                (s, min(e, s + row - 2)) for (s, e), ok in zip(segments, wanted.tolist()) if ok
            ]
            rows = pack([segments[i] for i in rng.permutation(len(segments))], row)
            rows = [rows[i] for i in rng.permutation(len(rows))]
            size = BATCH_TOKENS // row
            self.batches += [(row, rows[i : i + size]) for i in range(0, len(rows) - size + 1, size)]
        self.batches = [self.batches[i] for i in rng.permutation(len(self.batches))]

    def batch(self, index):
        row, rows = self.batches[index]
        tokens = np.full((len(rows), row), PAD, dtype=np.int64)
        positions = np.zeros_like(tokens)
        segment = np.full(tokens.shape, -1, dtype=np.int64)
        for r, held in enumerate(rows):
            at = 0
            for number, (start, end) in enumerate(held):
                stop = at + end - start + 2
                tokens[r, at] = CLS
                tokens[r, at + 1 : stop - 1] = self.text.tokens[start:end]
                tokens[r, stop - 1] = SEP
                positions[r, at:stop] = np.arange(stop - at)
                segment[r, at:stop] = number
                at = stop
        return tokens, positions, segment


# --- optimizer ----------------------------------------------------------------------------------


def orthogonalize(g, steps=5):
    """Newton-Schulz iteration of Muon on a stack of matrices with rows <= columns."""
    x = (g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(COMPUTE)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315) @ x
    return x.float()


class Muon:
    def __init__(self, model):
        square = [model.transform] + [m for y in model.layers for m in (*y.qkv.unbind(0), y.out)]
        self.groups = [
            (square, False, 1.0),
            ([y.up for y in model.layers], True, 2.0),  # scale: sqrt(rows / columns)
            ([y.down for y in model.layers], False, 1.0),
        ]
        self.leaves = [model.transform] + [p for y in model.layers for p in (y.qkv, y.out, y.up, y.down)]
        self.model = model
        self.momentum = [torch.zeros(len(ms), *ms[0].shape) for ms, _, _ in self.groups]

    def gradients(self):
        m = self.model
        square = [m.transform.grad] + [
            g for y in m.layers for g in (*y.qkv.grad.unbind(0), y.out.grad)
        ]
        return [square, [y.up.grad for y in m.layers], [y.down.grad for y in m.layers]]

    @torch.no_grad()
    def update(self, group, momentum, grads, rate):
        matrices, tall, scale = group
        grad = torch.stack(grads)
        momentum.lerp_(grad, 1 - MUON_MOMENTUM)
        update = grad.lerp(momentum, MUON_MOMENTUM)
        update = orthogonalize(update.mT).mT if tall else orthogonalize(update)
        for matrix, u in zip(matrices, update):
            matrix.data.mul_(1 - rate * MUON_DECAY).add_(u, alpha=-rate * scale)

    def tasks(self, rate):
        """The update as independent calls, the longest first."""
        calls = zip(self.groups, self.momentum, self.gradients())
        return [lambda call=call: self.update(*call, rate) for call in calls]


# --- training -----------------------------------------------------------------------------------


class Run:
    def __init__(self, threads):
        torch.set_num_threads(1)
        torch.manual_seed(SEED)
        self.pool = ThreadPoolExecutor(threads)
        self.model = Model()
        # What the products are computed with: matrices in COMPUTE; vectors, and all that is summed up, in f32.
        self.compute = Model()
        for parameter in self.compute.parameters():
            parameter.data = parameter.data.to(COMPUTE if parameter.ndim > 1 else torch.float32)
        self.muon = Muon(self.model)
        mine = {id(p) for p in self.muon.leaves}
        rest = [p for p in self.model.parameters() if id(p) not in mine]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": ADAM_DECAY},
            {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=ADAM_RATE, betas=(0.9, 0.98), eps=1e-8, fused=True)
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.steps, self.tokens, self.epoch, self.batch = 0, 0, 0, 0

    def save(self, path):
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "muon": self.muon.momentum,
            "adam": self.adam.state_dict(),
            "place": (self.steps, self.tokens, self.epoch, self.batch),
        }
        torch.save(state, f"{path}.new")
        os.replace(f"{path}.new", path)

    def load(self, path):
        state = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.muon.momentum = state["muon"]
        self.adam.load_state_dict(state["adam"])
        self.steps, self.tokens, self.epoch, self.batch = state["place"]

    def part(self, tokens, positions, segments, masked, total):
        """The gradients of one part of a batch in which `total` places are picked."""
        picked = np.flatnonzero(masked >= 0)
        answers = torch.from_numpy(tokens.reshape(-1)[picked])
        inputs = (
            torch.from_numpy(np.where(masked < 0, tokens.reshape(-1), masked).reshape(tokens.shape)),
            torch.from_numpy(positions),
            attention_bias(torch.from_numpy(segments)).to(COMPUTE),
            torch.from_numpy(picked),
        )
        logits = self.compute(*inputs)
        loss = F.cross_entropy(logits, answers, reduction="sum") / total
        return loss.item(), torch.autograd.grad(loss, list(self.compute.parameters()))

    def step(self, arrays, scale, mask_rate):
        tokens, positions, segments = arrays
        rng = np.random.default_rng([SEED, 2, self.steps])
        masked, picked = mask(tokens.reshape(-1), mask_rate, rng)
        inputs = np.full(tokens.size, -1)  # the input at the picked places, -1 elsewhere
        inputs[picked] = masked[picked]
        parts = zip(
            *(np.array_split(a, PARTS) for a in arrays),
            (p.reshape(-1) for p in np.array_split(inputs.reshape(tokens.shape), PARTS)),
        )
        for copy, parameter in zip(self.compute.parameters(), self.model.parameters()):
            copy.data.copy_(parameter)
        jobs = [self.pool.submit(self.part, *part, len(picked)) for part in parts]
        loss, gradients = 0.0, None
        for job in jobs:  # in a fixed order, so that sums come out the same
            part_loss, part_gradients = job.result()
            loss += part_loss
            if gradients is None:
                gradients = [gradient.float() for gradient in part_gradients]
            else:
                torch._foreach_add_(gradients, [gradient.float() for gradient in part_gradients])
        for parameter, gradient in zip(self.model.parameters(), gradients):
            parameter.grad = gradient
        for group in self.adam.param_groups:
            group["lr"] = ADAM_RATE * scale
        jobs = [self.pool.submit(task) for task in self.muon.tasks(MUON_RATE * scale)]
        self.adam.step()
        for job in jobs:
            job.result()
        for parameter in self.model.parameters():
            parameter.grad = None
        self.steps += 1
        self.tokens += int((tokens != PAD).sum())
        if self.steps % AVERAGE_EVERY == 0:
            keep = min(AVERAGE_KEEP, self.steps / (self.steps + 10 * AVERAGE_EVERY))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list(self.model.parameters()), 1 - keep)
        return loss


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--work", required=True, type=pathlib.Path)
    args.add_argument("--minutes", type=float, default=float("inf"), help="length of the stable phase")
    decay = args.add_mutually_exclusive_group()
    decay.add_argument("--decay-steps", type=int, help="run the decay phase instead, this long")
    decay.add_argument("--decay-minutes", type=float, help="the same, by the clock")
    args.add_argument("--save-minutes", type=float, default=5)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--from-model", type=pathlib.Path, help="start from an exported folder's weights, not from noise")
    args = args.parse_args()

    run = Run(args.threads)
    stable, decayed = args.work / "stable.pt", args.work / "decayed.pt"
    if stable.exists():
        run.load(stable)
    elif args.from_model:
        run.model.load_state_dict(model_state(args.from_model))
    decay = bool(args.decay_steps or args.decay_minutes)
    if decay and not stable.exists():
        raise SystemExit(f"{stable} is missing: run the stable phase first")
    minutes = args.decay_minutes or args.minutes
    last_step = run.steps + args.decay_steps if args.decay_steps else float("inf")
    first_step = run.steps
    target = decayed if decay else stable
    text = Text(args.work, "train")
    epoch = Epoch(text, run.epoch)
    print(f"{len(epoch.batches)} batches an epoch; starting at step {run.steps}", flush=True)

    stop = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.append(True))

    begin = saved = shown = time.monotonic()
    shown_tokens, losses = run.tokens, []
    while not stop and run.steps < last_step:
        gone = (time.monotonic() - begin) / 60
        if gone >= minutes:
            break
        if run.batch == len(epoch.batches):
            run.epoch, run.batch = run.epoch + 1, 0
            epoch = Epoch(text, run.epoch)
        scale = min(1.0, (run.steps + 1) / WARM_UP)
        if decay:
            scale *= 1 - max(gone / minutes, (run.steps - first_step) / (last_step - first_step))
        arrays = epoch.batch(run.batch)
        run.batch += 1
        losses.append(run.step(arrays, scale, DECAY_MASK_RATE if decay else MASK_RATE))
        now = time.monotonic()
        if run.steps % 20 == 0:
            rate = (run.tokens - shown_tokens) / (now - shown)
            print(
                f"step {run.steps} epoch {run.epoch} tokens {run.tokens / 1e6:.2f} M "
                f"loss {np.mean(losses):.3f} scale {scale:.3f} {rate:.0f} tokens/s",
                flush=True,
            )
            shown, shown_tokens, losses = now, run.tokens, []
        if now - saved > 60 * args.save_minutes:
            run.save(target)
            saved = now
    run.save(target)
    print(f"stopped after {(time.monotonic() - begin) / 60:.1f} minutes; wrote {target.name}", flush=True)


if __name__ == "__main__":
    main()

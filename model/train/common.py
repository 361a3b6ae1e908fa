"""What pretraining, evaluation and export share: the model, its shape and the cutting of text."""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

VOCAB, WIDTH, LAYERS, HEADS, INNER, POSITIONS = 12288, 256, 4, 4, 1024, 256
PAD, UNK, CLS, SEP, MASK = range(5)
FIRST_WORD = 5  # entries below are special
EPS = 1e-12


class Layer(nn.Module):
    """A post-norm BERT layer; the biases of its linear maps are left out (zero in the export)."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Parameter(torch.empty(3, WIDTH, WIDTH))
        self.out = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.up = nn.Parameter(torch.empty(INNER, WIDTH))
        self.down = nn.Parameter(torch.empty(WIDTH, INNER))
        self.norm1 = nn.LayerNorm(WIDTH, eps=EPS)
        self.norm2 = nn.LayerNorm(WIDTH, eps=EPS)

    def forward(self, x, bias):
        b, t, _ = x.shape
        qkv = F.linear(x, self.qkv.view(3 * WIDTH, WIDTH)).view(b, t, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.mT * (WIDTH // HEADS) ** -0.5 + bias, -1)
        mixed = scores @ v
        mixed = mixed.transpose(1, 2).reshape(b, t, WIDTH)
        x = self.norm1(x + F.linear(mixed, self.out))
        return self.norm2(x + F.linear(F.gelu(F.linear(x, self.up)), self.down))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Parameter(torch.empty(VOCAB, WIDTH))
        self.positions = nn.Parameter(torch.empty(POSITIONS, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.transform = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.head_norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.head_bias = nn.Parameter(torch.zeros(VOCAB))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, positions, bias, picked):
        """Logits at the picked places (indices into the flattened tokens)."""
        x = self.norm(F.embedding(tokens, self.words) + F.embedding(positions, self.positions))
        for layer in self.layers:
            x = layer(x, bias)
        x = x.reshape(-1, WIDTH)[picked]
        x = self.head_norm(F.gelu(F.linear(x, self.transform)))
        return F.linear(x, self.words).float() + self.head_bias


def model_state(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """The weights of an exported folder (export.py) under this module's names."""
    file = load_file(folder / "model.safetensors")
    out = {
        "words": file["bert.embeddings.word_embeddings.weight"],
        "positions": file["bert.embeddings.position_embeddings.weight"],
        "transform": file["cls.predictions.transform.dense.weight"],
        "head_bias": file["cls.predictions.bias"],
    }

    def norm(name, at):
        out[f"{name}.weight"], out[f"{name}.bias"] = file[f"{at}.weight"], file[f"{at}.bias"]

    norm("norm", "bert.embeddings.LayerNorm")
    norm("head_norm", "cls.predictions.transform.LayerNorm")
    for i in range(LAYERS):
        at = f"bert.encoder.layer.{i}"
        parts = [file[f"{at}.attention.self.{name}.weight"] for name in ("query", "key", "value")]
        out[f"layers.{i}.qkv"] = torch.stack(parts)
        out[f"layers.{i}.out"] = file[f"{at}.attention.output.dense.weight"]
        out[f"layers.{i}.up"] = file[f"{at}.intermediate.dense.weight"]
        out[f"layers.{i}.down"] = file[f"{at}.output.dense.weight"]
        norm(f"layers.{i}.norm1", f"{at}.attention.output.LayerNorm")
        norm(f"layers.{i}.norm2", f"{at}.output.LayerNorm")
    return {name: tensor.float() for name, tensor in out.items()}


def attention_bias(segments: torch.Tensor) -> torch.Tensor:
    """Each token sees the tokens of its own segment."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return torch.zeros(same.shape).masked_fill_(~same, -1e9)


class Text:
    """An encoded text: tokens, where sentences start, which sentence each article starts with."""

    def __init__(self, work: pathlib.Path, name: str):
        self.tokens = np.load(work / f"{name}.tokens.npy")
        self.sentences = np.load(work / f"{name}.sentences.npy")
        self.articles = np.load(work / f"{name}.articles.npy")

    def segments(self, lengths) -> list[tuple[int, int]]:
        """Cut every article into runs of whole sentences, as (start, end) in tokens.

        `lengths()` gives the greatest length of the next run, or 1 for a single sentence. A single
        sentence that is longer than the greatest segment is cut off there.
        """
        out = []
        starts = self.sentences.tolist()
        articles = self.articles.tolist()
        for first, last in zip(articles, articles[1:]):
            while first < last:
                start, room = starts[first], lengths()
                first += 1
                while first < last and starts[first + 1] - start <= room:
                    first += 1
                out.append((start, starts[first]))
        return out


def mask(tokens: np.ndarray, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masking of flat tokens: `rate` of the words picked; of these 80 % become [MASK], 10 % a
    random word and 10 % stay. Returns the masked tokens and the picked places, in order."""
    words = np.flatnonzero(tokens >= FIRST_WORD)
    picked = np.sort(rng.choice(words, size=round(rate * len(words)), replace=False))
    masked = tokens.copy()
    kind = rng.random(len(picked))
    masked[picked[kind < 0.8]] = MASK
    swap = picked[(kind >= 0.8) & (kind < 0.9)]
    masked[swap] = rng.integers(FIRST_WORD, VOCAB, len(swap))
    return masked, picked

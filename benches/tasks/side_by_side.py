"""Scores of texts beside minicons, and sparse vectors beside sentence-transformers, on the same CPU, in one run.

    cargo build --release
    pip install -r benches/tasks/requirements.txt
    python benches/tasks/side_by_side.py --binary target/release/cloze score
    python benches/tasks/side_by_side.py --binary target/release/cloze sparse --texts FILE

All compute in f32 unless `--dtype` says otherwise for Cloze, with the same number of threads, one after the other in each
round, so that a disturbance meets all. The figures are medians of the rounds. Cloze is the server with its default
settings, and its time includes HTTP and JSON.

`score`: the sentences of tests/fixtures/tasks/minimal_pairs.json with the demo model or `--model`. minicons gets batches, as its
documentation says; the best of several batch sizes counts. The scores must agree.

`sparse`: texts are the lines of FILE. The model has the sizes of DistilBERT or BERT-base, random weights, and a decoder
bias that leaves some 200 entries in a vector, as a trained model does. sentence-transformers sorts the texts by length and
pads each batch; "logits, then max" is the method of text-embeddings-inference in PyTorch, over the same batches.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertTokenizerFast, DistilBertConfig, PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parent.parent.parent
BATCH_SIZES = [8, 32, 100]
SPARSE_BATCH = 32
ENTRIES = 200
TOLERANCE = 1e-3


class Cloze:
    def __init__(self, binary, model, threads, dtype):
        command = [binary, "--port", "0", "--log", "warn", "--threads", str(threads), "--dtype", dtype]
        command += ["--model", str(model)] if model else []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.address = address[0]
            if "curl" in line:
                break
        else:
            sys.exit("the server did not start")

    def post(self, path, body):
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)

    def end(self):
        self.process.terminate()
        self.process.wait()


def in_turns(contestants, rounds, count):
    """Texts per second: the median of the rounds, of functions that compute all texts."""
    seconds = {name: [] for name in contestants}
    for function in contestants.values():
        function()
    for _ in range(rounds):
        for name, function in contestants.items():
            # Threads that look for work of the turn before fall asleep.
            time.sleep(0.5)
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(times) for name, times in seconds.items()}


def table(rates):
    ours = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"| {name} | {rate:.1f} | {ours / rate:.2f} |")


def score(options):
    # minicons calls a method that transformers 5 has renamed.
    PreTrainedTokenizerBase.batch_encode_plus = PreTrainedTokenizerBase.__call__
    from minicons import scorer

    pairs = json.loads((ROOT / "tests/fixtures/tasks/minimal_pairs.json").read_text())
    texts = [text for pair in pairs for text in pair] * options.repeat
    folder = options.model or ROOT / "model"
    minicons = scorer.MaskedLMScorer(str(folder), "cpu", torch_dtype=torch.float32)
    total = lambda scores: scores.sum(0).item()

    def theirs(size):
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        return [score for batch in batches for score in minicons.sequence_score(batch, total, PLL_metric="within_word_l2r")]

    cloze = Cloze(options.binary, options.model, options.threads, options.dtype)
    try:
        ours = lambda: [one["score"] for one in cloze.post("/v1/score", {"inputs": texts})]
        apart = max(abs(a - b) for a, b in zip(ours(), theirs(8)))
        if options.dtype == "f32" and apart > TOLERANCE:
            sys.exit(f"the scores differ by {apart}")
        contestants = {"cloze": ours} | {f"minicons, batches of {size}": lambda size=size: theirs(size) for size in BATCH_SIZES}
        print(f"{len(texts)} sentences, largest difference of a score {apart:.1e}")
        print("| | sentences a second | times |\n|---|---|---|")
        table(in_turns(contestants, options.rounds, len(texts)))
    finally:
        cloze.end()


def checkpoint(folder, name, texts):
    """A random model with a WordPiece tokenizer, whose vectors have some ENTRIES entries."""
    sizes = {"distilbert-base": DistilBertConfig(), "bert-base": BertConfig()}
    config = sizes[name]
    vocabulary = json.loads((ROOT / "model/tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.get)
    words += [f"unused{index}" for index in range(config.vocab_size - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=512)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(config).eval()
    head = model.vocab_projector if name == "distilbert-base" else model.cls.predictions.decoder
    tokens = tokenizer(texts[:8], truncation=True, max_length=512)["input_ids"]
    with torch.no_grad():
        largest = torch.stack([model(input_ids=torch.tensor([ids])).logits[0].max(0).values for ids in tokens])
        head.bias -= largest.quantile(1 - ENTRIES / config.vocab_size, dim=1).mean()
        if name == "bert-base":
            model.cls.predictions.bias.data = head.bias.data
    model.save_pretrained(folder)


def sparse(options):
    from sentence_transformers import SparseEncoder

    try:
        from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
    except ImportError:
        from sentence_transformers.sparse_encoder.models import MLMTransformer, SpladePooling

    texts = [line.strip() for line in open(options.texts) if line.strip()][: options.count]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        checkpoint(folder, options.size, texts)
        modules = [MLMTransformer(str(folder), model_args={"dtype": torch.float32}), SpladePooling()]
        encoder = SparseEncoder(modules=modules, device="cpu")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=512)["input_ids"]]
        order = sorted(range(len(texts)), key=lambda index: -lengths[index])

        def logits_then_max():
            for start in range(0, len(texts), SPARSE_BATCH):
                batch = [texts[index] for index in order[start : start + SPARSE_BATCH]]
                inputs = tokenizer(batch, padding=True, truncation=True, max_length=512, return_tensors="pt")
                with torch.inference_mode():
                    weights = model(**inputs).logits.relu().log1p() * inputs["attention_mask"].unsqueeze(-1)
                    [vector.nonzero() for vector in weights.max(1).values]

        cloze = Cloze(options.binary, folder, options.threads, options.dtype)

        def ours():
            """Two clients, each with a half of the texts in requests of 32."""
            vectors = [None] * len(texts)

            def client(starts):
                for start in starts:
                    body = {"inputs": texts[start : start + SPARSE_BATCH], "truncate": True}
                    vectors[start : start + SPARSE_BATCH] = cloze.post("/embed_sparse", body)

            starts = range(0, len(texts), SPARSE_BATCH)
            clients = [threading.Thread(target=client, args=(starts[half::2],)) for half in range(2)]
            [one.start() for one in clients]
            [one.join() for one in clients]
            return vectors

        try:
            vectors, expected = ours(), encoder.encode(texts[:8], convert_to_sparse_tensor=False)
            values = [{entry["index"]: entry["value"] for entry in vector} for vector in vectors[:8]]
            apart = max(abs(row[index].item() - vector.get(index, 0.0)) for row, vector in zip(expected, values) for index in range(row.numel()))
            if options.dtype == "f32" and apart > TOLERANCE:
                sys.exit(f"the vectors differ by {apart}")
            contestants = {
                "cloze": ours,
                "sentence-transformers": lambda: encoder.encode(texts, batch_size=SPARSE_BATCH),
                "logits, then max": logits_then_max,
            }
            entries = statistics.mean(len(vector) for vector in vectors)
            print(f"{options.size}: {len(texts)} texts of {statistics.median(lengths)} tokens (median), {max(lengths)} at most; {entries:.0f} entries; largest difference {apart:.1e}")
            print("| | texts a second | times |\n|---|---|---|")
            table(in_turns(contestants, options.rounds, len(texts)))
        finally:
            cloze.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16", "int8"], help="of Cloze; the others compute in f32")
    parser.add_argument("--rounds", type=int, default=3)
    tasks = parser.add_subparsers(required=True)
    of_score = tasks.add_parser("score")
    of_score.add_argument("--model", type=Path, help="a folder; the demo model by default")
    of_score.add_argument("--repeat", type=int, default=2, help="times that the sentences are scored in one request")
    of_score.set_defaults(run=score)
    of_sparse = tasks.add_parser("sparse")
    of_sparse.add_argument("--texts", required=True, help="a file with one text on each line")
    of_sparse.add_argument("--count", type=int, default=64)
    of_sparse.add_argument("--size", default="distilbert-base", choices=["distilbert-base", "bert-base"])
    of_sparse.set_defaults(run=sparse)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    options.run(options)


if __name__ == "__main__":
    main()

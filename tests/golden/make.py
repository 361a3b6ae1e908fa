#!/usr/bin/env python3
"""Makes the golden checkpoints and the answers that transformers' fill-mask pipeline gives on them.

Every checkpoint is a tiny BERT with random weights, drawn with fixed seeds from numpy's PCG64. For each, this script
writes the files that a real checkpoint has, loads them back as a user would, asks `pipeline("fill-mask")`, and
compares the answer with `Oracle` below: BERT in float64 numpy, reading the written files itself, sharing no code with
transformers but the tokenizer. See README.md.
"""

import collections
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import safetensors.torch
import torch
import transformers
from tokenizers.models import WordPiece

HERE = pathlib.Path(__file__).resolve().parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Two scores that stand next to each other in an answer differ at least by this, relatively: the order is no accident.
MIN_GAP = 1e-5
# How far the pipeline (float32) may be from the oracle (float64).
MAX_ERROR = 2e-6

# ---------------------------------------------------------------------------------------------------- vocabulary

PROSE = """
The quick brown fox jumps over the lazy dog. A small boat crossed the wide river in the early morning, and nobody on
the bank saw it leave. Paris is the capital of France; Berlin is the capital of Germany; Rome is the capital of Italy.
She said that it was not true, but he did not believe her. "Where are you going?" asked the old man. "Home," she
answered, "before it gets dark!" We have never been so happy, and they have never been so tired. It's a long way to go,
isn't it? I don't know, I can't say, I won't tell, and I'm sure you're right: they've gone, we'll see. The doctor's
house stood at the end of the street, near the church, the school and the market. In 1984 there were 12 people in the
room; in 2024 there are 350. The price went up 5 percent, to $ 20.50 each, and then down again. Water boils at 100
degrees. The sun is a star, the moon is not. He bought bread, milk, cheese, two apples and some coffee at the shop.
My brother works as a teacher, my sister as a lawyer, my mother writes books and my father plays the piano. The cat
slept on the warm stone while children were playing with a red ball in the garden. Winter was cold and the snow lay
deep; spring came late, summer was hot and dry, autumn brought rain. The king and the queen lived in a castle on a hill
above the town. Once upon a time there was a young prince who wanted to see the world. Please open the window, close
the door and turn off the light. The train to London leaves at nine o'clock from platform three. This computer is
faster than the last one, but the program still takes too long. Music, art and science are taught in every good school.
The government will discuss the new law next week. Many people think that the answer is simple; it is not. If you want
something done well, do it yourself. Life is what happens while you are busy making other plans. To be or not to be,
that is the question. All the world is a stage, and all the men and women merely players. New York is a big city.
Hello, my name is Anna and I live in Zurich. The cafe was closed, the naive resume was sent, the facade was painted.
"""

PIECES = """##s ##ed ##ing ##ly ##er ##est ##ion ##tion ##able ##ness ##ment ##al ##ic ##ity ##ous ##ful ##less ##en
##es ##y ##th ##an ##on ##in ##or ##re ##at ##it ##is ##us ##um ##ive ##ize ##ate ##ance ##ence ##ism ##ist un re pre
dis non over under inter ##ian ##land ##ville ##burg ##self""".split()

# Tokens that no text can produce but a model can predict: each meets a rule of the decoder's clean-up.
ODDITIES = ["n't", "'s", "'m", "'ve", "'re", "do not", "a . b ?", "##.", "##'s", "x ' y", "##", "..."]

PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + list("…–—‘’“”«»。、！？「」·")
SCRIPTS = list("世界中国日本語人大学的は のをです안녕".replace(" ", "")) + list("αβγδσςабвгд") + ["🙂", "🎉", "❤", "👍"]
ACCENTED = list("éèêàâçùûôîïëüöäßñóáíúÉÜÖÄÇıİøå")


def vocabulary(cased, specials="first"):
    """A WordPiece vocabulary, made from the text above: special tokens, characters, pieces, words by frequency."""
    prose = PROSE if cased else PROSE.lower()
    counts = collections.Counter(re.findall(r"\w+", prose))
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789")
    if cased:
        letters += [chr(c) for c in range(ord("A"), ord("Z") + 1)] + ACCENTED
    vocab = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if specials == "first" else []
    vocab += PUNCTUATION + letters + SCRIPTS
    vocab += ["##" + c for c in letters + SCRIPTS]
    vocab += PIECES + ODDITIES + words
    if specials == "last":
        vocab += ["[MASK]", "[SEP]", "[unused0]", "[CLS]", "[UNK]", "[PAD]"]
    return list(dict.fromkeys(vocab))


# -------------------------------------------------------------------------------------------------- checkpoints

NEW_NAMES, OLD_NAMES, NO_PREFIX = "new", "old", "no-prefix"


def spec(name, **kwargs):
    values = dict(
        name=name,
        cased=False,
        files="tokenizer.json",
        tokenizer_config=None,
        specials="first",
        dtype=torch.float32,
        names=NEW_NAMES,
        shard=None,
        config={},
        whole_vocabulary=False,
        lengths=(200,),
    )
    values.update(kwargs)
    return collections.namedtuple("Spec", values)(**values)


SPECS = [
    spec("uncased-tied", whole_vocabulary=True, lengths=(2, 3, 5, 9, 17, 33, 64, 100, 127, 128, 129, 150, 200)),
    spec(
        "uncased-old-names",
        files="vocab.txt",
        tokenizer_config={"do_lower_case": True, "model_max_length": 256, "strip_accents": None},
        names=OLD_NAMES,
        lengths=(31, 65, 200),
    ),
    spec(
        "cased-own-decoder",
        cased=True,
        files="vocab.txt",
        # as transformers 4.x saved it: the clean-up of the whole text is on
        tokenizer_config={
            "clean_up_tokenization_spaces": True,
            "cls_token": "[CLS]",
            "do_basic_tokenize": True,
            "do_lower_case": False,
            "mask_token": "[MASK]",
            "model_max_length": 256,
            "never_split": None,
            "pad_token": "[PAD]",
            "sep_token": "[SEP]",
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "tokenizer_class": "BertTokenizer",
            "unk_token": "[UNK]",
        },
        config={"tie_word_embeddings": False, "hidden_act": "gelu_new"},
        whole_vocabulary=True,
        lengths=(32, 200),
    ),
    spec("f16", dtype=torch.float16, config={"hidden_act": "relu"}),
    spec("bf16", dtype=torch.bfloat16, config={"hidden_act": "silu", "type_vocab_size": 1}),
    spec("sharded", cased=True, shard="100KB", lengths=(16, 200)),
    spec(
        "no-prefix",
        specials="last",
        names=NO_PREFIX,
        config={
            "hidden_size": 36,
            "num_attention_heads": 3,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu_pytorch_tanh",
        },
    ),
    spec(
        "strip-accents",
        cased=True,
        files="vocab.txt",
        tokenizer_config={"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
        whole_vocabulary=True,
    ),
]


def config_of(spec, vocab):
    values = dict(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
        pad_token_id=vocab.index("[PAD]"),
    )
    values.update(spec.config)
    return transformers.BertConfig(**values)


def draw(parameters, seed):
    """Random weights with an attention that attends and scores that are far from uniform."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in sorted(parameters.items()):
        values = rng.standard_normal(shape)
        if "LayerNorm.weight" in name:
            values = 1.0 + 0.1 * values
        elif name.endswith("bias"):
            values = (0.4 if "predictions.bias" in name or "decoder.bias" in name else 0.1) * values
        elif "word_embeddings" in name or "decoder.weight" in name:
            values = 0.5 * values
        elif "embeddings" in name:
            values = 0.2 * values
        else:
            values = values * 1.3 / math.sqrt(shape[1])
        weights[name] = values.astype(np.float32)
    return weights


def write_tokenizer(spec, vocab, folder):
    if spec.files == "vocab.txt":
        (folder / "vocab.txt").write_text("".join(token + "\n" for token in vocab), encoding="utf-8")
        text = json.dumps(spec.tokenizer_config, indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    else:
        tokenizer = transformers.BertTokenizer(
            vocab={token: id_ for id_, token in enumerate(vocab)}, do_lower_case=not spec.cased, model_max_length=256
        )
        tokenizer.save_pretrained(folder)


def write_model(spec, config, weights, folder):
    model = transformers.BertForMaskedLM(config)
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()}, strict=False)
    model.tie_weights()
    model = model.to(spec.dtype)
    if spec.names == NEW_NAMES:
        model.save_pretrained(folder, **({"max_shard_size": spec.shard} if spec.shard else {}))
        (folder / "generation_config.json").unlink(missing_ok=True)
        return
    if spec.names == OLD_NAMES:
        values = {"architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1}
        values |= {"gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1}
        values |= {"hidden_size": config.hidden_size, "initializer_range": 0.02}
        values |= {"intermediate_size": config.intermediate_size, "layer_norm_eps": 1e-12}
        values |= {"max_position_embeddings": config.max_position_embeddings, "model_type": "bert"}
        values |= {"num_attention_heads": config.num_attention_heads, "num_hidden_layers": config.num_hidden_layers}
        values |= {"pad_token_id": 0, "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0"}
        values |= {"type_vocab_size": 2, "use_cache": True, "vocab_size": config.vocab_size}
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    else:
        model.config.architectures = ["BertForMaskedLM"]
        model.config.save_pretrained(folder)
    tensors = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    if spec.names == OLD_NAMES:
        # what the file of the original bert-base-uncased has besides the masked language model
        rng = np.random.default_rng(1)
        hidden = config.hidden_size
        tensors["bert.pooler.dense.weight"] = torch.from_numpy(rng.standard_normal((hidden, hidden), np.float32))
        tensors["bert.pooler.dense.bias"] = torch.from_numpy(rng.standard_normal(hidden, np.float32))
        tensors["cls.seq_relationship.weight"] = torch.from_numpy(rng.standard_normal((2, hidden), np.float32))
        tensors["cls.seq_relationship.bias"] = torch.from_numpy(rng.standard_normal(2, np.float32))
        tensors["bert.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
        new_to_old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, old in new_to_old.items():
            tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    else:
        tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# ------------------------------------------------------------------------------------------------------- oracle


class Oracle:
    """BERT for masked language modelling in float64, from the files of a checkpoint."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            for name, tensor in safetensors.torch.load_file(file).items():
                name = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
                name = name.replace("LayerNorm.beta", "LayerNorm.bias")
                self.tensors[name] = tensor.to(torch.float64).numpy()

    def linear(self, x, name):
        return x @ self.tensors[name + ".weight"].T + self.tensors[name + ".bias"]

    def norm(self, x, name):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        x = (x - mean) / np.sqrt(variance + self.config["layer_norm_eps"])
        return x * self.tensors[name + ".weight"] + self.tensors[name + ".bias"]

    def activation(self, x):
        kind = self.config["hidden_act"]
        if kind == "gelu":
            return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
        if kind in ("gelu_new", "gelu_pytorch_tanh"):
            return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
        if kind == "relu":
            return np.maximum(x, 0.0)
        assert kind == "silu", kind
        return x / (1.0 + np.exp(-x))

    def logits(self, ids):
        """[tokens, vocabulary] of one text."""
        t, heads = self.tensors, self.config["num_attention_heads"]
        x = t["embeddings.word_embeddings.weight"][ids]
        x = x + t["embeddings.position_embeddings.weight"][: len(ids)] + t["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        for i in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}."
            q, k, v = (
                self.linear(x, layer + "attention.self." + part).reshape(len(ids), heads, -1).transpose(1, 0, 2)
                for part in ("query", "key", "value")
            )
            scores = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
            context = (scores @ v).transpose(1, 0, 2).reshape(x.shape)
            x = self.norm(x + self.linear(context, layer + "attention.output.dense"), layer + "attention.output.LayerNorm")
            inner = self.activation(self.linear(x, layer + "intermediate.dense"))
            x = self.norm(x + self.linear(inner, layer + "output.dense"), layer + "output.LayerNorm")
        x = self.activation(self.linear(x, "cls.predictions.transform.dense"))
        x = self.norm(x, "cls.predictions.transform.LayerNorm")
        if self.config.get("tie_word_embeddings", True):
            return x @ t["embeddings.word_embeddings.weight"].T + t["cls.predictions.bias"]
        return self.linear(x, "cls.predictions.decoder")


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


# -------------------------------------------------------------------------------------------------------- cases

WORDS = PROSE.split()


def text_of_length(tokenizer, count):
    """A text of exactly so many tokens, [CLS] and [SEP] not counted, with a mask about the middle."""
    words, used = [], 0
    for i, word in enumerate(itertools.cycle(WORDS)):
        # one mask where half of the tokens are used
        if "[MASK]" not in words and used >= count // 2:
            word = "[MASK]"
        size = len(tokenizer(word, add_special_tokens=False)["input_ids"])
        if used + size > count:
            word, size = "a", 1
        words.append(word)
        used += size
        if used == count:
            text = " ".join(words)
            assert len(tokenizer(text)["input_ids"]) == count + 2, (count, text)
            return text


TEXTS = {
    "one token": "[MASK]",
    "the README's text": "test [MASK]",
    "mask first": "[MASK] is the capital of France.",
    "mask last": "The quick brown fox jumps over the lazy [MASK]",
    "mask before a full stop": "Paris is the capital of [MASK].",
    "mask before a space and a full stop": "Paris is the capital of [MASK] .",
    "mask in parentheses and quotes": 'She said: ("[MASK]")!',
    "mask inside a word": "un[MASK]able and dis[MASK]",
    "mask glued to a word": "un[MASK]able",
    "spaces around": "   The   old man   asked [MASK]   ",
    "two masks": "The [MASK] is the capital of [MASK].",
    "two masks side by side": "[MASK][MASK] went home.",
    "three masks": "[MASK] bought [MASK] at the shop, [MASK]!",
    "five masks": "[MASK] [MASK] [MASK] [MASK] [MASK]",
    "four masks, first and last": "[MASK], my name is [MASK] and I [MASK] in [MASK]",
    "contractions": "I don't think it's true; we can't, they've, you're, I'm, he isn't [MASK] n't.",
    "contractions with spaces": "I do n't think it 's true ; I 'm sure they 've , you 're [MASK] .",
    "do not": "I do not know, do not ask [MASK], do nothing",
    "curly quotes": "“It’s true” – she didn’t say ‘[MASK]’ …",
    "straight quotes": "he said \" hello \" and ' [MASK] ' , then ' left '",
    "dashes and marks": "wait - what?! no ... [MASK] - yes ; 50 % , $ 20.50 (really) !?",
    "numbers": "In 1984, 3.14 + 2 = [MASK], 1,000,000 & 7/8",
    "web and mail": "See www.example.org/a_b?c=d#e or mail me@example.org, [MASK]_x [x] {y} <z> ~ ^ ` | \\",
    "accents": "Le café était très fermé, déjà vu à Zürich, où le garçon naïf a [MASK] façade, piñata, Ångström",
    "combining accents": "cafe\u0301 and nai\u0308ve re\u0301sume\u0301 [MASK] A\u030angstro\u0308m",
    "capitals": "THE QUICK Brown FOX, ÉCOLE, ÜBER, ÇA [MASK]",
    "odd letters": "straße İstanbul ışık ﬁne ǆ ΟΔΟΣ Σίσυφος [MASK] ŒUVRE",
    "cjk": "世界の[MASK]は中国と日本です。大学、語！",
    "cjk between words": "hello世界world 中[MASK]国 안녕하세요",
    "cyrillic, greek, arabic, hebrew, hindi": "абвгд жук αβγ δ مَرْحَبًا שָׁלוֹם नमस्ते [MASK]",
    "emoji": "I love it 🙂🎉 [MASK] 👩‍👩‍👧 ❤️ 👍🏽!",
    "emoji alone": "🙂 [MASK] 🚀🚀",
    "unknown words": "The ☃ zyzzyva ∫xdx ≈ Ωμέγα [MASK] ☂☃",
    "mostly unknown": "☃ ☂ ☁ ∑ ∏ [MASK] ♞ ♟ ✈ ✉ ⌘",
    "full width": "Ｈｅｌｌｏ，[MASK]！",
    "special tokens in the text": "first [SEP] second [MASK] [CLS] third [PAD] [UNK] fourth",
    "special token glued": "home[SEP]dark [PAD][PAD][MASK].[CLS]",
    "lower-case mask is no mask": "[mask] is not [MASK] , nor is [ MASK ]",
    "control characters": "tab\tnew\nline\r\nnbsp\u00a0zero\u200bwidth [MASK]\u0000\u0007 end\ufffd\u2028 soft\u00adhyphen",
    "a word of 100 letters": "x " + "a" * 100 + " y [MASK]",
    "a word of 101 letters": "x " + "a" * 101 + " y [MASK]",
    "unused token": "[unused0] and [unused1] [MASK]",
}


def cases_of(spec, tokenizer, vocab):
    """(name, inputs, parameters) of every case."""
    short, second, many = TEXTS["mask before a full stop"], TEXTS["cjk"], TEXTS["two masks"]
    cases = [(name, text, {}) for name, text in TEXTS.items()]
    cases += [(f"{n} tokens", text_of_length(tokenizer, n), {}) for n in spec.lengths]
    five = text_of_length(tokenizer, 60) + " [MASK] " + text_of_length(tokenizer, 60) + " [MASK] [MASK] end."
    cases += [
        ("five masks in a long text", five, {"top_k": 3}),
        ("list of one", [short], {}),
        ("list of one with two masks", [many], {}),
        ("three texts of several lengths", [short, TEXTS["accents"], "[MASK]"], {}),
        ("several texts with several masks", [many, TEXTS["three masks"], "[MASK] [MASK]"], {"top_k": 2}),
        ("several texts, one and more masks", [short, many, second], {"top_k": 2}),
        ("the same text twice", [short, short], {"top_k": 1}),
        ("list of one of 200 tokens and a short one", [text_of_length(tokenizer, 200), "a [MASK]"], {"top_k": 1}),
        ("top_k 1", short, {"top_k": 1}),
        ("top_k 3", short, {"top_k": 3}),
        ("top_k 17", many, {"top_k": 17}),
        ("top_k 0", short, {"top_k": 0}),
        ("top_k negative", short, {"top_k": -1}),
        ("top_k one too many", short, {"top_k": len(vocab) + 1}),
        ("one target as a string", short, {"targets": "dog"}),
        ("targets", short, {"targets": ["dog", "house", "world"]}),
        ("targets, two masks", many, {"targets": ["dog", "house", "world"]}),
        ("targets, two texts", [short, many], {"targets": ["dog", "house"]}),
        ("duplicate targets", short, {"targets": ["dog", "house", "dog", "house", "dog"]}),
        ("duplicate targets after tokenizing", short, {"targets": ["dog", " dog", "dogs", "dog house"]}),
        ("targets outside the vocabulary", short, {"targets": ["doghouse", "zyzzyva", "New York", "playing!"]}),
        ("targets with case and accents", short, {"targets": ["Dog", "Café", "WORLD", "Zürich", "É"]}),
        ("targets: pieces and special tokens", short, {"targets": ["##ing", "[UNK]", "[PAD]", "[MASK]", "'s", "."]}),
        ("target that is unknown", short, {"targets": ["☃", "dog"]}),
        ("targets: cjk and emoji", short, {"targets": ["世界", "🙂", "🚀", "日"]}),
        ("targets, top_k smaller", short, {"targets": ["dog", "house", "world", "piano"], "top_k": 2}),
        ("targets, top_k larger", short, {"targets": ["dog", "house"], "top_k": 10}),
        ("targets, top_k beyond the vocabulary", short, {"targets": ["dog", "house"], "top_k": 100000}),
        ("targets, one of them empty", short, {"targets": ["", "dog", "   "]}),
        ("empty target", short, {"targets": ""}),
        ("no targets", short, {"targets": []}),
        ("no targets left", short, {"targets": ["", " ", "\t"]}),
        ("no mask", "There is nothing to fill in.", {}),
        ("empty text", "", {}),
        ("one of the texts without a mask", [short, "nothing here"], {}),
        ("empty list", [], {}),
        ("too many tokens", text_of_length(tokenizer, 255), {}),
        ("as many tokens as there are positions", text_of_length(tokenizer, 254), {}),
    ]
    if spec.whole_vocabulary:
        cases += [
            ("the whole vocabulary", "She said [MASK] .", {"top_k": len(vocab)}),
            ("the whole vocabulary, a mask in quotes", "a ' [MASK] ' !", {"top_k": len(vocab)}),
        ]
    return cases


def mapped(inputs, function):
    return [function(text) for text in ([inputs] if isinstance(inputs, str) else inputs)]


def check(case, oracle, tokenizer):
    """Compares the answer of a case with the oracle; gives the largest error and the smallest gap."""
    inputs, output = case["inputs"], case["output"]
    texts = [inputs] if isinstance(inputs, str) else inputs
    outputs = output if len(texts) > 1 else [output]
    targets = case["parameters"].get("targets")
    error, gap = 0.0, math.inf
    for ids, answer in zip(case["input_ids"], outputs, strict=True):
        masks = [i for i, id_ in enumerate(ids) if id_ == tokenizer.mask_token_id]
        answers = [answer] if len(masks) == 1 else answer
        probabilities = softmax(oracle.logits(ids)[masks])
        for scores, rows in zip(probabilities, answers, strict=True):
            if targets is None:
                order = np.argsort(-scores, kind="stable")
            else:
                order = sorted(targets_by_hand(targets, tokenizer), key=lambda id_: -scores[id_])
            top_k = min(case["parameters"].get("top_k", 5), len(order))
            order = [int(id_) for id_ in order]
            for a, b in zip(order[:top_k], order[1:]):
                gap = min(gap, (scores[a] - scores[b]) / scores[a])
            if gap > MIN_GAP:
                assert [row["token"] for row in rows] == order[:top_k], case["name"]
            for row in rows:
                error = max(error, abs(row["score"] - scores[row["token"]]))
    return error, gap


def targets_by_hand(targets, tokenizer):
    vocab, ids = tokenizer.get_vocab(), set()
    for target in [targets] if isinstance(targets, str) else targets:
        pieces = [vocab[target]] if target in vocab else tokenizer(target, add_special_tokens=False)["input_ids"]
        ids.update(pieces[:1])
    return ids


def load(folder):
    """The checkpoint as a user of transformers loads it, its weights cast up to float32."""
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["error_msgs"], info
    unexpected = {name for name in info["unexpected_keys"] if "pooler" not in name and "seq_relationship" not in name}
    assert not unexpected, unexpected
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def make(spec, seed):
    """Writes the checkpoint and its answers; None if two scores are too close to each other with this seed."""
    folder = HERE / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    vocab = vocabulary(spec.cased, spec.specials)
    config = config_of(spec, vocab)
    skeleton = transformers.BertForMaskedLM(config)
    weights = draw({name: tuple(p.shape) for name, p in skeleton.named_parameters()}, seed)
    write_tokenizer(spec, vocab, folder)
    write_model(spec, config, weights, folder)

    model, tokenizer = load(folder)
    oracle = Oracle(folder)
    pipe = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu", dtype=torch.float32)
    cases, worst, closest = [], 0.0, math.inf
    for name, inputs, parameters in cases_of(spec, tokenizer, vocab):
        case = {"name": name, "inputs": inputs, "parameters": parameters}
        case["input_ids"] = mapped(inputs, lambda text: tokenizer(text)["input_ids"])
        try:
            case["output"] = pipe(inputs, **parameters)
        except Exception as error:  # whatever it raises is its answer
            case["error"] = str(error)
            case["error_type"] = type(error).__name__
        else:
            error, gap = check(case, oracle, tokenizer)
            assert error < MAX_ERROR, (name, error)
            if gap < MIN_GAP:
                return None
            worst, closest = max(worst, error), min(closest, gap)
        cases.append(case)

    versions = {name: importlib.metadata.version(name) for name in ("transformers", "torch", "tokenizers")}
    head = {**versions, "seed": seed, "vocab_size": len(vocab), "cases": None}
    lines = ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in cases)
    for file in folder.iterdir():
        file.chmod(0o644)
    text = json.dumps(head, indent=2).replace('"cases": null', f'"cases": [\n{lines}\n  ]')
    assert json.loads(text)["cases"] == cases
    (folder / "golden.json").write_text(text + "\n", encoding="utf-8")

    first = [case["output"][0]["score"] for case in cases[:10] if "output" in case and isinstance(case["output"][0], dict)]
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(
        f"{spec.name}: seed {seed}, vocabulary {len(vocab)}, {len(cases)} cases, {size / 1024:.0f} KiB, "
        f"off the oracle by {worst:.1e}, closest scores {closest:.1e} apart, "
        f"best scores {', '.join(f'{score:.2f}' for score in first)}"
    )
    return folder


def main():
    for line in (HERE / "requirements.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if version and (have := importlib.metadata.version(name).partition("+")[0]) != version:
            sys.exit(f"{name} is {have}, requirements.txt says {version}")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = sys.argv[1:]
    for index, spec in enumerate(SPECS):
        if not wanted or spec.name in wanted:
            next(folder for folder in (make(spec, 1000 * index + n) for n in range(1000)) if folder)


if __name__ == "__main__":
    main()

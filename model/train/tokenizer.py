"""Train the uncased WordPiece tokenizer on the training text and encode both texts.

    python tokenizer.py --work WORK
    python tokenizer.py --work WORK --keep ../tokenizer.json    # encode with this one, train none

Half of the vocabulary are word pieces trained the usual way; the other half are whole words, those
found in the most articles. Trained pieces alone would spend many entries on stems that are no words
(`ammun`, `invertebr`) while `kitchen` stays in two parts, and a model can only fill in what is one
entry.

Writes WORK/tokenizer.json, and for `train` and `heldout` the arrays NAME.tokens.npy (uint16, all
sentences end to end), NAME.sentences.npy (where each starts, and the end) and NAME.articles.npy
(the number of each article's first sentence, and the end).
"""

import argparse
import collections
import pathlib
import re
import unicodedata

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCAB_SIZE = 12288
TRAINED_PIECES = 6144  # special tokens and alphabet included
ALPHABET = 120  # characters beyond these are [UNK]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def common_words(text: str) -> list[str]:
    """The words of the text, those of the most articles first (ties by the alphabet)."""
    text = unicodedata.normalize("NFD", text.lower())
    text = re.sub(r"[\u0300-\u036f]", "", text)
    counts = collections.Counter()
    for article in text.split("\n\n"):
        counts.update(set(re.findall(r"[a-z0-9]+", article)))
    return sorted(counts, key=lambda word: (-counts[word], word))


def with_vocab(vocab: dict[str, int] | None = None) -> Tokenizer:
    model = models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def train(text: pathlib.Path) -> Tokenizer:
    tokenizer = with_vocab()
    trainer = trainers.WordPieceTrainer(
        vocab_size=TRAINED_PIECES,
        limit_alphabet=ALPHABET,
        special_tokens=SPECIAL,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train([str(text)], trainer)
    vocab = tokenizer.get_vocab()
    for word in common_words(text.read_text(encoding="utf-8")):
        if len(vocab) == VOCAB_SIZE:
            break
        vocab.setdefault(word, len(vocab))
    tokenizer = with_vocab(vocab)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def encode(tokenizer: Tokenizer, work: pathlib.Path, name: str) -> None:
    tokens, lengths, articles, sentences = [], [], [0], 0
    lines = (work / f"{name}.txt").read_text(encoding="utf-8").split("\n")
    for start in range(0, len(lines), 50_000):
        chunk = lines[start : start + 50_000]
        for line, coded in zip(chunk, tokenizer.encode_batch_fast(chunk, add_special_tokens=False)):
            if line:
                tokens.append(np.array(coded.ids, dtype=np.uint16))
                lengths.append(len(coded.ids))
                sentences += 1
            elif sentences > articles[-1]:
                articles.append(sentences)
    tokens = np.concatenate(tokens)
    np.save(work / f"{name}.tokens.npy", tokens)
    np.save(work / f"{name}.sentences.npy", np.concatenate([[0], np.cumsum(lengths)]))
    np.save(work / f"{name}.articles.npy", np.array(articles))
    unknown = np.mean(tokens == tokenizer.token_to_id("[UNK]"))
    print(f"{name}: {len(articles) - 1} articles, {sentences} sentences, {len(tokens)} tokens, {unknown:.2%} unknown")


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--work", required=True, type=pathlib.Path)
    args.add_argument("--keep", type=pathlib.Path, help="a tokenizer.json to encode with; the weights belong to one")
    args = args.parse_args()
    tokenizer = Tokenizer.from_file(str(args.keep)) if args.keep else train(args.work / "train.txt")
    tokenizer.save(str(args.work / "tokenizer.json"))
    for name in ("train", "heldout"):
        encode(tokenizer, args.work, name)


if __name__ == "__main__":
    main()

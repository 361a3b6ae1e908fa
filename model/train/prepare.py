"""Corpus preparation: hold 1 % of the articles out, then clean and split the rest into sentences.

    python prepare.py --corpus simple-english-wikipedia.txt.xz --work WORK

Writes WORK/train.txt and WORK/heldout.txt: one sentence a line, a blank line between
articles. An article goes to the held-out side by a hash of its own text, before anything else
happens to it, so the split depends on nothing but the article.
"""

import argparse
import hashlib
import html
import lzma
import pathlib
import re

HELD_OUT_SHARE = 100  # one article in so many

# Words that end in a full stop without ending a sentence.
ABBREVIATIONS = set(
    "mr mrs ms dr st sr jr col gen lt capt sgt rev hon prof gov sen rep no vs etc approx inc ltd co "
    "corp jan feb mar apr jun jul aug sept sep oct nov dec ca al fig vol pp ed eds mt ft".split()
)
BOUNDARY = re.compile(r"(?<=[.!?])(?P<close>[\"')\]]*)\s+(?=[\"'(\[]*[A-Z0-9])")


def held_out(article: str) -> bool:
    digest = hashlib.sha256(article.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


def clean(line: str) -> str:
    line = html.unescape(line)
    line = line.translate(str.maketrans("‘’“”", "''\"\""))
    line = line.replace("\u00a0", " ")
    # The extraction left holes where templates stood: "(, pinyin: X)", "( ; born 1950)", "()".
    line = re.sub(r"\(\s*[,;:]\s*", "(", line)
    line = re.sub(r"\s*\(\s*\)", "", line)
    line = re.sub(r"\s+([,.;:!?])(?=\s|$)", r"\1", line)
    return re.sub(r"\s+", " ", line).strip()


def sentences(line: str) -> list[str]:
    out, start = [], 0
    for match in BOUNDARY.finditer(line):
        word = re.search(r"([\w.]+)[.!?]$", line[start : match.start()])
        if line[match.start() - 1] == "." and word:
            last = word.group(1).lower()
            if last in ABBREVIATIONS or len(last) == 1 and not last.isdigit() or "." in last:
                continue
        out.append(line[start : match.end("close")])
        start = match.end()
    out.append(line[start:])
    return [s for s in out if s]


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--corpus", required=True, type=pathlib.Path)
    args.add_argument("--work", required=True, type=pathlib.Path)
    args = args.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    text = lzma.open(args.corpus, "rt", encoding="utf-8").read()
    counts = {"train": 0, "heldout": 0}
    files = {name: open(args.work / f"{name}.txt", "w", encoding="utf-8") for name in counts}
    for article in text.split("\n\n"):
        article = article.strip()
        if not article:
            continue
        name = "heldout" if held_out(article) else "train"
        counts[name] += 1
        for line in article.split("\n"):
            for sentence in sentences(clean(line)):
                files[name].write(sentence + "\n")
        files[name].write("\n")
    for file in files.values():
        file.close()
    print(counts)


if __name__ == "__main__":
    main()

"""The Python blocks of README.md and docs/: each is run, and its output compared with the comments behind `print`."""

import contextlib
import io
import re

import pytest

from conftest import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(block[2], id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(BLOCK.finditer(document.read_text()))
    # The others are excerpts.
    if "localhost:8000" in block[2]
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_python_block_prints_what_it_says(server, example):
    address = server.url.removeprefix("http://")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(example.replace("localhost:8000", address), {})
    expected = re.findall(r"^print\(.*\)  # (.*)$", example, re.MULTILINE)
    assert output.getvalue().splitlines() == expected


def test_documents_have_python_blocks():
    assert len(EXAMPLES) >= 4

"""Starts the binary on a free port for all test files."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("CLOZE_BINARY", str(ROOT / "target" / "release" / "cloze"))


class Server:
    """A running server with its `url`."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [BINARY, "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.banner = ""
        for line in self.process.stdout:
            self.banner += line
            if address := re.match(r"\s*address\s+(http://\S+)", line):
                self.url = address[1]
            if "curl" in line:
                return
        raise RuntimeError(f"the server did not start:\n{self.banner}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(timeout=20) == 0


@pytest.fixture(scope="session")
def server():
    """The demo model with default settings, shared by tests that do not change the server."""
    with Server() as running:
        yield running

"""schemathesis with the OpenAPI document: every answer is described, every valid request is accepted, every invalid one is
refused, and there is no status 5xx."""

import pathlib
import subprocess
import sys

SETTINGS = pathlib.Path(__file__).with_name("schemathesis.toml")


def test_schemathesis_finds_nothing(server, tmp_path):
    command = pathlib.Path(sys.executable).with_name("schemathesis")
    # A bounded number of requests, the same in each run.
    arguments = ["--config-file", SETTINGS, "run", f"{server.url}/openapi.json", "--seed", "1", "--max-examples", "15"]
    run = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr

"""schemathesis over the OpenAPI document: no answer that it does not describe, nothing refused that it allows,
nothing taken that it forbids, no 5xx."""

import pathlib
import subprocess
import sys

SETTINGS = pathlib.Path(__file__).with_name("schemathesis.toml")


def test_schemathesis_finds_nothing(server, tmp_path):
    command = pathlib.Path(sys.executable).with_name("schemathesis")
    # Bounded, and the same requests each time.
    arguments = ["--config-file", SETTINGS, "run", f"{server.url}/openapi.json", "--seed", "1", "--max-examples", "15"]
    run = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr

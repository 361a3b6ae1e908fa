"""The metrics, as promtool and Prometheus' own parser read them."""

import shutil
import subprocess
import urllib.error
import urllib.request

import pytest


def scrape(server, accept):
    request = urllib.request.Request(f"{server.url}/metrics", headers={"accept": accept})
    with urllib.request.urlopen(request) as response:
        return response.headers["content-type"], response.read()


def test_promtool_finds_nothing(server):
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian: prometheus)")
    urllib.request.urlopen(f"{server.url}/", data=b"a [MASK]").read()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.url}/", data=b"no mask")
    content_type, text = scrape(server, "*/*")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_openmetrics_if_asked(server):
    content_type, text = scrape(server, "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2")
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert text.endswith(b"\n# EOF\n")

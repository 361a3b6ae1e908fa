"""Checks alerts, dashboard and manifests: every metric that they name is in docs/metrics.md, and promtool reads every query."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile

FOLDER = pathlib.Path(__file__).resolve().parent
METRIC = re.compile(r"\b(?:cloze|process)_[a-z_]+[a-z]\b")


def documented():
    rows = (FOLDER.parent / "docs/metrics.md").read_text().splitlines()
    names = set()
    for row in rows:
        if match := re.match(r"\| `((?:cloze|process)_\w+)` \| (\w+) \|", row):
            name, kind = match.groups()
            suffixes = ("", "_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            names.update(name + suffix for suffix in suffixes)
    assert len(names) > 40, names
    return names


def queries(dashboard):
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def promtool(rules):
    if shutil.which("promtool") is None:
        print("SKIPPED: promtool is not here (Debian: prometheus)")
        return
    subprocess.run(["promtool", "check", "rules", rules], check=True)


def main():
    alerts = FOLDER / "prometheus/alerts.yaml"
    dashboard = json.loads((FOLDER / "prometheus/grafana-dashboard.json").read_text())
    known = documented()
    named = set(METRIC.findall(alerts.read_text()))
    for query in queries(dashboard):
        named.update(METRIC.findall(query))
    for file in (FOLDER / "kubernetes").glob("*.yaml"):
        named.update(name for name in METRIC.findall(file.read_text()) if name.startswith("cloze_"))
    assert not named - known, f"not in docs/metrics.md: {sorted(named - known)}"
    promtool(alerts)
    # The dashboard's queries as rules, with the variables of Grafana filled in.
    filled = [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in queries(dashboard)]
    rules = [{"record": f"query_{index}", "expr": query} for index, query in enumerate(filled)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        promtool(file.name)


if __name__ == "__main__":
    main()

"""Checks what lies in kubernetes/ and kserve/ against the schemas of those who read it, and against Cloze itself.

Objects of Kubernetes: kubernetes-validate, strictly. KServe's, KEDA's and Prometheus': the types of their Python packages, in
both directions: what a type does not know is an error. Prints what is wrong, and exits with 1 if anything is.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import kubernetes_validate
import yaml
from kubernetes.client import models as kubernetes_models

HERE = pathlib.Path(__file__).parent
# The oldest release that knows `preStop: sleep` without a feature gate, and a new one.
VERSIONS = ["1.30", "1.37"]
STOP_LIMIT_S = 10  # --shutdown-timeout-ms


def kserve_models():
    """kserve.models without kserve itself, which would import a whole server."""
    spec = importlib.util.find_spec("kserve")
    package = types.ModuleType("kserve")
    package.__path__ = spec.submodule_search_locations
    sys.modules["kserve"] = package
    return importlib.import_module("kserve.models")


KSERVE = kserve_models()


def walk(type_name, value, where):
    """What of `value` is not of the type, as KServe's client writes types."""
    if match := re.fullmatch(r"list\[(.*)\]", type_name):
        if not isinstance(value, list):
            return [f"{where} is not a list"]
        return [e for i, item in enumerate(value) for e in walk(match[1], item, f"{where}[{i}]")]
    if match := re.fullmatch(r"dict\((.*?), (.*)\)", type_name):
        if not isinstance(value, dict):
            return [f"{where} is not a map"]
        return [e for key, item in value.items() for e in walk(match[2], item, f"{where}.{key}")]
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}
    if type_name in plain:
        right = isinstance(value, plain[type_name]) and not (type_name == "int" and isinstance(value, bool))
        return [] if right or type_name == "object" else [f"{where} is {value!r}, not {type_name}"]
    cls = getattr(KSERVE, type_name, None)
    if cls is None:
        return round_trip(getattr(kubernetes_models, type_name), value, where)
    if not isinstance(value, dict):
        return [f"{where} is not an object"]
    fields = {cls.attribute_map[name]: (name, kind) for name, kind in cls.openapi_types.items()}
    errors = [f"{where}.{key} is not a field of {type_name}" for key in value if key not in fields]
    for key, item in value.items():
        if key in fields:
            errors += walk(fields[key][1], item, f"{where}.{key}")
    try:
        # Its own checks: what is required, and which values there are.
        cls(**{fields[key][0]: item for key, item in value.items() if key in fields})
    except ValueError as error:
        errors.append(f"{where}: {error}")
    return errors


def round_trip(cls, value, where):
    """What a pydantic type refuses, or loses."""
    try:
        back = cls.model_validate(value).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as error:
        return [f"{where}: {error}"]
    return lost(value, back, where)


def lost(value, back, where):
    if isinstance(value, dict) and isinstance(back, dict):
        return [e for key in value for e in lost(value[key], back.get(key), f"{where}.{key}")]
    if isinstance(value, list) and isinstance(back, list) and len(value) == len(back):
        return [e for i, pair in enumerate(zip(value, back)) for e in lost(*pair, f"{where}[{i}]")]
    return [] if value == back else [f"{where} is not a field, or not {value!r}"]


def check_schema(thing, where):
    group, kind = thing["apiVersion"].split("/")[0], thing["kind"]
    if group == "serving.kserve.io":
        version = thing["apiVersion"].split("/")[1].capitalize()
        return walk(f"{version}{kind}", thing, where)
    if group == "keda.sh":
        from cloudcoil.models.keda import v1alpha1

        return round_trip(getattr(v1alpha1, kind), thing, where)
    if group == "monitoring.coreos.com":
        from cloudcoil.models.prometheus_operator import v1

        return round_trip(getattr(v1, kind), thing, where)
    if group == "kustomize.config.k8s.io":
        return [f"{where}: no file {name}" for name in thing["resources"] if not (HERE / "kubernetes" / name).exists()]
    errors = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            errors.append(f"{where}: Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
    return errors


def strings(value):
    """Every key and every value in it."""
    if isinstance(value, dict):
        return [s for pair in value.items() for item in pair for s in strings(item)]
    if isinstance(value, list):
        return [s for item in value for s in strings(item)]
    return [str(value)]


def objects(value):
    if isinstance(value, dict):
        return [value] + [o for item in value.values() for o in objects(item)]
    if isinstance(value, list):
        return [o for item in value for o in objects(item)]
    return []


def check_cloze(thing, where, help_text, addresses):
    """Addresses, flags and variables that Cloze has; a stop that gives it its time."""
    errors = []
    for item in objects(thing):
        if isinstance(probe := item.get("httpGet"), dict) and probe["path"] not in addresses:
            errors.append(f"{where}: Cloze has no address {probe['path']}")
        for argument in item.get("args", []):
            if argument.startswith("--") and argument not in help_text:
                errors.append(f"{where}: Cloze has no flag {argument}")
        if (grace := item.get("terminationGracePeriodSeconds")) is not None:
            pre_stop = item["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            if grace < pre_stop + 2 * STOP_LIMIT_S:
                errors.append(f"{where}: {grace} s are less than a stop may take")
    for variable in {v for s in strings(thing) for v in re.findall(r"CLOZE_[A-Z_]+", s)}:
        if f"[env: {variable}" not in help_text:
            errors.append(f"{where}: Cloze has no variable {variable}")
    return errors


def main():
    binary = os.environ["CLOZE_BINARY"]
    help_text = subprocess.run([binary, "serve", "--help"], check=True, capture_output=True, text=True).stdout
    openapi = json.loads((HERE.parent / "src/server/routes/openapi/openapi.json").read_text())
    errors = []
    count = 0
    for path in sorted([*HERE.glob("kubernetes/*.yaml"), *HERE.glob("kserve/*.yaml")]):
        for thing in yaml.safe_load_all(path.read_text()):
            count += 1
            where = f"{path.relative_to(HERE.parent)}: {thing['kind']}"
            errors += check_schema(thing, where)
            errors += check_cloze(thing, where, help_text, openapi["paths"])
    print("\n".join(errors) or f"{count} objects are as their readers want them")
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())

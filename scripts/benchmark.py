"""Measures training, evaluation and memory; prints a line each and writes JSON.

python scripts/benchmark.py [--out=benchmark.json] [--only="train k=1, B=100"]
"""

import json
import pathlib
import subprocess
import sys

import jax
from absl import flags

from vaejax.errors import unknown
from vaejax.experiment import cli
from vaejax.storage import files

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import bounds as benchmark  # noqa: E402

OUT = flags.DEFINE_string("out", "benchmark.json", "where the JSON goes")
ONLY = flags.DEFINE_string("only", None, "one case instead of all")


def machine():
    """What the numbers were measured on."""
    device = jax.devices()[0]
    name = f"{jax.device_count()} x {device.platform} ({device.device_kind})"
    return {"device": name, "jax": jax.__version__}


def run_case(name):
    """Each memory case has a process of its own, since a peak never comes down."""
    if name in benchmark.CASES:
        return benchmark.CASES[name]()
    code = (
        "import json; from benchmarks import bounds as b; "
        "print(json.dumps(b.evaluation_memory(%d, %r)))"
    )
    command = [sys.executable, "-c", code % benchmark.MEMORY_CASES[name]]
    return json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)


def main(console):
    """Runs the chosen cases one after another."""
    names = [*benchmark.CASES, *benchmark.MEMORY_CASES]
    if ONLY.value is not None and ONLY.value not in names:
        raise unknown("--only", ONLY.value, names)
    results = {"machine": machine()}
    for name in [ONLY.value] if ONLY.value else names:
        results[name] = run_case(name)
        text = ", ".join(f"{key} {value:,.3g}" for key, value in results[name].items())
        console.print(f"{name}: {text}", soft_wrap=True)
    files.write_json(pathlib.Path(OUT.value), results)


if __name__ == "__main__":
    cli.run(main)

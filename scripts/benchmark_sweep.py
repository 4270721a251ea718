"""Digits members (seeds x learning rates) as one program against one after another; JSON out.

python scripts/benchmark_sweep.py [--members=16] [--epochs=300] [--alone=2]
"""

import json
import pathlib
import sys

from absl import flags

from vaejax import config as config_lib
from vaejax.experiment import cli

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import sweep as sweep_benchmark  # noqa: E402

MEMBERS = flags.DEFINE_integer("members", 16, "runs in the sweep, an even number")
EPOCHS = flags.DEFINE_integer("epochs", 300, "epochs of each run")
ALONE = flags.DEFINE_integer("alone", 2, "runs timed one after another")


def main(console):
    """Times both ways and prints the ratio."""
    config = config_lib.load(str(ROOT / "configs" / "digits.py"))
    config = config_lib.override(config, "training.num_epochs", EPOCHS.value)
    result = sweep_benchmark.compare(config, num_members=MEMBERS.value, num_alone=ALONE.value)
    console.print_json(json.dumps(result))


if __name__ == "__main__":
    cli.run(main)

"""What default and high precision of matrix products cost an evaluation, in nats; JSON out.

python scripts/benchmark_precision.py --workdir=runs/digits [--num_samples=100] \
    [--num_examples=100] [--save=cpu.npz] [--reference=cpu.npz]

Differences are to the highest precision here, or, with --reference, to what --save kept of the same
run on another device, such as a CPU.
"""

import json
import pathlib
import sys

import numpy as np
from absl import flags

from vaejax.errors import UserError
from vaejax.experiment import cli

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from benchmarks import precision as benchmark

flags.DEFINE_string("workdir", None, "folder of a trained run")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 100, "samples K", lower_bound=1)
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 100, "first test examples", lower_bound=1)
SAVE = flags.DEFINE_string("save", None, "file for the values at the highest precision")
REFERENCE = flags.DEFINE_string("reference", None, "file that --save wrote on another device")


def main(console):
    """Prints one JSON object."""
    given = None
    if REFERENCE.value is not None:
        if not pathlib.Path(REFERENCE.value).is_file():
            raise UserError(f"--reference: there is no file {REFERENCE.value}")
        with np.load(REFERENCE.value) as arrays:
            given = dict(arrays)
    found = benchmark.measure(
        cli.path("workdir"),
        num_samples=NUM_SAMPLES.value,
        num_examples=NUM_EXAMPLES.value,
        console=console,
    )
    if SAVE.value is not None:
        np.savez(SAVE.value, **found["highest"])
    reference = found["highest"] if given is None else given
    console.print_json(json.dumps(benchmark.differences(found, reference)))


if __name__ == "__main__":
    cli.run(main)

"""Leapfrog gradients per second of AIS on the MNIST MLP, against the matmul rate; JSON out.

python scripts/benchmark_evidence.py [--num_chains=16] [--num_examples=32]
"""

import json
import pathlib
import sys

from absl import flags

from vaejax.experiment import cli

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from benchmarks import bounds as benchmark

NUM_CHAINS = flags.DEFINE_integer("num_chains", 16, "chains per example")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 32, "examples per call")


def main(console):
    """Prints one JSON object."""
    result = benchmark.annealing_rate(num_chains=NUM_CHAINS.value, num_examples=NUM_EXAMPLES.value)
    console.print_json(json.dumps(result))


if __name__ == "__main__":
    cli.run(main)

"""Estimates the ELBO and the bounds L_k of a trained run, with errors.

python scripts/evaluate.py --workdir=runs/digits [--split=test] [--num_samples=5000]
"""

import pathlib

from absl import flags

from vaejax import cli, evaluate_run, reporting

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "samples K; default: the config's")


def main(console):
    """Evaluates, prints the table, names the files."""
    workdir = pathlib.Path(WORKDIR.value)
    result = evaluate_run.evaluate(
        workdir, split=SPLIT.value, num_samples=NUM_SAMPLES.value, console=console
    )
    console.print(reporting.bounds_table(result))
    console.print(reporting.diagnostics_line(result))
    console.print(f"figures: {workdir / 'figures'}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)

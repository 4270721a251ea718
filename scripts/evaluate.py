"""Estimates the ELBO and the bounds L_k of a trained run, with errors.

python scripts/evaluate.py --workdir=runs/digits [--split=test] [--num_samples=5000]

With --estimators or --gaps it adds log p(x) by other means and says where the ELBO falls
short, on the first examples of the split; budgets are --config.evidence...=value:

python scripts/evaluate.py --workdir=runs/digits \
    --estimators=importance,annealed,bidirectional,smc --gaps --num_examples=100
"""

import pathlib

from absl import flags

from vaejax.experiment import cli
from vaejax.runs import evaluate as evaluate_run
from vaejax.runs import evidence as evidence_run
from vaejax.runs import report as reporting
from vaejax.runs import summary as evidence_report

cli.define_overrides()
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "samples K; default: the config's")
ESTIMATORS = flags.DEFINE_list("estimators", [], "estimators of log p(x), of vaejax.evidence")
GAPS = flags.DEFINE_bool("gaps", False, "split log p(x) - ELBO into its two gaps")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "examples for --estimators and --gaps")


def main(console):
    """Evaluates, prints the tables, names the files."""
    workdir = pathlib.Path(WORKDIR.value)
    shared = {"split": SPLIT.value, "num_samples": NUM_SAMPLES.value, "console": console}
    if ESTIMATORS.value or GAPS.value:
        result = evidence_run.evaluate(
            workdir,
            estimators=tuple(ESTIMATORS.value),
            gaps=GAPS.value,
            num_examples=NUM_EXAMPLES.value,
            overrides=cli.overrides(),
            **shared,
        )
        evidence_report.show(result, console)
    else:
        result = evaluate_run.evaluate(workdir, **shared)
        console.print(reporting.bounds_table(result))
    console.print(reporting.diagnostics_line(result))
    if biased := reporting.biased_line(result):
        console.print(biased, style="yellow", soft_wrap=True)
    console.print(f"figures: {workdir / 'figures'}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)

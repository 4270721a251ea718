"""Estimates the ELBO and the bounds L_k of a trained run, with errors.

python scripts/evaluate.py --workdir=runs/digits [--split=test] [--num_samples=5000] [--profile=DIR]

With --estimators or --gaps it adds log p(x) by other means and says where the ELBO falls
short, on the first examples of the split; budgets are --config.evidence...=value, and those of
the bounds --config.evaluation...=value:

python scripts/evaluate.py --workdir=runs/digits \
    --estimators=importance,annealed,bidirectional,smc --gaps --num_examples=100
With --rates it splits the KL into its parts, budgets are --config.rates...=value.

Several hosts share the examples, with the flags of scripts/train.py (--coordinator=auto, ..).
"""

from absl import flags

from vaejax.experiment import cli, cluster, profile
from vaejax.runs import evaluate as evaluate_run
from vaejax.runs import rates, tables
from vaejax.storage import compilation

cli.define_overrides()
flags.DEFINE_string("workdir", None, "folder of the run", required=True)
profile.define_profile()
flags.adopt_module_key_flags(profile)
cluster.define_flags()
flags.adopt_module_key_flags(cluster)
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "samples K; default: the config's")
ESTIMATORS = flags.DEFINE_list("estimators", [], "estimators of log p(x), of vaejax.evidence")
GAPS = flags.DEFINE_bool("gaps", False, "split log p(x) - ELBO into its two gaps")
RATES = flags.DEFINE_bool("rates", False, "split the rate E KL(q(z|x) || p(z)) into its parts")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "examples for --estimators and --gaps")


def main(console):
    """Evaluates, prints the tables, names the files."""
    workdir = cli.path("workdir")
    request = {
        "split": SPLIT.value,
        "num_samples": NUM_SAMPLES.value,
        "estimators": ESTIMATORS.value,
        "gaps": GAPS.value,
        "rates": RATES.value,
        "num_examples": NUM_EXAMPLES.value,
        "overrides": cli.overrides(),
    }
    compilation.keep_programs_of_run(workdir, console)
    console = cluster.join(console, {f"--{name}": value for name, value in request.items()})
    with profile.profiled(console):
        result = evaluate_run.evaluate(workdir, **request, console=console)
    tables.show(result, console, with_evidence=bool(ESTIMATORS.value) or GAPS.value)
    if RATES.value:
        tables.show_rates(rates.read(workdir, SPLIT.value), console)
    console.print(f"figures: {workdir / 'figures'}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    cli.run(main)

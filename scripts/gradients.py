"""Bias, variance, signal-to-noise ratio and cost of gradient estimators.

python scripts/gradients.py --workdir=runs/digits [--num_samples=1,5,50,500] \
    [--estimators=iwae:pathwise,iwae:doubly_reparameterized|all] [--num_draws=400]
python scripts/gradients.py --config=configs/digits.py --out=gradients   # untrained parameters
"""

from absl import flags

from vaejax.errors import UserError
from vaejax.experiment import cli
from vaejax.laboratory import run as gradient_run
from vaejax.laboratory import settings as settings_lib
from vaejax.storage import compilation

cli.define_config("")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of a trained run")
OUT = flags.DEFINE_string("out", None, "with --config: folder for the results")
ESTIMATORS = flags.DEFINE_string(
    "estimators", None, "bound:estimator pairs, comma-separated, or all; none: the usual ones"
)
NUM_SAMPLES = flags.DEFINE_list("num_samples", ["1", "5", "50", "500"], "every K")
NUM_DRAWS = flags.DEFINE_integer("num_draws", 400, "gradients drawn for each pair and K")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 8, "examples in one gradient")
SEED = flags.DEFINE_integer("seed", 0, "seed of the draws")
SPLIT = flags.DEFINE_string("split", "test", "split of the examples")


def main(console):
    """Measures, prints the table and names the files."""
    if (WORKDIR.value is None) == (OUT.value is None):
        raise UserError("--workdir of a run, or --config with --out: needs one of the two")
    given = [f"--config.{path}" for path in cli.overrides()]
    if WORKDIR.value is not None and (flags.FLAGS.config or given):
        flag = "--config" if flags.FLAGS.config else given[0]
        raise UserError(f"{flag}: the run in --workdir has a config of its own; leave it out")
    text, numbers = ESTIMATORS.value, (NUM_DRAWS, NUM_EXAMPLES, SEED)
    settings = settings_lib.Settings(
        None if text is None else settings_lib.parse_pairs(text),
        settings_lib.parse_sizes(NUM_SAMPLES.value),
        *(n.value for n in numbers),
        SPLIT.value,
        only_possible=text == "all",
    )
    out = cli.path("out" if WORKDIR.value is None else "workdir")
    if WORKDIR.value is not None:
        compilation.keep_programs_of_run(out, console)
        result = gradient_run.measure_run(out, settings, console=console)
    else:
        settings_lib.check_overrides(cli.overrides())
        compilation.keep_programs(out, console)
        result = gradient_run.measure_config(cli.config(), out, settings, console=console)
    console.print(gradient_run.table(result))
    for line in gradient_run.summary_lines(result):
        console.print(line, soft_wrap=True)
    console.print(f"{out / gradient_run.RESULT}, {out / 'figures' / 'gradients.png'}")


if __name__ == "__main__":
    cli.run(main)

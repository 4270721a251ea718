"""What log p(x) is: eight experiments on exact or checkable numbers, and one page.

python scripts/explain.py --workdir=runs/explain [--only=identity,...] [--seed=0]

A budget is changed by --config.EXPERIMENT.key=value, e.g. --config.identity.num_examples=4.
"""

import pathlib

from absl import flags

from vaejax import schema
from vaejax.errors import UserError
from vaejax.experiment import cli
from vaejax.explain import config as explain_config
from vaejax.explain import run as explain_run
from vaejax.storage import compilation

CONFIG = pathlib.Path(__file__).resolve().parent.parent / "configs" / "explain.py"
cli.define_config(str(CONFIG))
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the results", required=True)
ONLY = flags.DEFINE_list("only", [], "experiments to run; default: all; others are kept")
SEED = flags.DEFINE_integer("seed", 0, "seed of everything", lower_bound=0, upper_bound=2**31 - 1)


def main(console):
    """Runs the experiments, names the files."""
    if ONLY.present and not ONLY.value:
        raise UserError("--only: needs an experiment, got none (a shell variable not set?)")
    config = explain_config.load(flags.FLAGS.config)
    config = schema.checked(cli.override(config, cli.overrides()))
    workdir = cli.path("workdir")
    compilation.keep_programs(workdir, console)
    explain_run.explain(config, workdir, only=ONLY.value, seed=SEED.value, console=console)
    console.print(f"page: {workdir / explain_run.PAGE}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)

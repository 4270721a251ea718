"""Trains the model of a config file, or resumes it where it stopped.

python scripts/train.py --config=configs/digits.py --workdir=runs/digits [--config.any.key=value]
"""

import pathlib

from absl import flags

from vaejax.experiment import cli
from vaejax.training import loop as train_run

cli.define_config()
flags.adopt_module_key_flags(cli)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)


def main(console):
    """Trains to the end, or to SIGTERM."""
    train_run.train(cli.config(), pathlib.Path(WORKDIR.value), console=console)


if __name__ == "__main__":
    cli.run(main)

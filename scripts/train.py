"""Trains the model of a config file, or resumes it where it stopped.

python scripts/train.py --config=configs/digits.py --workdir=runs/digits [--config.any.key=value]
"""

from absl import flags

from vaejax.experiment import cli
from vaejax.training import train

cli.define_config()
flags.adopt_module_key_flags(cli)
flags.DEFINE_string("workdir", None, "folder of the run", required=True)


def main(console):
    """Trains to the end, or to SIGTERM."""
    train.train(cli.config(), cli.path("workdir"), console=console)


if __name__ == "__main__":
    cli.run(main)

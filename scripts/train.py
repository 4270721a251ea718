"""Trains the model of a config file, or resumes it where it stopped.

python scripts/train.py --config=configs/digits.py --workdir=runs/digits \
    [--mesh=data:4] [--config.any.key=value]
"""

from absl import flags

from vaejax.experiment import cli, devices
from vaejax.training import train

cli.define_config()
flags.adopt_module_key_flags(cli)
flags.DEFINE_string("workdir", None, "folder of the run", required=True)
devices.define_mesh()
flags.adopt_module_key_flags(devices)


def main(console):
    """Trains to the end, or to SIGTERM."""
    layout = devices.layout()
    train.train(cli.config(), cli.path("workdir"), console=console, layout=layout)


if __name__ == "__main__":
    cli.run(main)

"""Trains the model of a config file, or resumes it where it stopped.

python scripts/train.py --config=configs/digits.py --workdir=runs/digits \
    [--mesh=data:4] [--profile=DIR] [--config.any.key=value]

Several hosts share a run where each one starts this with its number (docs/cluster.md):
--coordinator=HOST:PORT --num_processes=N --process_id=I, or --coordinator=auto.
"""

from absl import flags

from vaejax.experiment import cli, cluster, compilation, devices, profile
from vaejax.training import train

cli.define_config()
flags.adopt_module_key_flags(cli)
flags.DEFINE_string("workdir", None, "folder of the run", required=True)
devices.define_mesh()
flags.adopt_module_key_flags(devices)
profile.define_profile()
flags.adopt_module_key_flags(profile)
cluster.define_flags()
flags.adopt_module_key_flags(cluster)


def main(console):
    """Trains to the end, or to SIGTERM."""
    layout, config, workdir = devices.layout(), cli.config(), cli.path("workdir")
    compilation.keep_programs(workdir, console)
    console = cluster.join(console, cluster.of_config(config, mesh=layout))
    with profile.profiled(console):
        train.train(config, workdir, console=console, layout=layout)


if __name__ == "__main__":
    cli.run(main)

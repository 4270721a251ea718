"""Trains the model of a config file, or resumes it where it stopped.

python scripts/train.py --config=configs/digits.py --workdir=runs/digits \
    [--mesh=data:4] [--loggers=jsonl,tensorboard,wandb] [--profile=DIR] [--config.any.key=value]

Without training: --help_config [WORD] lists the keys with type, range, meaning, value and where
it was set; --dry_run shows config, data, shapes, parameters, memory and the time of an epoch.

Several hosts share a run where each one starts this with its number (docs/cluster.md):
--coordinator=HOST:PORT --num_processes=N --process_id=I, or --coordinator=auto.
"""

from absl import flags

from vaejax.experiment import cli, cluster, devices, dry_run, profile
from vaejax.storage import compilation, logging
from vaejax.training import train

cli.define_config()
cli.define_help()
flags.adopt_module_key_flags(cli)
flags.DEFINE_string("workdir", None, "folder of the run")
LOGGERS = flags.DEFINE_string("loggers", ",".join(logging.DEFAULT), "where numbers go: also wandb")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be trained, and stop")
devices.define_mesh()
flags.adopt_module_key_flags(devices)
profile.define_profile()
flags.adopt_module_key_flags(profile)
cluster.define_flags()
flags.adopt_module_key_flags(cluster)


def main(console):
    """Trains to the end, or to SIGTERM; says what was made, and what can be done with it."""
    layout, said = devices.layout(), cli.help_lines()
    loggers = logging.chosen(LOGGERS.value)
    config = cli.config() if said is None else None
    if said is None and DRY_RUN.value:
        said = dry_run.lines(config, layout=layout)
    if said is None:
        workdir = cli.path("workdir")
        compilation.keep_programs(workdir, console)
        console = cluster.join(console, cluster.of_config(config, mesh=layout))
        with profile.profiled(console):
            state = train.train(config, workdir, console=console, layout=layout, loggers=loggers)
        said = [
            f"{workdir}: trained for {int(state.step):,} steps; scripts/evaluate.py measures it"
        ]
    for line in said:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    cli.run(main)

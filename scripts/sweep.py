"""Trains and evaluates all members of a sweep, those that differ in numbers as one program.

python scripts/sweep.py --config=configs/digits.py --sweep=configs/sweeps/bounds.py \
    --workdir=runs/bounds [--seeds=3] [--launcher=local|ray] [--mesh=members:2,data:4] \
    [--loggers=jsonl,tensorboard,wandb] [--profile=DIR] [--config.any.key=value]
"""

from absl import flags

from vaejax.errors import UserError, unknown
from vaejax.experiment import cli, cluster, compilation, devices, profile
from vaejax.storage import logging
from vaejax.sweeps import launch, members, results

cli.define_config()
SWEEP = flags.DEFINE_string("sweep", None, "sweep file", required=True)
flags.DEFINE_string("workdir", None, "folder of the sweep", required=True)
SEEDS = flags.DEFINE_integer("seeds", None, "train each member with seeds 0..N-1")
LAUNCHER = flags.DEFINE_string("launcher", "local", "local or ray")
LOGGERS = flags.DEFINE_string("loggers", ",".join(logging.DEFAULT), "where numbers go: also wandb")
ADDRESS = flags.DEFINE_string("ray_address", None, "Ray cluster; default: a running or local one")
devices.define_mesh()
flags.adopt_module_key_flags(devices)
profile.define_profile()
flags.adopt_module_key_flags(profile)
cluster.define_flags()
MEMORY = flags.DEFINE_float("memory", None, "GiB of one device to use; default: what is sensible")


def main(console):
    """Runs what is missing, prints the table, names the files and the failures."""
    if LAUNCHER.value not in launch.LAUNCHERS:
        raise unknown("--launcher", LAUNCHER.value, launch.LAUNCHERS)
    if ADDRESS.value is not None and LAUNCHER.value != "ray":
        raise UserError("--ray_address: has an effect with --launcher=ray alone")
    if MEMORY.value is not None and not 2**-30 <= MEMORY.value <= 2**30:
        raise UserError(f"--memory: must be in 2**-30..2**30 GiB, got {MEMORY.value}")
    cluster.refuse("hosts share a sweep with --launcher=ray; leave it out")
    if flags.FLAGS.profile is not None and LAUNCHER.value != "local":
        raise UserError("--profile: traces this process; it has an effect with --launcher=local")
    layout = devices.layout()
    if LAUNCHER.value == "local":
        devices.use_all_cores()
    items = members.load(SWEEP.value)
    if SEEDS.value is not None:
        items = members.with_seeds(items, SEEDS.value)
    memory = MEMORY.value and int(MEMORY.value * 2**30)
    task = launch.Task(cli.path("workdir"), memory, layout, logging.chosen(LOGGERS.value))
    compilation.keep_programs(task.workdir, console)
    options = {"launcher": LAUNCHER.value, "address": ADDRESS.value}
    with profile.profiled(console):
        found = launch.sweep(cli.config(), items, task, console=console, **options)
    console.print(results.table(found, encoding=console.encoding))
    console.print(f"tables: {task.workdir / launch.TABLE}, {task.workdir / launch.SWEEP}")
    if failed := launch.failure_line(found):
        raise UserError(failed)


if __name__ == "__main__":
    cli.run(main)

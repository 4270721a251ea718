"""Trains and evaluates all members of a sweep, those that differ in numbers as one program.

python scripts/sweep.py --config=configs/digits.py --sweep=configs/sweeps/bounds.py \
    --workdir=runs/bounds [--seeds=3] [--launcher=local|ray] [--mesh=members:2,data:4] \
    [--search=optuna --trials=64] [--loggers=jsonl,tensorboard,wandb] [--profile=DIR] \
    [--config.any.key=value]
"""

from absl import flags

from vaejax.errors import UserError, unknown
from vaejax.experiment import cli, cluster, devices, profile, searching
from vaejax.storage import compilation, logging
from vaejax.sweeps import launch, results

cli.define_config()
SWEEP = flags.DEFINE_string("sweep", None, "sweep file", required=True)
flags.DEFINE_string("workdir", None, "folder of the sweep", required=True)
flags.DEFINE_integer("seeds", None, "train each member with seeds 0..N-1")
LAUNCHER = flags.DEFINE_string("launcher", "local", "local or ray")
LOGGERS = flags.DEFINE_string("loggers", ",".join(logging.DEFAULT), "where numbers go: also wandb")
ADDRESS = flags.DEFINE_string("ray_address", None, "Ray cluster; default: a running or local one")
MEMORY = flags.DEFINE_float("memory", None, "GiB of one device to use; default: what is sensible")
devices.define_mesh()
profile.define_profile()
searching.define_flags()
for module in (devices, profile, searching):
    flags.adopt_module_key_flags(module)
cluster.define_flags()


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
    run = searching.runner(SWEEP.value)
    memory = MEMORY.value and int(MEMORY.value * 2**30)
    task = launch.Task(cli.path("workdir"), memory, layout, logging.chosen(LOGGERS.value))
    compilation.keep_programs(task.workdir, console)
    options = {"launcher": LAUNCHER.value, "address": ADDRESS.value}
    with profile.profiled(console):
        found = run(cli.config(), task=task, console=console, **options)
    console.print(results.table(found, encoding=console.encoding))
    console.print(f"tables: {task.workdir / launch.TABLE}, {task.workdir / launch.SWEEP}")
    console.print(results.best_line(found, task.workdir), soft_wrap=True, markup=False)
    searching.report_failures(launch.failure_line(found), console)


if __name__ == "__main__":
    cli.run(main)

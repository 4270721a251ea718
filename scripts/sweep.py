"""Trains and evaluates all members of a sweep, those that differ in numbers as one program.

python scripts/sweep.py --config=configs/digits.py --sweep=configs/sweeps/bounds.py \
    --workdir=runs/bounds [--seeds=3] [--launcher=local|ray] [--config.any.key=value]
"""

import pathlib

from absl import flags

from vaejax.errors import UserError, unknown
from vaejax.experiment import cli
from vaejax.sweeps import group as sweep_group
from vaejax.sweeps import launch as sweep_run
from vaejax.sweeps import members as sweeps
from vaejax.sweeps import results as sweep_results

cli.define_config()
SWEEP = flags.DEFINE_string("sweep", None, "sweep file", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the sweep", required=True)
SEEDS = flags.DEFINE_integer("seeds", None, "train each member with seeds 0..N-1")
LAUNCHER = flags.DEFINE_string("launcher", "local", "local or ray")
ADDRESS = flags.DEFINE_string("ray_address", None, "Ray cluster; default: a running or local one")
MEMORY = flags.DEFINE_float("memory", None, "GiB of one device to use; default: what is sensible")


def main(console):
    """Runs what is missing, prints the table, names the files and the failures."""
    if LAUNCHER.value not in sweep_run.LAUNCHERS:
        raise unknown("--launcher", LAUNCHER.value, sweep_run.LAUNCHERS)
    if MEMORY.value is not None and not MEMORY.value > 0:
        raise UserError(f"--memory: must be above 0 GiB, got {MEMORY.value}")
    if LAUNCHER.value == "local":
        sweep_group.use_all_cores()
    items = sweeps.load(SWEEP.value)
    if SEEDS.value is not None:
        items = sweeps.with_seeds(items, SEEDS.value)
    workdir = pathlib.Path(WORKDIR.value)
    results = sweep_run.sweep(
        cli.config(),
        items,
        workdir,
        console=console,
        launcher=LAUNCHER.value,
        address=ADDRESS.value,
        memory=MEMORY.value and int(MEMORY.value * 2**30),
    )
    if results is None:
        return
    console.print(sweep_results.table(results))
    console.print(f"tables: {workdir / sweep_run.TABLE}, {workdir / sweep_run.SWEEP}")
    failed = sweep_run.failure_line(results)
    if failed:
        raise UserError(failed)


if __name__ == "__main__":
    cli.run(main)

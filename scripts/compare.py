"""Compares evaluated runs: paired differences with errors, figures, one HTML page.

python scripts/compare.py RUN [RUN ...] [--baseline=RUN] [--out=report] [--force]

A RUN is the folder of an evaluated run, or of a sweep (all its members). Runs that differ in
their seed alone are averaged.
"""

from absl import flags

from vaejax.comparison import run as compare_run
from vaejax.evaluation import terminal
from vaejax.experiment import cli
from vaejax.storage import workdir as workdir_lib

BASELINE = flags.DEFINE_string("baseline", None, "the RUN that others are compared with: first")
OUT = flags.DEFINE_string("out", "report", "folder for tables, figures and index.html")
FORCE = flags.DEFINE_bool("force", False, "print runs of different protocols, without differences")


def main(console, paths):
    """Compares, prints the table, names the files."""
    out = workdir_lib.check_path(OUT.value, flag="--out", checkpoints=False)
    paths = [workdir_lib.check_path(path, flag="RUN", checkpoints=False) for path in paths]
    report = compare_run.compare(
        paths, baseline=BASELINE.value, out=out, force=FORCE.value, console=console
    )
    for line in [*report.lines, f"report: {out / compare_run.PAGE}"]:
        console.print(terminal.literal(line, console.encoding), soft_wrap=True)


if __name__ == "__main__":
    cli.run_with_arguments(main)

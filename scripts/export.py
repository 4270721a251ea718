"""Copies a finished run to a folder to give away: config, parameters, evaluations, no more.

python scripts/export.py --workdir=runs/vae --to=docs/runs/vae

The copy is a run like any other, at about a third of the size: evaluate.py, sample.py, compare.py
and --config.training.start_from take it, and find the same numbers.
"""

from absl import flags

from vaejax.experiment import cli
from vaejax.runs import export as export_run
from vaejax.storage import compilation

flags.DEFINE_string("workdir", None, "folder of the run", required=True)
flags.DEFINE_string("to", None, "new folder of the copy", required=True)


def main(console):
    """Copies, and says what is there now."""
    workdir, to = cli.path("workdir"), cli.path("to")
    compilation.keep_programs_of_run(workdir, console)
    found = export_run.export(workdir, to, console=console)
    evaluated = ", ".join(found.splits) or "none"
    console.print(
        f"{to}: step {found.step:,}, {found.num_bytes / 1e6:.1f} MB; evaluations: {evaluated}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


if __name__ == "__main__":
    cli.run(main)

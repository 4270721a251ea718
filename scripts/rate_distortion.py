"""Draws evaluated runs in the plane of rate and distortion, e.g. a sweep of beta.

python scripts/rate_distortion.py RUN [RUN ...] [--out=rate_distortion] [--decoder=RUN] \
    [--num_examples=100]

A RUN is the folder of an evaluated run, or of a sweep (all its members). --decoder adds what the
decoder of one run can do with the best q for it, by AIS over its temperatures, on the first test
examples; its budget is --config.evidence.annealed...=value.
"""

from absl import flags

from vaejax.comparison import rate_distortion
from vaejax.experiment import cli
from vaejax.storage import compilation
from vaejax.storage import workdir as workdir_lib

cli.define_overrides()
OUT = flags.DEFINE_string("out", "rate_distortion", "folder for the table and the figure")
DECODER = flags.DEFINE_string("decoder", None, "the run whose decoder's curve is drawn")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "examples for --decoder")


def main(console, paths):
    """Draws, prints the table, names the files."""
    out = workdir_lib.check_path(OUT.value, flag="--out", checkpoints=False)
    decoder = None
    if DECODER.value is not None:
        decoder = workdir_lib.check_path(DECODER.value, flag="--decoder")
    paths = [workdir_lib.check_path(path, flag="RUN", checkpoints=False) for path in paths]
    compilation.keep_programs(out, console)
    rate_distortion.draw(
        paths,
        decoder=decoder,
        num_examples=NUM_EXAMPLES.value,
        overrides=cli.overrides(),
        out=out,
        console=console,
    )
    console.print(f"figure: {out / rate_distortion.FIGURE}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    cli.run_with_arguments(main)

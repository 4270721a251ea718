"""What a trained run draws: samples, reconstructions, interpolations, traversals of latents.

python scripts/sample.py --workdir=runs/digits [--temperature=0.8] [--num_samples=64] \
    [--split=test] [--seed=0] [--units=3,7]

Writes figures/sample-*.png and samples.npz (the pictures, seed, temperature, checkpoint step).
--temperature multiplies the noise that z ~ p(z) is made of, in every stochastic layer.
"""

from absl import flags

from vaejax import schema
from vaejax.errors import UserError
from vaejax.experiment import cli
from vaejax.runs import sample as sample_run
from vaejax.storage import compilation

flags.DEFINE_string("workdir", None, "folder of the run", required=True)
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "samples of the prior")
SEED = flags.DEFINE_integer("seed", 0, "seed of all draws")
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "T > 0: standard deviations of p(z) times T")
UNITS = flags.DEFINE_list("units", [], "latents to traverse; default: the ten most active ones")


def _units() -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(text) for text in UNITS.value))
    except ValueError as error:
        raise UserError(f"--units: needs whole numbers, got {schema.shown(UNITS.value)}") from error


def main(console):
    """Draws, and names the files."""
    numbers = (NUM_SAMPLES.value, SEED.value, TEMPERATURE.value)
    settings = sample_run.Settings(SPLIT.value, *numbers, _units())
    compilation.keep_programs_of_run(cli.path("workdir"), console)
    for path in sample_run.sample(cli.path("workdir"), settings, console=console):
        console.print(str(path), soft_wrap=True, markup=False)


if __name__ == "__main__":
    cli.run(main)

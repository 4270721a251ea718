"""Cells of Table 1 of Burda et al. (2016): the ELBO and L_K, at k = 1, 5 and 50.

python scripts/sweep.py --config=configs/papers/iwae_table1.py:short \
    --sweep=configs/sweeps/iwae_table1.py --workdir=runs/iwae_table1 --seeds=3

python scripts/sweep.py --config=configs/papers/iwae_table1.py:continued \
    --sweep=configs/sweeps/iwae_table1.py --workdir=runs/iwae_continued --seeds=3

The second goes on from the `vae-1` runs of the first, seed by seed, and needs only those (`:k=1`).
At k = 1 both objectives are the same: one cell. `:k=1` or `:k=1,k=5` takes a part of the table,
which a later start without it completes. Of `:static` and `L=2`, give the config the argument.

IWAE at k = 50 differentiates 8 of its 50 samples, `resampled(num_backward=8)`: an unbiased estimate
of the same gradient with 0.3% more variance in half the time (docs/laboratory.md). All of them:
`:k=50,pathwise`, in a folder of its own.
"""

from vaejax.errors import unknown
from vaejax.sweeps import members as sweeps

RESAMPLED = "resampled(num_backward=8)"
CELLS = {
    "k=1": (("vae", "elbo", 1, "pathwise"),),
    "k=5": (("vae", "elbo", 5, "pathwise"), ("iwae", "iwae", 5, "pathwise")),
    "k=50": (("vae", "elbo", 50, "pathwise"), ("iwae", "iwae", 50, RESAMPLED)),
}


def get_sweep(arg: str = "") -> list[sweeps.Overrides]:
    """Five members, or those of some k; --seeds=3 makes three times as many."""
    given = list(filter(None, arg.split(",")))
    for item in given:
        if item not in CELLS and item != "pathwise":
            raise unknown("--sweep argument", item, [*CELLS, "pathwise"])
    chosen = [item for item in given if item in CELLS] or [*CELLS]
    return [
        {
            "name": f"{label}-{num_samples}",
            "objective.bound": bound,
            "objective.num_samples": num_samples,
            "objective.gradient": "pathwise" if "pathwise" in given else gradient,
        }
        for item in chosen
        for label, bound, num_samples, gradient in CELLS[item]
    ]

"""Table 2 of Burda et al. (2016): a trained VAE goes on as IWAE-50, an IWAE-50 as VAE.

python scripts/sweep.py --config=configs/papers/iwae_table1.py:continued \
    --sweep=configs/sweeps/iwae_table2.py --workdir=runs/iwae_table2 --seeds=3

Each starts from the run of the same seed in runs/iwae_table1, which has to be there (`vae-1` and
`iwae-50` of `configs/sweeps/iwae_table1.py`), and takes 30 epochs. `:vae-1` or `:iwae-50` makes one
of the two; the name is what the run goes on as.
"""

from vaejax.errors import unknown
from vaejax.sweeps import members as sweeps

ROWS = {
    "iwae-50": {
        "training.start_from": "runs/iwae_table1/vae-1,seed={seed}",
        "objective.bound": "iwae",
        "objective.num_samples": 50,
        "objective.gradient": "resampled(num_backward=8)",
    },
    "vae-1": {
        "training.start_from": "runs/iwae_table1/iwae-50,seed={seed}",
        "objective.bound": "elbo",
        "objective.num_samples": 1,
        "objective.gradient": "pathwise",
    },
}


def get_sweep(arg: str = "") -> list[sweeps.Overrides]:
    """Two members, or the one that is named; --seeds=3 makes three times as many."""
    if arg and arg not in ROWS:
        raise unknown("--sweep argument", arg, [*ROWS])
    return [{"name": name, **row} for name, row in ROWS.items() if arg in ("", name)]

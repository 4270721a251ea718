"""The training bounds of the IWAE paper: the ELBO, L_5 and L_50.

python scripts/sweep.py --config=configs/digits.py --sweep=configs/sweeps/bounds.py \
    --workdir=runs/bounds --seeds=3
"""

from vaejax.sweeps import members as sweeps


def get_sweep() -> list[sweeps.Overrides]:
    """Three members; --seeds=3 makes nine of them."""
    iwae = {"objective.bound": "iwae"}
    return [
        {"name": "elbo", "objective.bound": "elbo"},
        {"name": "iwae-5", **iwae, "objective.num_samples": 5},
        {"name": "iwae-50", **iwae, "objective.num_samples": 50},
    ]

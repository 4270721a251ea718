"""p(z) normal against a VampPrior of 500 pseudo-inputs (Tomczak and Welling, 2018).

python scripts/sweep.py --config=configs/papers/vampprior.py:static \
    --sweep=configs/sweeps/priors.py --workdir=runs/vampprior --seeds=3
"""

from vaejax.sweeps import members as sweeps


def get_sweep() -> list[sweeps.Overrides]:
    """Two members; --seeds=3 makes six of them."""
    return [
        {"name": "plain", "model.prior": "normal"},
        {"name": "vamp", "model.prior": "vamp(num_components=500)"},
    ]

"""Richer posteriors, richer priors, and both, on the digits.

python scripts/sweep.py --config=configs/digits.py --sweep=configs/sweeps/models.py \
    --workdir=runs/models --seeds=2 --config.training.num_epochs=150

Every posterior with the normal prior, every prior with the normal posterior, flows for both, and
the best of each: 9 of the 16 pairs. docs/models.md has the results and the commands that made them.
"""

from vaejax.sweeps import members as sweeps

POSTERIORS = {
    "normal": "normal",
    "full": "full_normal",
    "coupling": "coupling",
    "iaf": "iaf",
}
PRIORS = {
    "normal": "normal",
    "mixture": "mixture(num_components=50)",
    "vamp": "vamp(num_components=50)",
    "coupling": "coupling",
}
PAIRS = (
    *(("normal", posterior) for posterior in POSTERIORS),
    *((prior, "normal") for prior in PRIORS if prior != "normal"),
    ("coupling", "coupling"),
    ("vamp", "full"),
)


def get_sweep() -> list[sweeps.Overrides]:
    """Nine members, named p_PRIOR-q_POSTERIOR."""
    return [
        {
            "name": f"p_{prior}-q_{posterior}",
            "model.prior": PRIORS[prior],
            "model.posterior": POSTERIORS[posterior],
        }
        for prior, posterior in PAIRS
    ]

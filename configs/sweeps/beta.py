"""The weight of the KL, for a rate-distortion curve: all members are one program.

python scripts/sweep.py --config=configs/digits.py --sweep=configs/sweeps/beta.py \
    --workdir=runs/beta
python scripts/rate_distortion.py runs/beta --decoder=runs/beta/beta=1.0
"""

from vaejax.sweeps import members as sweeps

BETAS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def get_sweep() -> list[sweeps.Overrides]:
    """Members that differ in beta alone."""
    return [{"objective.beta": beta} for beta in BETAS]

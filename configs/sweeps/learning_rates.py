"""Eight learning rates, drawn log-uniformly; with --seeds=2 sixteen members, one program.

python scripts/sweep.py --config=configs/digits.py --sweep=configs/sweeps/learning_rates.py \
    --workdir=runs/rates --seeds=2
"""

from vaejax.sweeps import members as sweeps


def get_sweep() -> list[sweeps.Overrides]:
    """Members that differ in a number alone."""
    return sweeps.log_uniform("optimizer.learning_rate", 1e-4, 1e-2, n=8, seed=0)

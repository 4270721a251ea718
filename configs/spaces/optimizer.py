"""What Adam needs to know, and how much the KL counts while it learns: six numbers.

python scripts/sweep.py --config=configs/digits.py --sweep=configs/spaces/optimizer.py \
    --search=optuna --trials=64 --workdir=runs/search

`pip install -e '.[optuna]'` first; --search=random needs nothing, and is what to compare with.
"""

from vaejax.sweeps.spaces import Choice, Space, Uniform


def get_space() -> Space:
    """Numbers alone, so that every trial is the same program."""
    return {
        "optimizer.learning_rate": Uniform(1e-5, 1.0, log=True),
        "optimizer.b1": Uniform(0.0, 0.99),
        "optimizer.b2": Choice((0.9, 0.99, 0.999)),
        "optimizer.eps": Uniform(1e-8, 1e-1, log=True),
        "optimizer.weight_decay": Uniform(1e-6, 1.0, log=True),
        "objective.beta": Uniform(0.1, 4.0, log=True),
    }

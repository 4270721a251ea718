"""q(z|x) normal against a flow (Cremer, Li and Duvenaud, 2018).

python scripts/sweep.py --config=configs/papers/inference_gaps.py:short,static \
    --sweep=configs/sweeps/inference_gaps.py --workdir=runs/gaps_static --seeds=3
"""

from vaejax.sweeps import members as sweeps


def get_sweep() -> list[sweeps.Overrides]:
    """Two members; --seeds=3 makes six of them."""
    flow = "coupling(num_layers=4, hidden_dims=(200,), context_dims=50)"
    return [
        {"name": "normal", "model.posterior": "normal"},
        {"name": "flow", "model.posterior": flow},
    ]

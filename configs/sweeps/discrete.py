"""Gradients of phi without a path at two K: VIMCO, reweighted wake-sleep and REINFORCE.

python scripts/sweep.py --config=configs/mnist_sbn.py --sweep=configs/sweeps/discrete.py \
    --workdir=runs/discrete --seeds=3 --config.training.num_epochs=10

theta follows L_K of the K samples of z that all of them draw. `:all` adds OVIS, `sleep_phi`
(which draws K dreams beside them) and REINFORCE on the ELBO.
"""

from vaejax.errors import unknown
from vaejax.sweeps import members as sweeps

NUM_SAMPLES = (5, 50)
GRADIENTS = {"": ("vimco", "wake_phi", "reinforce")}
GRADIENTS["all"] = (*GRADIENTS[""], "ovis", "sleep_phi")


def _member(bound: str, gradient: str, num_samples: int) -> sweeps.Overrides:
    label = gradient if bound == "iwae" else f"{gradient}-elbo"
    return {
        "name": f"{label}-{num_samples}",
        "objective.bound": bound,
        "objective.gradient": gradient,
        "objective.num_samples": num_samples,
    }


def get_sweep(arg: str = "") -> list[sweeps.Overrides]:
    """Six members, or twelve; --seeds=3 makes three times as many."""
    if arg not in GRADIENTS:
        raise unknown("--sweep argument", arg, ["all"])
    pairs = [("iwae", gradient) for gradient in GRADIENTS[arg]]
    if arg == "all":
        pairs.append(("elbo", "reinforce"))
    return [_member(*pair, num_samples) for num_samples in NUM_SAMPLES for pair in pairs]

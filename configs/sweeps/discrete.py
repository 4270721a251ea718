"""Gradients of phi without a path: VIMCO, OVIS, reweighted wake-sleep and REINFORCE at one K.

python scripts/sweep.py --config=configs/mnist_sbn.py --sweep=configs/sweeps/discrete.py \
    --workdir=runs/discrete --seeds=3

All draw the K samples of z of the config, at which theta follows L_K (the ELBO in the last member);
`sleep_phi` draws K dreams beside them. Not trained here yet.
"""

from vaejax.sweeps import members as sweeps

GRADIENTS = ("vimco", "ovis", "wake_phi", "sleep_phi", "reinforce")


def get_sweep() -> list[sweeps.Overrides]:
    """Six members; --seeds=3 makes 18 of them."""
    members = [
        {"name": gradient, "objective.bound": "iwae", "objective.gradient": gradient}
        for gradient in GRADIENTS
    ]
    elbo = {"objective.bound": "elbo", "objective.gradient": "reinforce"}
    return [*members, {"name": "reinforce-elbo", **elbo}]

"""Tomczak and Welling (2018), one stochastic layer: p(z) normal or a VampPrior.

    python scripts/train.py --config=configs/papers/vampprior.py:static,vamp --workdir=runs/vamp
    python scripts/evaluate.py --workdir=runs/vamp

Arguments, any of them, in any order: `vamp` (default, 500 pseudo-inputs) or `plain`; `static`
(default, TFDS `binarized_mnist`), `mnist` or `omniglot`. Gated 300-300 networks, 40 latents, Adam
at 5e-4, batches of 100, 100 epochs of KL warm-up, at most 2,000 epochs, stopped after 50 without a
better validation bound. Their hierarchies of two layers are not here. `static,plain` took 16
minutes on a core and ends at L_5000 = -88.29, `static,vamp` an hour, at -85.53 (docs/results.md).

The Omniglot of `omniglot_28` is another cut of the drawings than the paper's.
"""

from vaejax.config import Config, Dataset, Model, Objective, Optimizer, Training
from vaejax.errors import UserError, unknown

PRIORS = {"plain": "normal", "vamp": "vamp(num_components=500)"}
DATA = {
    "static": Dataset(
        name="binarized_mnist",
        binarization="none",
        validation_split="validation",
        num_validation=0,
    ),
    "mnist": Dataset(name="mnist", num_validation=10_000),
    "omniglot": Dataset(name="omniglot_28", num_validation=1345),
}


def _parse(arg: str) -> tuple[str, str]:
    """Names of the prior and of the data."""
    chosen = {"prior": "vamp", "data": "static"}
    given: set[str] = set()
    for item in filter(None, arg.split(",")):
        if item not in PRIORS and item not in DATA:
            raise unknown("--config argument", item, [*PRIORS, *DATA])
        kind = "prior" if item in PRIORS else "data"
        if kind in given:
            raise UserError(f"--config argument {arg}: names two of {', '.join(_names(kind))}")
        given.add(kind)
        chosen[kind] = item
    return chosen["prior"], chosen["data"]


def _names(kind: str) -> list[str]:
    return [*(PRIORS if kind == "prior" else DATA)]


def get_config(arg: str = "") -> Config:
    """The paper's protocol; see the module's docstring for `arg`."""
    prior, data = _parse(arg)
    return Config(
        dataset=DATA[data],
        model=Model(
            latent_dims=(40,),
            prior=PRIORS[prior],
            encoder="gated_mlp(hidden_dims=(300, 300))",
        ),
        objective=Objective(warmup_epochs=100),
        optimizer=Optimizer(learning_rate=5e-4),
        training=Training(num_epochs=2000, batch_size=100, patience=50),
    )

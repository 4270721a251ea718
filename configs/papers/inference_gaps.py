"""Cremer, Li and Duvenaud (2018), Table 2: what the family of q costs, and what the encoder.

    python scripts/train.py --config=configs/papers/inference_gaps.py:short,flow --workdir=runs/flow
    python scripts/evaluate.py --workdir=runs/flow --split=train --num_samples=100 \
        --estimators=annealed --gaps

Arguments, any of them, in any order: `normal` (default) or `flow`, the family of q; `static`
(default, TFDS `binarized_mnist`) or `fashion` (Fashion-MNIST, 0 or 1 by a threshold), as in their
code; `short`. 784-200-200-50 networks of ELU, batches of 100, Adam with eps 1e-4, 3,280 epochs in
the 8 stages of Burda et al. from 1e-3, over the first 400 of which beta rises to 1. `short` takes
400 epochs, a cosine from 1e-3 to 0, eps 1e-8 and 50 epochs of warm-up.

Their flow has auxiliary variables, and two steps that change both halves of (z, v); here four
coupling layers change the halves of z in turn, with the same 200 hidden units. They give the gaps
on training images: --split=train. What was measured: docs/results.md.
"""

from vaejax.config import Config, Dataset, Model, Objective, Optimizer, Training
from vaejax.errors import UserError, unknown

POSTERIORS = {
    "normal": "normal",
    "flow": "coupling(num_layers=4, hidden_dims=(200,), context_dims=50)",
}
DATA = {
    "static": Dataset(
        name="binarized_mnist",
        binarization="none",
        validation_split="validation",
        num_validation=0,
    ),
    "fashion": Dataset(name="fashion_mnist", binarization="threshold", num_validation=5000),
}
_STAGES = tuple(3**i for i in range(8))


def _parse(arg: str) -> tuple[str, str, bool]:
    """Names of q's family and of the data, and whether the training is short."""
    words = [item for item in arg.split(",") if item]
    for item in words:
        if item not in (*POSTERIORS, *DATA, "short"):
            raise unknown("--config argument", item, [*POSTERIORS, *DATA, "short"])
    chosen = []
    for names in (POSTERIORS, DATA):
        given = [item for item in words if item in names] or [next(iter(names))]
        if len(set(given)) > 1:
            raise UserError(f"--config argument {arg}: takes one of {', '.join(names)}")
        chosen.append(given[0])
    return chosen[0], chosen[1], "short" in words


def _training(*, short: bool) -> tuple[Optimizer, Training]:
    if short:
        return Optimizer(learning_rate=1e-3, schedule="cosine"), Training(
            num_epochs=400, batch_size=100, validate_every=10
        )
    optimizer = Optimizer(
        learning_rate=1e-3,
        eps=1e-4,
        schedule="staged",
        stage_epochs=_STAGES,
        stage_scales=tuple(10 ** (-i / 7) for i in range(8)),
    )
    return optimizer, Training(num_epochs=sum(_STAGES), batch_size=100, validate_every=10)


def get_config(arg: str = "") -> Config:
    """The protocol of the authors' code, or a short one; see the module's docstring for `arg`."""
    posterior, data, short = _parse(arg)
    optimizer, training = _training(short=short)
    return Config(
        dataset=DATA[data],
        model=Model(
            latent_dims=(50,),
            encoder="mlp(hidden_dims=(200, 200), activation='elu')",
            posterior=POSTERIORS[posterior],
        ),
        objective=Objective(warmup_epochs=50 if short else 400),
        optimizer=optimizer,
        training=training,
    )

"""Burda, Grosse and Salakhutdinov (2016), Table 1: VAE against IWAE on MNIST.

    python scripts/train.py --config=configs/papers/iwae_table1.py:short,vae,k=1 --workdir=runs/vae
    python scripts/evaluate.py --workdir=runs/vae

Arguments, any of them, in any order: `vae` or `iwae` (default); `L=1` or `L=2` stochastic layers;
`k=` samples (50); `static`: the fixed binarisation of TFDS `binarized_mnist`, with its validation
images; and how long: `stages=1..8`, `short` or `continued`.

The full protocol has 8 stages of 3^(i-1) epochs, 3,280 in all, at rates 1e-4 * round(10^(1 -
(i-1)/7), 1), batches of 20, Adam with eps 1e-4; fewer stages stop early. `short` takes 400 epochs,
also in batches of 20, with a cosine from 1e-3 to 0, and keeps 5,000 training images for validation.
`continued` takes the `short,vae,k=1` run of the same seed in runs/iwae_table1 (runs/iwae_static; or
--config.training.start_from=...) and trains it for 30 epochs more with the bound and k that are
asked for, with a cosine from 1e-4, the rate of the paper's Table 2: the cells of k = 50 in an hour.
All cells and seeds: `configs/sweeps/iwae_table1.py`, where IWAE at k = 50 differentiates 8 of its
samples; here all, without `--config.objective.gradient=...`. What was measured: docs/results.md.
"""

import itertools

from vaejax.config import Config, Dataset, Model, Objective, Optimizer, Training
from vaejax.errors import UserError, unknown

ARCHITECTURES = {
    1: Model(latent_dims=(50,), encoder="mlp(hidden_dims=(200, 200))"),
    2: Model(
        latent_dims=(100, 50),
        encoder=("mlp(hidden_dims=(200, 200))", "mlp(hidden_dims=(100, 100))"),
    ),
}
BOUNDS = {"vae": "elbo", "iwae": "iwae"}
BATCH_SIZE = 20
SHORT_RATE, CONTINUED_RATE = 1e-3, 1e-4
LENGTHS = ("short", "continued", "stages")


def _parse(arg: str) -> tuple[set[str], dict[str, int]]:
    """The words and the numbers of `arg`."""
    words, numbers = set(), {"L": 1, "k": 50, "stages": 8}
    legal = [*BOUNDS, "short", "continued", "static", "L=1", "L=2", "k=50", "stages=8"]
    for item in filter(None, arg.split(",")):
        name, equals, value = item.partition("=")
        if not equals and name in legal:
            words.add(name)
        elif name in numbers and value.isdigit():
            numbers[name] = int(value)
        else:
            raise unknown("--config argument", item, legal)
    for name, low, high in (("L", 1, 2), ("stages", 1, 8)):
        if not low <= numbers[name] <= high:
            raise UserError(f"--config argument {name}: {low} to {high}, got {numbers[name]}")
    for one, other in (("vae", "iwae"), *itertools.combinations(LENGTHS, 2)):
        if one in words and (other in words or f"{other}=" in arg):
            raise UserError(f"--config argument {arg}: takes {one} or {other}, not both")
    return words, numbers


def _full(num_stages: int) -> tuple[Optimizer, Training]:
    epochs = tuple(3**i for i in range(num_stages))
    optimizer = Optimizer(
        learning_rate=1e-4,
        b1=0.9,
        eps=1e-4,
        schedule="staged",
        stage_epochs=epochs,
        stage_scales=tuple(round(10 ** (1 - i / 7), 1) for i in range(num_stages)),
    )
    return optimizer, Training(num_epochs=sum(epochs), batch_size=BATCH_SIZE)


def _short(start_from: str | None) -> tuple[Optimizer, Training]:
    """400 epochs from scratch, or 30 from the end of another run."""
    rate, epochs, every = (SHORT_RATE, 400, 10)
    if start_from is not None:
        rate, epochs, every = (CONTINUED_RATE, 30, 5)
    return Optimizer(learning_rate=rate, schedule="cosine"), Training(
        start_from=start_from, num_epochs=epochs, batch_size=BATCH_SIZE, validate_every=every
    )


def _start(words: set[str]) -> str | None:
    if "continued" not in words:
        return None
    return f"runs/{'iwae_static' if 'static' in words else 'iwae_table1'}/vae-1,seed={{seed}}"


def _dataset(words: set[str]) -> Dataset:
    if "static" in words:
        return Dataset(
            name="binarized_mnist",
            binarization="none",
            validation_split="validation",
            num_validation=0,
        )
    return Dataset(name="mnist", num_validation=5000 if words & set(LENGTHS) else 0)


def get_config(arg: str = "") -> Config:
    """The paper's protocol, or a short one; see the module's docstring for `arg`."""
    words, numbers = _parse(arg)
    short = bool(words & set(LENGTHS))
    optimizer, training = _short(_start(words)) if short else _full(numbers["stages"])
    return Config(
        dataset=_dataset(words),
        model=ARCHITECTURES[numbers["L"]],
        objective=Objective(
            bound=BOUNDS["vae" if "vae" in words else "iwae"], num_samples=numbers["k"]
        ),
        optimizer=optimizer,
        training=training,
    )

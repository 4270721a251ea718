"""Typed configuration: every value's type, range and meaning. Values live in `configs/`.

A config is a tree of frozen dataclasses, and a pytree: numbers that change neither shapes nor
code (learning rate, beta, the options of a bound) are its leaves, so one compiled program
serves all their values, and a sweep is `vmap` over a stacked config. Everything else is part of
its structure. Nothing is checked when a config is made: `validated` checks a concrete one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from vaejax import consistency, python_files, schema
from vaejax.errors import UserError
from vaejax.models import latent_variable
from vaejax.objectives import bounds, gradients
from vaejax.parts import Part
from vaejax.schema import field

Model = latent_variable.Config
schema.register(Model)
_SEEDS: dict[str, Any] = {"low": 0, "high": 2**31 - 1}


@schema.register
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Which images, and how they become x."""

    name: str = field("digits", "bundled or prepared TFDS dataset, or path of a .npz or .npy file")
    data_dir: str | None = field(
        None, "where datasets lie; None: TFDS_DATA_DIR or the home", identity=False
    )
    train_split: str = field("train", "split to train on (slices allowed)")
    test_split: str = field("test", "split that nothing is ever chosen on")
    validation_split: str | None = field(
        None, "split to validate on, whole; None: the end of the train split"
    )
    num_validation: int = field(
        200, "images taken from the end of the train split", low=0, high=2**31 - 1
    )
    binarization: Literal["dynamic", "static", "threshold", "none"] = field(
        "dynamic",
        "dynamic: fresh 0/1 draws in training, one fixed draw in evaluation; static: one fixed "
        "draw for both; threshold: above the middle; none: as they are, whole numbers for a mass "
        "over levels, levels / 255 for a density",
    )
    binarization_seed: int = field(0, "seed of the fixed draws, of 0/1 or of noise", **_SEEDS)
    levels: int = field(256, "grey or colour levels that are told apart", low=2, high=256)
    dequantize: bool = field(
        False, "density: x is (level + u) / levels, u uniform: fresh in training, else fixed"
    )

    @property
    def has_validation(self) -> bool:
        """Whether there are images to choose on."""
        return self.validation_split is not None or self.num_validation > 0


@schema.register
@dataclasses.dataclass(frozen=True)
class Objective:
    """What training maximises."""

    bound: Part = field("elbo", "bound on log p(x)", parts=bounds.FUNCTIONS, traced=True)
    inference_bound: Part | None = field(
        None,
        "bound that phi follows instead (an upper one it minimises); None: the same",
        parts=bounds.FUNCTIONS,
        traced=True,
    )
    gradient: Part = field(
        "pathwise", "gradient estimator of phi", parts=gradients.FUNCTIONS, traced=True
    )
    num_samples: int = field(1, "samples K of z per example", low=1, high=2**31 - 1)
    beta: float = field(1.0, "weight of log q - log p(z); 0: reconstruction", low=0.0, traced=True)
    warmup_epochs: float = field(0.0, "epochs over which beta rises from 0", low=0.0, traced=True)
    free_bits: float = field(0.0, "KL per latent unit that is free, nats", low=0.0, traced=True)
    allow_biased: bool = field(False, "take a gradient known to be biased; stamped into results")


@schema.register
@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam (Kingma and Ba 2015), its learning-rate schedule, and what it does not follow."""

    learning_rate: float = field(1e-3, "base rate", low=0.0, traced=True)
    b1: float = field(0.9, "decay of the first moment", low=0.0, below=1.0, traced=True)
    b2: float = field(0.999, "decay of the second moment", low=0.0, below=1.0, traced=True)
    eps: float = field(1e-8, "added to the root of the second moment", low=0.0, traced=True)
    second_moment_init: float = field(0.0, "second moments start here", low=0.0, traced=True)
    weight_decay: float | None = field(
        None,
        "AdamW: every parameter shrinks by rate times this a step; None: off",
        low=0.0,
        traced=True,
    )
    clip_norm: float | None = field(
        None, "longer gradients are cut to this global norm; None: off", low=1e-6, traced=True
    )
    skip_norm: float | None = field(
        None,
        "steps whose gradient is longer, or not finite, are skipped and counted; None: off",
        low=1e-6,
        traced=True,
    )
    schedule: Literal["constant", "cosine", "staged"] = field("constant", "rate over time")
    final_scale: float = field(0.0, "cosine: last rate / base rate", low=0.0, traced=True)
    stage_epochs: tuple[int, ...] = field((), "staged: epochs of each stage", low=1, high=2**31 - 1)
    stage_scales: tuple[float, ...] = field((), "staged: rate / base rate of each", low=0.0)


@schema.register
@dataclasses.dataclass(frozen=True)
class Training:
    """How long, in what steps, what is kept."""

    parameters: Literal["all", "generative", "inference"] = field(
        "all", "which are trained: all, theta of p(x, z), or phi of q(z|x)"
    )
    start_from: str | None = field(
        None,
        "workdir of a run whose parameters this one starts with; {seed} in it: this one's seed",
    )
    num_epochs: int = field(100, "passes over the training images", low=1, high=2**31 - 1)
    batch_size: int = field(100, "examples per step", low=1, high=2**31 - 1)
    max_steps_per_call: int = field(
        1000, "steps compiled into one call at most", low=1, high=2**31 - 1
    )
    precision: Literal["default", "high", "highest"] = field(
        "default", "of float32 matrix products in training; default: the fastest of the device"
    )
    ema_decay: float | None = field(
        None, "average parameters for evaluation; None: off", low=0.0, below=1.0, traced=True
    )
    patience: int | None = field(
        None,
        "validations without improvement, after any warm-up, before stopping; None: never",
        low=1,
        high=2**31 - 1,
    )
    validate_every: int = field(1, "epochs between validations", low=1, high=2**31 - 1)
    validation_samples: int = field(10, "K of the validation bound", low=1, high=2**31 - 1)
    checkpoint_seconds: float = field(
        30.0, "seconds between checkpoints; 0: each call", low=0.0, identity=False
    )
    checkpoints_to_keep: int = field(
        2, "newest checkpoints kept", low=2, high=10**6, identity=False
    )


@schema.register
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How log p(x) is estimated."""

    num_samples: int = field(5000, "samples K per example", low=1, high=2**31 - 1, identity=False)
    seed: int = field(
        0, "seed of the samples (common to all runs compared)", **_SEEDS, identity=False
    )
    chunk_size: int = field(
        1000, "decoder evaluations held in memory at once", low=1, high=2**31 - 1, identity=False
    )


def _section(cls: type) -> Any:
    return dataclasses.field(default_factory=cls)


@schema.register
@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    seed: int = field(0, "seed of training", **_SEEDS, traced=True)
    dataset: Dataset = _section(Dataset)
    model: Model = _section(Model)
    objective: Objective = _section(Objective)
    optimizer: Optimizer = _section(Optimizer)
    training: Training = _section(Training)
    evaluation: Evaluation = _section(Evaluation)


def override(config: Config, path: str, value: Any) -> Config:
    """`config` with the value at dotted `path` replaced. Raises UserError."""
    return schema.replace(config, path, value)


def override_all(config: Config, overrides: Mapping[str, Any]) -> Config:
    """All of `overrides`; the result is validated. Raises UserError."""
    for path, value in overrides.items():
        config = override(config, path, value)
    return validated(config)


def override_text(config: Config, overrides: Mapping[str, str]) -> Config:
    """As `override_all`, from the text of a command line, parsed by the type of each key."""
    values = {path: schema.from_text(config, path, text) for path, text in overrides.items()}
    return override_all(config, values)


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dict of plain values, as JSON holds it."""
    return schema.to_dict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The config that `to_dict` wrote, checked again. Raises UserError."""
    return override_all(Config(), schema.flatten(values))


def load(reference: str) -> Config:
    """What `get_config(argument)` of "path/to/file.py" or "path/to/file.py:argument" returns.

    Raises:
      UserError: no such file, a file that does not run, or a bad result.
    """
    config = python_files.call(reference, "get_config", flag="--config")
    if not isinstance(config, Config):
        raise UserError(f"--config: {reference}: get_config must return vaejax.config.Config")
    return validated(config)


def identity(config: Config) -> dict[str, Any]:
    """What makes the run what it is, flat: all that changes its parameters or what it logs.

    Where data lie, how often to save and how to evaluate are left out.
    """
    return identity_of(to_dict(config))


def identity_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """As `identity`, of a config as JSON holds it, which may be of another version."""
    beside = {path for path, _, item in schema.leaves(Config()) if not item.metadata["identity"]}
    flat = schema.flatten(values)
    return {path: value for path, value in flat.items() if path not in beside}


def differences(ours: Config, theirs: Config) -> list[str]:
    """One "path: ours != theirs" for each key in which two runs are not the same run.

    A run may go on for more epochs where its schedule does not depend on their number.
    """
    left, right = identity(ours), identity(theirs)
    return [
        f"{path}: {left[path]!r} != {right[path]!r}"
        for path in sorted(left)
        if left[path] != right[path] and not _may_grow(path, ours, theirs)
    ]


def _may_grow(path: str, ours: Config, theirs: Config) -> bool:
    kinds = {ours.optimizer.schedule, theirs.optimizer.schedule}
    if path == "training.num_epochs":
        return kinds <= {"constant", "staged"}
    if path in ("optimizer.stage_epochs", "optimizer.stage_scales") and kinds == {"staged"}:
        new = getattr(ours.optimizer, path.rpartition(".")[2])
        old = getattr(theirs.optimizer, path.rpartition(".")[2])
        return new[: len(old)] == old
    return False


def validated(config: Config) -> Config:
    """`config` with every value in its type, and all of them checked against each other.

    Raises:
      UserError: a value of the wrong type or out of range, or values that do not go together;
        every problem is named.
    """
    config = schema.checked(config)
    found = consistency.problems(config)
    if found:
        raise UserError("config." + "; config.".join(found))
    return config


def biased_gradient(objective: Objective) -> str | None:
    """Why the phi gradient of `objective` is biased for the bound it names; None: it is not."""
    return gradients.bias(objective.gradient, objective.inference_bound or objective.bound)

"""Typed configuration: every value's type, range and meaning. Values live in `configs/`.

A config is a tree of frozen dataclasses. `override`, `from_dict` and `load` are the only
ways in, and each names the dotted path, what is legal and what came. Numbers that change
neither shapes nor code are *traced*: the compiled program takes them as arguments, so one
program serves all their values.
"""

import dataclasses
import math
from typing import Any, Literal

from vaejax import python_files, schema
from vaejax.errors import UserError, unknown
from vaejax.evidence import estimators as evidence
from vaejax.evidence import gaps
from vaejax.models import registry as models
from vaejax.objectives import bounds, gradients
from vaejax.schema import field
from vaejax.types import Numbers


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Which images, and how they become x."""

    name: str = field("digits", "bundled dataset, or any TFDS image dataset that is prepared")
    data_dir: str | None = field(None, "where datasets lie; None: TFDS_DATA_DIR or the home")
    train_split: str = field("train", "TFDS split to train on (slices allowed)")
    test_split: str = field("test", "TFDS split that nothing is ever chosen on")
    num_validation: int = field(200, "images taken from the end of the train split", low=0)
    binarization: Literal["dynamic", "none"] = field(
        "dynamic", "dynamic: fresh 0/1 draws in training, one fixed draw in evaluation"
    )
    binarization_seed: int = field(0, "seed of the fixed draw", low=0, high=2**31 - 1)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What training maximises."""

    bound: str = field("elbo", "bound on log p(x): name or name(option=value) of vaejax.bounds")
    inference_bound: str | None = field(
        None, "bound that phi follows instead (an upper one it minimises); None: the same"
    )
    gradient: Literal[tuple(gradients.GRADIENTS)] = field("pathwise", "gradient estimator of phi")
    num_samples: int = field(1, "samples K of z per example", low=1)
    beta: float = field(1.0, "weight of log q - log p(z); 0: reconstruction", low=0.0, traced=True)
    warmup_epochs: float = field(0.0, "epochs over which beta rises from 0", low=0.0, traced=True)
    free_bits: float = field(0.0, "KL per latent unit that is free, nats", low=0.0, traced=True)
    allow_biased: bool = field(False, "take a gradient known to be biased; stamped into results")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam (Kingma and Ba 2015) and its learning-rate schedule."""

    learning_rate: float = field(1e-3, "base rate", low=0.0, traced=True)
    b1: float = field(0.9, "decay of the first moment", low=0.0, below=1.0, traced=True)
    b2: float = field(0.999, "decay of the second moment", low=0.0, below=1.0, traced=True)
    eps: float = field(1e-8, "added to the root of the second moment", low=0.0, traced=True)
    second_moment_init: float = field(0.0, "second moments start here", low=0.0, traced=True)
    schedule: Literal["constant", "cosine", "staged"] = field("constant", "rate over time")
    final_scale: float = field(0.0, "cosine: last rate / base rate", low=0.0, traced=True)
    stage_epochs: tuple[int, ...] = field((), "staged: epochs of each stage", low=1)
    stage_scales: tuple[float, ...] = field((), "staged: rate / base rate of each", low=0.0)


@dataclasses.dataclass(frozen=True)
class Training:
    """How long, in what steps, what is kept."""

    parameters: Literal["all", "generative", "inference"] = field(
        "all", "which are trained: all, theta of p(x, z), or phi of q(z|x)"
    )
    start_from: str | None = field(None, "workdir of a run whose parameters this one starts with")
    num_epochs: int = field(100, "passes over the training images", low=1)
    batch_size: int = field(100, "examples per step", low=1)
    max_steps_per_call: int = field(1000, "steps compiled into one call at most", low=1)
    ema_decay: float | None = field(
        None, "average parameters for evaluation; None: off", low=0.0, below=1.0, traced=True
    )
    patience: int | None = field(
        None, "validations without improvement before stopping; None: never", low=1
    )
    validate_every: int = field(1, "epochs between validations", low=1)
    validation_samples: int = field(10, "K of the validation bound", low=1)
    checkpoint_seconds: float = field(30.0, "seconds between checkpoints; 0: each call", low=0.0)
    checkpoints_to_keep: int = field(2, "newest checkpoints kept", low=2)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How log p(x) is estimated."""

    num_samples: int = field(5000, "samples K per example", low=1)
    seed: int = field(0, "seed of the samples (common to all runs compared)", low=0, high=2**31 - 1)
    chunk_size: int = field(1000, "decoder evaluations held in memory at once", low=1)


Gaps = gaps.Config
Estimators = dataclasses.make_dataclass(
    "Estimators",
    [
        (name, module.Config, dataclasses.field(default_factory=module.Config))
        for name, module in evidence.ESTIMATORS.items()
    ],
    frozen=True,
    namespace={"__doc__": "The budget of each log p(x) estimator of `vaejax.evidence`, by name."},
)


@dataclasses.dataclass(frozen=True)
class Evidence(Estimators):
    """What estimates of log p(x) beyond importance sampling may cost."""

    seed: int = field(0, "seed of their samples", low=0, high=2**31 - 1)
    num_examples: int = field(100, "first examples of the split that are used", low=2)
    rows_per_call: int = field(512, "latent samples in memory at once, over examples", low=1)
    gaps: Gaps = dataclasses.field(default_factory=Gaps)


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    seed: int = field(0, "seed of training", low=0, high=2**31 - 1, traced=True)
    dataset: Dataset = dataclasses.field(default_factory=Dataset)
    model: Any = dataclasses.field(default_factory=models.MODELS["mlp"].Config)
    objective: Objective = dataclasses.field(default_factory=Objective)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    training: Training = dataclasses.field(default_factory=Training)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    evidence: Evidence = dataclasses.field(default_factory=Evidence)


def override(config: Config, path: str, value: Any) -> Config:
    """`config` with the value at dotted `path` replaced; text is parsed by type.

    Setting `model.name` replaces the whole model by that model's defaults.

    Raises:
      UserError: unknown path, or a value of the wrong type or out of range.
    """
    if path == "model.name":
        if value not in models.MODELS:
            raise unknown("config.model.name", value, models.MODELS)
        return dataclasses.replace(config, model=models.MODELS[value].Config())
    return schema.replace(config, path, value)


def override_all(config: Config, overrides: dict[str, Any]) -> Config:
    """All of `overrides`, `model.name` first; the result is validated."""
    for path in sorted(overrides, key=lambda path: path != "model.name"):
        config = override(config, path, overrides[path])
    validate(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dict of plain values, as JSON holds it."""
    return schema.plain(dataclasses.asdict(config))


def from_dict(values: dict[str, Any]) -> Config:
    """The config that `to_dict` wrote, checked again. Raises UserError."""
    return override_all(Config(), schema.flatten(values))


def differences(ours: Config, theirs: Config) -> list[str]:
    """One "path: ours != theirs" for each key in which two configs differ."""
    left, right = schema.flatten(to_dict(ours)), schema.flatten(to_dict(theirs))
    absent = "(absent)"
    return [
        f"{path}: {left.get(path, absent)!r} != {right.get(path, absent)!r}"
        for path in sorted({*left, *right})
        if left.get(path, absent) != right.get(path, absent)
    ]


def traced_numbers(config: Config) -> Numbers:
    """The numbers a compiled program takes as arguments, by dotted path."""
    return schema.traced(config)


def with_numbers(config: Config, numbers: Numbers) -> Config:
    """`config` with `numbers`, tracers included, put in place without checks."""
    for path, number in numbers.items():
        config = schema.put(config, path.split("."), number)
    return config


def load(reference: str) -> Config:
    """What `get_config(argument)` of "path/to/file.py" or "path/to/file.py:argument" returns.

    Raises:
      UserError: no such file, a file that does not run, or a bad result.
    """
    config = python_files.call(reference, "get_config", flag="--config")
    if not isinstance(config, Config):
        raise UserError(f"--config: {reference}: get_config must return vaejax.config.Config")
    validate(config)
    return config


def validate(config: Config) -> None:
    """Types and ranges of every field, then what must hold between fields.

    Raises:
      UserError: naming every problem found, on one line.
    """
    schema.check(config)
    found = [*models.MODELS[config.model.name].problems(config.model)]
    found += _objective_problems(config) + _schedule_problems(config)
    if config.training.patience is not None and not config.dataset.num_validation:
        found.append("training.patience: early stopping needs dataset.num_validation >= 1, got 0")
    likelihood = getattr(config.model, "likelihood", None)
    if likelihood == "bernoulli" and config.dataset.binarization == "none":
        found.append(
            "dataset.binarization: 'none' gives real pixels, a Bernoulli likelihood needs 0 or 1; "
            "set dataset.binarization=dynamic or model.likelihood=normal"
        )
    if found:
        raise UserError("config." + "; config.".join(found))


def _objective_problems(config: Config) -> list[str]:
    objective, followed = config.objective, config.objective.inference_bound
    for key, text in (("bound", objective.bound), ("inference_bound", followed)):
        if text is not None:
            path = f"config.objective.{key}"
            bounds.check(text, num_samples=objective.num_samples, path=path)
    found = gradients.refusals(objective.gradient, objective.bound, followed)
    reason = biased_gradient(objective)
    if reason and not objective.allow_biased:
        found.append(f"{reason}, or set objective.allow_biased=true")
    several_layers = len(getattr(config.model, "latent_dims", (0,))) > 1
    if objective.gradient == "closed_form_kl" and several_layers:
        found.append(
            "closed_form_kl needs one stochastic layer, model.latent_dims is "
            f"{config.model.latent_dims}; use pathwise"
        )
    found = [f"objective.gradient: {problem}" for problem in found]
    if bounds.is_upper(objective.bound):
        found.append(
            f"objective.bound: {objective.bound} lies above log p(x), and theta gains nothing by "
            f"raising it; set objective.inference_bound to it, which q lowers"
        )
    if objective.free_bits and objective.gradient != "closed_form_kl":
        found.append(
            f"objective.free_bits: needs the KL of each unit, objective.gradient is "
            f"{objective.gradient!r}; use closed_form_kl"
        )
    return found


def biased_gradient(objective: Objective) -> str | None:
    """Why the phi gradient of `objective` is biased for the bound it names; None: it is not."""
    followed = objective.inference_bound or objective.bound
    return gradients.bias(objective.gradient, bounds.name_of(followed))


def _schedule_problems(config: Config) -> list[str]:
    optimizer = config.optimizer
    if optimizer.schedule != "staged":
        return []
    if not optimizer.stage_epochs or len(optimizer.stage_epochs) != len(optimizer.stage_scales):
        return [
            "optimizer.stage_epochs: a staged schedule needs stage_epochs and stage_scales of one "
            f"length, got {len(optimizer.stage_epochs)} and {len(optimizer.stage_scales)}"
        ]
    if math.fsum(optimizer.stage_epochs) != config.training.num_epochs:
        return [
            f"optimizer.stage_epochs: must add up to training.num_epochs="
            f"{config.training.num_epochs}, got {sum(optimizer.stage_epochs)}"
        ]
    return []

"""What is wrong between the values of a config, one "path: sentence" each. Pure functions."""

import dataclasses
import math
from typing import Any

from vaejax.models import latent_variable
from vaejax.objectives import bounds, gradients


def problems(config: Any) -> list[str]:
    """Everything that does not go together in a `config.Config` whose values are legal each."""
    found = latent_variable.problems(config.model) or _of_dataset(config)
    found += _of_objective(config) + _of_schedule(config) + _of_norms(config)
    if config.training.patience is not None and not config.dataset.has_validation:
        found.append("training.patience: early stopping needs dataset.num_validation >= 1, got 0")
    return found


def warnings(config: Any) -> list[str]:
    """What a valid `config.Config` asks for that may end badly or has no effect, as `problems`.

    They are said, not refused: configs of runs that are there already may hold them.
    """
    return _without_best_q(config) + _of_warmup(config) + _without_effect(config)


def _without_best_q(config: Any) -> list[str]:
    objective, estimator = config.objective, gradients.GRADIENTS[config.objective.gradient.name]
    followed = objective.inference_bound or objective.bound
    if (
        config.training.parameters == "generative"
        or estimator.own_objective
        or estimator.needs_log_marginal
        or bounds.has_best_q(followed)
    ):
        return []
    key = "bound" if objective.inference_bound is None else "inference_bound"
    way = "lowers" if bounds.side(followed) == "upper" else "raises"
    return [
        f"objective.{key}: {followed} has no best q at finite K: one that grows ever wider {way} "
        f"it without end, and training may run away; objective.inference_bound=iwae has a best q, "
        f"and theta may still follow another bound"
    ]


def _of_warmup(config: Any) -> list[str]:
    epochs, length = config.objective.warmup_epochs, config.training.num_epochs
    if epochs <= length:
        return []
    return [
        f"objective.warmup_epochs: {epochs:g} is more than training.num_epochs={length}: "
        f"beta ends at {config.objective.beta * length / epochs:.3g}, and what is trained is not "
        f"yet objective.bound"
    ]


def _without_effect(config: Any) -> list[str]:
    dataset, optimizer, training = config.dataset, config.optimizer, config.training
    found = []
    if optimizer.final_scale and optimizer.schedule != "cosine":
        found.append(
            f"optimizer.final_scale: has no effect with schedule={optimizer.schedule!r}; it is "
            f"for optimizer.schedule=cosine"
        )
    drawn = dataset.binarization in ("dynamic", "static") or dataset.dequantize
    if dataset.binarization_seed and not drawn:
        found.append(
            f"dataset.binarization_seed: has no effect, nothing is drawn with "
            f"dataset.binarization={dataset.binarization!r}"
        )
    if not dataset.has_validation:
        usual = {item.name: item.default for item in dataclasses.fields(training)}
        found += [
            f"training.{name}: has no effect without validation images (dataset.num_validation=0)"
            for name in ("validate_every", "validation_samples")
            if getattr(training, name) != usual[name]
        ]
    return found


def _of_dataset(config: Any) -> list[str]:
    dataset, likelihood = config.dataset, config.model.likelihood
    is_set = {"levels": dataset.levels != 256, "dequantize": dataset.dequantize}
    if dataset.binarization != "none":
        return [
            f"dataset.{name}: has no effect on 0/1 pixels (dataset.binarization="
            f"{dataset.binarization!r}); set dataset.binarization=none or leave it out"
            for name, given in is_set.items()
            if given
        ]
    if dataset.dequantize and latent_variable.data_of(config.model) != "real":
        return [
            f"dataset.dequantize: is for densities, model.likelihood={likelihood} is a mass; "
            f"leave it out or set another model.likelihood"
        ]
    return []


def _of_objective(config: Any) -> list[str]:
    objective, found = config.objective, []
    for key, part in (("bound", objective.bound), ("inference_bound", objective.inference_bound)):
        if part is not None:
            wrong = bounds.problems(part, num_samples=objective.num_samples)
            found += [f"objective.{key}: {part}: {text}" for text in wrong]
    if found:
        return found
    estimator = gradients.GRADIENTS[objective.gradient.name]
    wrong = gradients.refusals(
        objective.gradient,
        objective.bound,
        objective.inference_bound,
        num_samples=objective.num_samples,
    )
    reason = gradients.bias(objective.gradient, objective.inference_bound or objective.bound)
    if reason and not objective.allow_biased:
        wrong.append(f"{reason}, or set objective.allow_biased=true")
    found = [f"objective.gradient: {problem}" for problem in wrong]
    if bounds.side(objective.bound) == "upper":
        found.append(
            f"objective.bound: {objective.bound} lies above log p(x), and theta gains nothing by "
            f"raising it; set objective.inference_bound to it, which q lowers"
        )
    if estimator.needs_log_marginal and (objective.beta != 1.0 or objective.warmup_epochs):
        found.append(
            f"objective.beta: {objective.gradient.name} estimates log p(x), which knows no beta "
            f"but 1; leave out beta and warmup_epochs"
        )
    if objective.free_bits and not estimator.uses_closed_form_kl:
        found.append(
            f"objective.free_bits: needs the KL of each unit, objective.gradient is "
            f"{objective.gradient}; use closed_form_kl"
        )
    return found


def _of_norms(config: Any) -> list[str]:
    clip, skip = config.optimizer.clip_norm, config.optimizer.skip_norm
    if clip is None or skip is None or clip < skip:
        return []
    return [
        f"optimizer.clip_norm: has no effect, steps with a gradient above optimizer.skip_norm="
        f"{skip:g} are skipped; set it below that, got {clip:g}"
    ]


def _of_schedule(config: Any) -> list[str]:
    optimizer = config.optimizer
    if optimizer.schedule != "staged":
        given = [name for name in ("stage_epochs", "stage_scales") if getattr(optimizer, name)]
        return [
            f"optimizer.{name}: has no effect with schedule={optimizer.schedule!r}; set "
            f"optimizer.schedule=staged or leave it out"
            for name in given
        ]
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

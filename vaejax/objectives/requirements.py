"""What gradient estimators require of a model."""

from vaejax.models import density_cost, supports
from vaejax.objectives.gradients import GRADIENTS, WITHOUT_PATH
from vaejax.parts import Part
from vaejax.types import Model


def problems(gradient: Part, model: Model, *, inference_bound: Part | None = None) -> list[str]:
    """Why an estimator cannot be used with this model; [] where it can."""
    estimator, name = GRADIENTS[gradient.name], gradient.name
    if estimator.needs_path and model.support.is_discrete:
        return [
            f"{name} moves z along with phi, and these latents are "
            f"{supports.described(model.support)}, which jump; use {WITHOUT_PATH}, or "
            f"reinforce, nvil, ovis, wake_phi, sleep_phi, concrete"
        ]
    if estimator.needs_discrete and not model.support.is_discrete:
        return [
            f"{name} relaxes discrete latents, and these are real vectors already; use pathwise"
        ]
    if estimator.uses_closed_form_kl and model.kl_groups is None:
        return [
            f"{name} needs a closed form of KL(q || p(z)), which one stochastic layer with a "
            f"normal prior and a normal posterior has; this model has none; use pathwise"
        ]
    slow = density_cost.too_slow(model)
    if slow and (estimator.needs_density or inference_bound is not None):
        beside = "" if inference_bound is None else " with an inference_bound"
        return [
            f"{name}{beside} {slow}; use pathwise with one bound for both, or "
            f"model.posterior=coupling"
        ]
    return []

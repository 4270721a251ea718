"""Gradient estimators: functions whose gradient estimates that of an expected bound.

The value of a bound depends on log w alone, its gradient does not. Each estimator returns,
for one example, a scalar to maximise, whose value is the bound for theta, and the log
densities it was made from, so that the plain ELBO and L_K can be reported beside it.

With c_i = d bound / d log w_i, theta always follows sum_i c_i d log p(x, z_i) / d theta. For
phi, nearly all estimators are two weights per sample,

    sum_i a_i (d log w_i / d z_i) (d z_i / d phi)  +  sum_i s_i d log q(z_i|x) / d phi,

where z stands still in the second sum and phi inside log q in the first: a function of
`phi_weights`, a row of `GRADIENTS`. The two sums are exchanged by the score identity
E[f_i d log q(z_i|x) / d phi] = E[(d f_i / d z_i) (d z_i / d phi)], which holds for any
reparameterised z, of several stochastic layers too. Discrete latents have no path: a = 0.

theta and phi are roles: theta is the parameters as p sees them, phi as q does. A top-down
hierarchy shares parameters, a prior may be made of q: such a parameter stands in both sums and
follows both, which is the total gradient wherever both parts follow one bound, since E[bound]
is a function of the two views and its derivative the sum of theirs. Estimators of two bounds, or
of an objective of phi's own, give each view its own.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from vaejax import keys, parts
from vaejax.errors import UserError
from vaejax.models import sites
from vaejax.objectives import (
    baselines,
    bounds,
    phi_weights,
    resampled,
    roulette,
    sumo,
    surrogates,
)
from vaejax.objectives.surrogates import PhiWeights
from vaejax.parts import Part
from vaejax.types import LogTerms, Model, Params

Surrogate = Callable[..., tuple[Float[Array, ""], LogTerms]]


def _no_problems() -> list[str]:
    """No options."""
    return []


def _two(**options) -> int:
    return 2


class Gradient(NamedTuple):
    """An estimator of phi's gradient and what is known of it.

    Attributes:
      surrogate: `(params, key, x, *, model, target, options) -> (value, LogTerms)`.
      unsound: `(bounds.Bound) -> reason`, why it is biased for a bound; None: it is not.
      own_objective: whether phi follows a divergence of its own, not a bound.
      uses_closed_form_kl: whether it is a form of the ELBO that needs the model's KL.
      reference: name of the estimator that is known to be unbiased for what this one estimates.
      needs_density: whether it asks log q(z|x) at samples as if they were any z, also where phi
        follows the bound of theta.
      needs_path: whether it goes through z, which discrete latents do not allow.
      min_samples: `(*, options) -> int`, the fewest samples K it can do with.
      one_bound: whether phi follows the bound of theta, and no other.
      needs_discrete: whether it is for discrete latents alone.
      learns_baseline: whether it has parameters of its own, see `init`.
      needs_log_marginal: whether theta follows log p(x) itself, whatever the bound.
      problems: `(*, options) -> list`: its options, and which values of them it refuses.
    """

    surrogate: Surrogate
    unsound: Callable[[bounds.Bound], str | None] = lambda bound: None
    own_objective: bool = False
    uses_closed_form_kl: bool = False
    reference: str = "pathwise"
    needs_density: bool = True
    needs_path: bool = False
    min_samples: Callable[..., int] = lambda **options: 1
    one_bound: bool = False
    needs_discrete: bool = False
    learns_baseline: bool = False
    needs_log_marginal: bool = False
    problems: Callable[..., list[str]] = _no_problems


def _stl_unsound(bound: bounds.Bound) -> str | None:
    if bound.linear:
        return None
    return "stl is biased for every bound but the elbo; use doubly_reparameterized"


def _doubly_reparameterized_unsound(bound: bounds.Bound) -> str | None:
    if bound.derivatives >= 2:
        return None
    return "doubly_reparameterized needs two derivatives, this bound has a kink; use pathwise"


def _ovis_unsound(bound: bounds.Bound) -> str | None:
    if bound.value is bounds.iwae:
        return None
    return "ovis estimates the gradient of iwae alone; use vimco"


def _concrete_unsound(bound: bounds.Bound) -> str | None:
    return (
        "concrete follows a relaxed model, which no temperature makes the discrete one; use vimco"
    )


def _concrete_problems(*, temperature: float = 0.5) -> list[str]:
    return [] if temperature > 0.0 else [f"temperature: must be positive, got {temperature:g}"]


def _nvil_problems(*, hidden_dims: tuple[int, ...] = (100,)) -> list[str]:
    try:
        sites.check_widths("hidden_dims", hidden_dims)
    except UserError as error:
        return [str(error)]
    return []


def _resampled_problems(*, num_backward: int = 1) -> list[str]:
    return [] if num_backward >= 1 else [f"num_backward: must be at least 1, got {num_backward}"]


def _sumo_problems(*, steady: int = 80, tail: float = 0.9) -> list[str]:
    why = roulette.refusal(tail)
    if why is not None:
        return [f"tail: {tail:g} {why}; use one in (0, 1), such as 0.9"]
    if steady < 1:
        return [f"steady: must be at least 1, got {steady}"]
    longest, most = roulette.longest(roulette.Tail(steady, tail)), roulette.EXTRA[-1]
    if longest > most:
        return [
            f"tail: with steady={steady} and tail={tail:g} a sum may take {longest:,} samples, "
            f"programs are made for {most}; lower either"
        ]
    return []


def _of_weights(weights: PhiWeights, *, tempered: bool = True) -> Surrogate:
    return functools.partial(surrogates.weighted, weights=weights, tempered=tempered)


GRADIENTS: dict[str, Gradient] = {
    "pathwise": Gradient(surrogates.pathwise, needs_density=False, needs_path=True),
    "resampled": Gradient(
        resampled.resampled,
        needs_density=False,
        needs_path=True,
        min_samples=lambda num_backward: num_backward + 1,
        one_bound=True,
        problems=_resampled_problems,
    ),
    "stl": Gradient(_of_weights(phi_weights.stl), unsound=_stl_unsound, needs_path=True),
    "doubly_reparameterized": Gradient(
        _of_weights(phi_weights.doubly_reparameterized),
        unsound=_doubly_reparameterized_unsound,
        needs_path=True,
    ),
    "wake_phi": Gradient(
        _of_weights(phi_weights.wake_phi, tempered=False), own_objective=True, reference="wake_phi"
    ),
    "doubly_reparameterized_wake_phi": Gradient(
        _of_weights(phi_weights.doubly_reparameterized_wake_phi, tempered=False),
        own_objective=True,
        reference="wake_phi",
        needs_path=True,
    ),
    "closed_form_kl": Gradient(
        surrogates.closed_form_kl, uses_closed_form_kl=True, needs_density=False, needs_path=True
    ),
    "sleep_phi": Gradient(surrogates.sleep_phi, own_objective=True, reference="sleep_phi"),
    "reinforce": Gradient(_of_weights(phi_weights.reinforce), min_samples=_two),
    "nvil": Gradient(surrogates.nvil, learns_baseline=True, problems=_nvil_problems),
    "vimco": Gradient(_of_weights(phi_weights.vimco), min_samples=_two),
    "ovis": Gradient(_of_weights(phi_weights.ovis), unsound=_ovis_unsound, min_samples=_two),
    "concrete": Gradient(
        surrogates.concrete,
        unsound=_concrete_unsound,
        needs_discrete=True,
        problems=_concrete_problems,
    ),
    "sumo": Gradient(
        sumo.sumo,
        own_objective=True,
        reference="sumo",
        needs_path=True,
        needs_log_marginal=True,
        problems=_sumo_problems,
    ),
}
FUNCTIONS: dict[str, Callable[..., list[str]]] = {
    name: record.problems for name, record in GRADIENTS.items()
}
"""What a config knows of each: its options."""
WITHOUT_PATH = "vimco"
"""What stands in for `pathwise` where z has no path: unbiased for every bound."""


def parse(text: str, *, path: str = "gradient") -> Part:
    """The estimator that `text` names, such as "vimco" or "concrete(temperature=0.3)".

    Raises:
      UserError: unknown estimator or option, naming `path`.
    """
    return parts.parse(text, FUNCTIONS, path=path)


def surrogate(part: Part) -> Surrogate:
    """The surrogate of the estimator that `part` names, with its options."""
    return functools.partial(GRADIENTS[part.name].surrogate, **dict(part.options))


def min_samples(part: Part) -> int:
    """The fewest samples K that the estimator can do with, with its options."""
    return GRADIENTS[part.name].min_samples(**dict(part.options))


def init(params: Params, key: PRNGKeyArray, *, gradient: Part, model: Model) -> Params:
    """A model's parameters with those that the estimator learns beside them, if any."""
    if not GRADIENTS[gradient.name].learns_baseline:
        return params
    network = baselines.network(model, **dict(gradient.options))
    return baselines.with_initial(params, keys.within(key, "init/baseline"), network)


def refusals(
    gradient: Part, bound: Part, inference_bound: Part | None, *, num_samples: int
) -> list[str]:
    """Why an estimator cannot be used with these bounds and K samples; [] where it can."""
    estimator, name = GRADIENTS[gradient.name], gradient.name
    is_elbo = bounds.BOUNDS[bound.name].linear and inference_bound is None
    if estimator.uses_closed_form_kl and not is_elbo:
        return [f"{name} is a form of the elbo alone, bound is {bound}; use pathwise"]
    if estimator.own_objective and inference_bound is not None:
        return [f"phi of {name} follows no bound; leave out inference_bound"]
    if estimator.needs_log_marginal and bounds.BOUNDS[bound.name].value is not bounds.iwae:
        return [f"{name} estimates the limit of iwae, bound is {bound}; set objective.bound=iwae"]
    if estimator.one_bound and inference_bound is not None:
        return [f"{name} has one bound for theta and phi; leave out inference_bound"]
    wrong = estimator.problems(**dict(gradient.options))
    if not wrong and num_samples < min_samples(gradient):
        return [f"{gradient} needs num_samples >= {min_samples(gradient)}, got {num_samples}"]
    return [f"{name}: {text}" for text in wrong]


def bias(gradient: Part, bound: Part) -> str | None:
    """Why an estimator's phi gradient is biased for the bound phi follows; None: unbiased."""
    reason = GRADIENTS[gradient.name].unsound(bounds.BOUNDS[bound.name])
    return None if reason is None else f"{reason} (bound is {bound})"

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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.objectives import bounds, importance, phi_weights
from vaejax.parts import Part
from vaejax.types import LogTerms, Model, Params

Bound = Callable[[Float[Array, "K"]], Float[Array, ""]]
Surrogate = Callable[..., tuple[Float[Array, ""], LogTerms]]
PhiWeights = Callable[..., phi_weights.Weights]


class Target(NamedTuple):
    """What training maximises, for one example.

    Attributes:
      bound: function of the K log weights that theta follows.
      num_samples: K.
      inference_bound: what phi follows; None: `bound`.
      beta: weight of log p(z) - log q(z|x), see `importance.log_weights`.
      free_bits: KL of each group of latents below which it costs nothing more, in nats;
        `closed_form_kl` alone.
    """

    bound: Bound
    num_samples: int
    inference_bound: Bound | None = None
    beta: float | Float[Array, ""] = 1.0
    free_bits: float | Float[Array, ""] = 0.0


def weighted(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    target: Target,
    weights: PhiWeights,
    tempered: bool = True,
) -> tuple[Float[Array, ""], LogTerms]:
    """The bound for theta, in nats, with the gradient that `weights` say.

    What p sees follows sum_i c_i (log p(x|z_i) + beta log p(z_i)), what q sees the other two
    sums; c, a and s are constants of the gradient. `tempered`: whether beta enters phi's log
    weights too; a divergence of phi's own knows no beta.
    """
    frozen = jax.lax.stop_gradient(params)
    phi_beta = target.beta if tempered else 1.0

    def draw(key):
        z = model.posterior(params, x).sample(key)
        path = importance.log_terms_at(frozen, x, z, model=model)
        direct = importance.log_terms_at(params, x, jax.lax.stop_gradient(z), model=model)
        return path, direct

    path, direct = jax.vmap(draw)(jax.random.split(key, target.num_samples))
    log_weights = jax.lax.stop_gradient(importance.log_weights(direct, beta=target.beta))
    value, c = jax.value_and_grad(target.bound)(log_weights)
    bound = target.inference_bound or target.bound
    own = jax.lax.stop_gradient(importance.log_weights(direct, beta=phi_beta))
    a, s = jax.lax.stop_gradient(weights(own, bound=bound, beta=phi_beta))
    surrogate = c @ (direct.log_likelihood + target.beta * direct.log_prior)
    surrogate += s @ direct.log_posterior
    if a is not None:
        surrogate += a @ importance.log_weights(path, beta=phi_beta)
    return value + surrogate - jax.lax.stop_gradient(surrogate), direct


def pathwise(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, target: Target
) -> tuple[Float[Array, ""], LogTerms]:
    """bound(log w_1..log w_K), differentiated through z = z(phi, noise), in nats.

    What `phi_weights.pathwise` says, in one pass where theta and phi follow the same bound.
    """
    if target.inference_bound is not None:
        return weighted(params, key, x, model=model, target=target, weights=phi_weights.pathwise)
    terms = importance.sample_log_terms(params, key, x, model=model, num_samples=target.num_samples)
    return target.bound(importance.log_weights(terms, beta=target.beta)), terms


def closed_form_kl(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, target: Target
) -> tuple[Float[Array, ""], LogTerms]:
    """(1/K) sum_k log p(x|z_k) - beta sum_g max(free_bits, KL_g), KLs in closed form, in nats.

    Kingma and Welling (2014), eq. 3 and 7: the ELBO with less variance. Only the ELBO can
    be written so (every importance weight needs log p(z_k) - log q(z_k|x) itself). Free
    bits are those of Kingma et al. (2016), eq. 15, per example instead of per minibatch.

    Raises:
      ValueError: the model has no closed-form KL.
    """
    if model.kl_groups is None:
        raise ValueError("closed_form_kl needs a model with a closed-form KL")
    terms = importance.sample_log_terms(params, key, x, model=model, num_samples=target.num_samples)
    kl = jnp.sum(jnp.maximum(model.kl_groups(params, x), target.free_bits))
    return jnp.mean(terms.log_likelihood) - target.beta * kl, terms


def _with_frozen_posterior(model: Model) -> Model:
    """`model`, with constants for the parameters as q sees them."""
    return model._replace(
        posterior=lambda params, x: model.posterior(jax.lax.stop_gradient(params), x)
    )


def sleep_phi(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, target: Target
) -> tuple[Float[Array, ""], LogTerms]:
    """The bound for theta, in nats; phi raises log q(z|x') at K dreams (x', z) ~ p.

    The sleep phase of Hinton et al. (1995): phi lowers E_p(x)[KL(p(z|x) || q(z|x))],
    without bias and without looking at the data. Dreams are constants of the gradient.
    """
    data_key, dream_key = jax.random.split(key)
    frozen = jax.lax.stop_gradient(params)

    def dream(key):
        z_key, x_key = jax.random.split(key)
        z = model.prior(frozen).sample(z_key)
        return model.posterior(params, model.likelihood(frozen, z).sample(x_key)).log_prob(z)

    awake = _with_frozen_posterior(model)
    terms = importance.sample_log_terms(
        params, data_key, x, model=awake, num_samples=target.num_samples
    )
    value = target.bound(importance.log_weights(terms, beta=target.beta))
    log_posterior = jnp.mean(jax.vmap(dream)(jax.random.split(dream_key, target.num_samples)))
    return value + log_posterior - jax.lax.stop_gradient(log_posterior), terms


class Gradient(NamedTuple):
    """An estimator of phi's gradient and what is known of it.

    Attributes:
      surrogate: `(params, key, x, *, model, target) -> (value, LogTerms)`.
      unsound: `(bounds.Bound) -> reason`, why it is biased for a bound; None: it is not.
      own_objective: whether phi follows a divergence of its own, not a bound.
      uses_closed_form_kl: whether it is a form of the ELBO that needs the model's KL.
      reference: name of the estimator that is known to be unbiased for what this one estimates.
      needs_density: whether it asks log q(z|x) at samples as if they were any z, also where phi
        follows the bound of theta.
      needs_path: whether it goes through z, which discrete latents do not allow.
      min_samples: the fewest samples K it can do with.
    """

    surrogate: Surrogate
    unsound: Callable[[bounds.Bound], str | None] = lambda bound: None
    own_objective: bool = False
    uses_closed_form_kl: bool = False
    reference: str = "pathwise"
    needs_density: bool = True
    needs_path: bool = False
    min_samples: int = 1


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


def _of_weights(weights: PhiWeights, *, tempered: bool = True) -> Surrogate:
    return functools.partial(weighted, weights=weights, tempered=tempered)


GRADIENTS: dict[str, Gradient] = {
    "pathwise": Gradient(pathwise, needs_density=False, needs_path=True),
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
        closed_form_kl, uses_closed_form_kl=True, needs_density=False, needs_path=True
    ),
    "sleep_phi": Gradient(sleep_phi, own_objective=True, reference="sleep_phi"),
    "reinforce": Gradient(_of_weights(phi_weights.reinforce), min_samples=2),
    "vimco": Gradient(_of_weights(phi_weights.vimco), min_samples=2),
    "ovis": Gradient(_of_weights(phi_weights.ovis), unsound=_ovis_unsound, min_samples=2),
}
WITHOUT_PATH = "vimco"
"""What stands in for `pathwise` where z has no path: unbiased for every bound."""


def refusals(
    gradient: str, bound: Part, inference_bound: Part | None, *, num_samples: int
) -> list[str]:
    """Why an estimator cannot be used with these bounds and K samples; [] where it can."""
    estimator = GRADIENTS[gradient]
    is_elbo = bounds.BOUNDS[bound.name].linear and inference_bound is None
    if estimator.uses_closed_form_kl and not is_elbo:
        return [f"{gradient} is a form of the elbo alone, bound is {bound}; use pathwise"]
    if estimator.own_objective and inference_bound is not None:
        return [f"phi of {gradient} follows no bound; leave out inference_bound"]
    if num_samples < estimator.min_samples:
        return [
            f"{gradient} compares each sample with the others and needs num_samples >= "
            f"{estimator.min_samples}, got {num_samples}"
        ]
    return []


def bias(gradient: str, bound: Part) -> str | None:
    """Why an estimator's phi gradient is biased for the bound phi follows; None: unbiased."""
    reason = GRADIENTS[gradient].unsound(bounds.BOUNDS[bound.name])
    return None if reason is None else f"{reason} (bound is {bound})"

"""Gradient estimators: functions whose gradient estimates that of an expected bound.

The value of a bound depends on log w alone, its gradient does not. Each estimator returns,
for one example, a scalar to maximise, whose value is the bound for theta, and the log
densities it was made from, so that the plain ELBO and L_K can be reported beside it.

With c_i = d bound / d log w_i, theta always follows sum_i c_i d log p(x, z_i) / d theta. For
phi, nearly all estimators are two weights per sample,

    sum_i a_i (d log w_i / d z_i) (d z_i / d phi)  +  sum_i s_i d log q(z_i|x) / d phi,

where z stands still in the second sum and phi inside log q in the first: a row of
`GRADIENTS`. The two sums are exchanged by the score identity
E[f_i d log q(z_i|x) / d phi] = E[(d f_i / d z_i) (d z_i / d phi)], which holds for any
reparameterised z, of several stochastic layers too.

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

from vaejax.objectives import bounds, importance
from vaejax.parts import Part
from vaejax.types import LogTerms, Model, Params

Bound = Callable[[Float[Array, "K"]], Float[Array, ""]]
Surrogate = Callable[..., tuple[Float[Array, ""], LogTerms]]
PhiWeights = Callable[..., tuple[Float[Array, "K"], Float[Array, "K"]]]
_HESSIAN_ROWS = 64


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


def diagonal_hessian(function: Bound, log_weights: Float[Array, "K"]) -> Float[Array, "K"]:
    """h_i = d^2 function / d log w_i^2, by forward over reverse differentiation."""
    num_samples = log_weights.shape[0]

    def row(index):
        direction = jax.nn.one_hot(index, num_samples, dtype=log_weights.dtype)
        return jax.jvp(jax.grad(function), (log_weights,), (direction,))[1][index]

    if num_samples <= _HESSIAN_ROWS:
        return jax.vmap(row)(jnp.arange(num_samples))
    return jax.lax.map(row, jnp.arange(num_samples), batch_size=_HESSIAN_ROWS)


def pathwise_weights(log_weights: Float[Array, "K"], *, bound: Bound, beta):
    """a = c, s = -beta c: differentiates every place where phi stands.

    The reparameterised gradient of Kingma and Welling (2014), eq. 10, and, for L_K, of
    Burda et al. (2016), eq. 13. Unbiased for every bound.
    """
    c = jax.grad(bound)(log_weights)
    return c, -beta * c


def stl_weights(log_weights: Float[Array, "K"], *, bound: Bound, beta):
    """a = c, s = 0: leaves out the score of q, which has mean zero for the ELBO alone.

    "Sticking the landing", Roeder, Wu and Duvenaud (2017), eq. 8: without variance where q
    is the posterior; biased for any bound whose c depends on z.
    """
    c = jax.grad(bound)(log_weights)
    return c, jnp.zeros_like(c)


def doubly_reparameterized_weights(log_weights: Float[Array, "K"], *, bound: Bound, beta):
    """a = c - beta h, s = 0, with h_i = d^2 bound / d log w_i^2.

    The score sum of the pathwise gradient, -beta sum_i c_i d log q(z_i|x) / d phi, once
    more reparameterised: d c_i / d z_i = h_i d log w_i / d z_i. For L_K this is
    a = w~^2, DReG (Tucker et al. 2019, eq. 8); for the Renyi bound their DReG(alpha), eq.
    12; for the ELBO h = 0 and it is `stl`. Unbiased for every twice differentiable bound.
    """
    c = jax.grad(bound)(log_weights)
    return c - beta * diagonal_hessian(bound, log_weights), jnp.zeros_like(c)


def wake_phi_weights(log_weights: Float[Array, "K"], *, bound: Bound, beta):
    """a = 0, s = w~: phi raises log q(z|x) at self-normalised samples of the posterior.

    The wake-phase update of Bornschein and Bengio (2015), eq. 13, which lowers
    KL(p(z|x) || q(z|x)); biased for it by O(1/K). It ignores the bound, and beta: w~ must be
    those of p(x, z) itself, or the expectation would not be 0 where q is the posterior.
    """
    normalized = jax.nn.softmax(log_weights)
    return jnp.zeros_like(normalized), normalized


def doubly_reparameterized_wake_phi_weights(log_weights: Float[Array, "K"], *, bound: Bound, beta):
    """a = w~ - w~^2, s = 0: the expectation of `wake_phi` through z alone.

    Tucker et al. (2019), eq. 10; d w~_i / d log w_i = w~_i - w~_i^2 in the score identity.
    """
    normalized = jax.nn.softmax(log_weights)
    return normalized * (1.0 - normalized), jnp.zeros_like(normalized)


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
    surrogate += a @ importance.log_weights(path, beta=phi_beta) + s @ direct.log_posterior
    return value + surrogate - jax.lax.stop_gradient(surrogate), direct


def pathwise(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, target: Target
) -> tuple[Float[Array, ""], LogTerms]:
    """bound(log w_1..log w_K), differentiated through z = z(phi, noise), in nats.

    What `pathwise_weights` says, in one pass where theta and phi follow the same bound.
    """
    if target.inference_bound is not None:
        return weighted(params, key, x, model=model, target=target, weights=pathwise_weights)
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
    """

    surrogate: Surrogate
    unsound: Callable[[bounds.Bound], str | None] = lambda bound: None
    own_objective: bool = False
    uses_closed_form_kl: bool = False
    reference: str = "pathwise"
    needs_density: bool = True


def _stl_unsound(bound: bounds.Bound) -> str | None:
    if bound.linear:
        return None
    return "stl is biased for every bound but the elbo; use doubly_reparameterized"


def _doubly_reparameterized_unsound(bound: bounds.Bound) -> str | None:
    if bound.derivatives >= 2:
        return None
    return "doubly_reparameterized needs two derivatives, this bound has a kink; use pathwise"


def _of_weights(weights: PhiWeights, *, tempered: bool = True) -> Surrogate:
    return functools.partial(weighted, weights=weights, tempered=tempered)


GRADIENTS: dict[str, Gradient] = {
    "pathwise": Gradient(pathwise, needs_density=False),
    "stl": Gradient(_of_weights(stl_weights), unsound=_stl_unsound),
    "doubly_reparameterized": Gradient(
        _of_weights(doubly_reparameterized_weights), unsound=_doubly_reparameterized_unsound
    ),
    "wake_phi": Gradient(
        _of_weights(wake_phi_weights, tempered=False), own_objective=True, reference="wake_phi"
    ),
    "doubly_reparameterized_wake_phi": Gradient(
        _of_weights(doubly_reparameterized_wake_phi_weights, tempered=False),
        own_objective=True,
        reference="wake_phi",
    ),
    "closed_form_kl": Gradient(closed_form_kl, uses_closed_form_kl=True, needs_density=False),
    "sleep_phi": Gradient(sleep_phi, own_objective=True, reference="sleep_phi"),
}


def refusals(gradient: str, bound: Part, inference_bound: Part | None) -> list[str]:
    """Why an estimator cannot be used with these bounds; [] where it can."""
    estimator = GRADIENTS[gradient]
    is_elbo = bounds.BOUNDS[bound.name].linear and inference_bound is None
    if estimator.uses_closed_form_kl and not is_elbo:
        return [f"{gradient} is a form of the elbo alone, bound is {bound}; use pathwise"]
    if estimator.own_objective and inference_bound is not None:
        return [f"phi of {gradient} follows no bound; leave out inference_bound"]
    return []


def bias(gradient: str, bound: Part) -> str | None:
    """Why an estimator's phi gradient is biased for the bound phi follows; None: unbiased."""
    reason = GRADIENTS[gradient].unsound(bounds.BOUNDS[bound.name])
    return None if reason is None else f"{reason} (bound is {bound})"

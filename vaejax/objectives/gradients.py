"""Gradient estimators: functions whose gradient estimates that of an expected bound.

The value of a bound depends on log w alone, its gradient does not. Each estimator returns,
for one example, a scalar to maximise, whose value is the bound for theta, and the log
densities it was made from, so that the plain ELBO and L_K can be reported beside it.

With c_i = d bound / d log w_i, theta always follows sum_i c_i d log p(x, z_i) / d theta. For
phi, nearly all estimators are two weights per sample,

    sum_i a_i (d log w_i / d z_i) (d z_i / d phi)  +  sum_i s_i d log q(z_i|x) / d phi,

where z stands still in the second sum and phi inside log q in the first: a row of
`PHI_WEIGHTS`. The two sums are exchanged by the score identity
E[f_i d log q(z_i|x) / d phi] = E[(d f_i / d z_i) (d z_i / d phi)], which holds for any
reparameterised z, of several stochastic layers too.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.objectives import bounds, importance
from vaejax.types import LogTerms, Model, Params

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

    bound: bounds.Bound
    num_samples: int
    inference_bound: bounds.Bound | None = None
    beta: float | Float[Array, ""] = 1.0
    free_bits: float | Float[Array, ""] = 0.0


def diagonal_hessian(function: bounds.Bound, log_weights: Float[Array, "K"]) -> Float[Array, "K"]:
    """h_i = d^2 function / d log w_i^2, by forward over reverse differentiation."""
    num_samples = log_weights.shape[0]

    def row(index):
        direction = jax.nn.one_hot(index, num_samples, dtype=log_weights.dtype)
        return jax.jvp(jax.grad(function), (log_weights,), (direction,))[1][index]

    if num_samples <= _HESSIAN_ROWS:
        return jax.vmap(row)(jnp.arange(num_samples))
    return jax.lax.map(row, jnp.arange(num_samples), batch_size=_HESSIAN_ROWS)


def pathwise_weights(log_weights: Float[Array, "K"], *, bound: bounds.Bound, beta):
    """a = c, s = -beta c: differentiates every place where phi stands.

    The reparameterised gradient of Kingma and Welling (2014), eq. 10, and, for L_K, of
    Burda et al. (2016), eq. 13. Unbiased for every bound.
    """
    c = jax.grad(bound)(log_weights)
    return c, -beta * c


def stl_weights(log_weights: Float[Array, "K"], *, bound: bounds.Bound, beta):
    """a = c, s = 0: leaves out the score of q, which has mean zero for the ELBO alone.

    "Sticking the landing", Roeder, Wu and Duvenaud (2017), eq. 8: without variance where q
    is the posterior; biased for any bound whose c depends on z.
    """
    c = jax.grad(bound)(log_weights)
    return c, jnp.zeros_like(c)


def doubly_reparameterized_weights(log_weights: Float[Array, "K"], *, bound: bounds.Bound, beta):
    """a = c - beta h, s = 0, with h_i = d^2 bound / d log w_i^2.

    The score sum of the pathwise gradient, -beta sum_i c_i d log q(z_i|x) / d phi, once
    more reparameterised: d c_i / d z_i = h_i d log w_i / d z_i. For L_K this is
    a = w~^2, DReG (Tucker et al. 2019, eq. 8); for the Renyi bound their DReG(alpha), eq.
    12; for the ELBO h = 0 and it is `stl`. Unbiased for every twice differentiable bound.
    """
    c = jax.grad(bound)(log_weights)
    return c - beta * diagonal_hessian(bound, log_weights), jnp.zeros_like(c)


def wake_phi_weights(log_weights: Float[Array, "K"], *, bound: bounds.Bound, beta):
    """a = 0, s = w~: phi raises log q(z|x) at self-normalised samples of the posterior.

    The wake-phase update of Bornschein and Bengio (2015), eq. 13, which lowers
    KL(p(z|x) || q(z|x)); biased for it by O(1/K). It ignores the bound.
    """
    normalized = jax.nn.softmax(log_weights)
    return jnp.zeros_like(normalized), normalized


def doubly_reparameterized_wake_phi_weights(
    log_weights: Float[Array, "K"], *, bound: bounds.Bound, beta
):
    """a = w~ - w~^2, s = 0: the expectation of `wake_phi` through z alone.

    Tucker et al. (2019), eq. 10; d w~_i / d log w_i = w~_i - w~_i^2 in the score identity.
    """
    normalized = jax.nn.softmax(log_weights)
    return normalized * (1.0 - normalized), jnp.zeros_like(normalized)


PHI_WEIGHTS: dict[str, PhiWeights] = {
    "pathwise": pathwise_weights,
    "stl": stl_weights,
    "doubly_reparameterized": doubly_reparameterized_weights,
    "wake_phi": wake_phi_weights,
    "doubly_reparameterized_wake_phi": doubly_reparameterized_wake_phi_weights,
}


def weighted(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "D"],
    *,
    model: Model,
    target: Target,
    weights: PhiWeights,
) -> tuple[Float[Array, ""], LogTerms]:
    """The bound for theta, in nats, with the gradient that `weights` say.

    theta follows sum_i c_i (log p(x|z_i) + beta log p(z_i)), and so does whatever of phi a
    prior may use; c, a and s are constants of the gradient.
    """
    frozen = jax.lax.stop_gradient(params)

    def draw(key):
        z = model.sample_posterior(params, key, x)
        path = importance.log_terms_at(frozen, x, z, model=model)
        direct = importance.log_terms_at(params, x, jax.lax.stop_gradient(z), model=model)
        return path, direct

    path, direct = jax.vmap(draw)(jax.random.split(key, target.num_samples))
    log_weights = jax.lax.stop_gradient(importance.log_weights(direct, beta=target.beta))
    value, c = jax.value_and_grad(target.bound)(log_weights)
    bound = target.inference_bound or target.bound
    a, s = jax.lax.stop_gradient(weights(log_weights, bound=bound, beta=target.beta))
    surrogate = c @ (direct.log_likelihood + target.beta * direct.log_prior)
    surrogate += a @ importance.log_weights(path, beta=target.beta) + s @ direct.log_posterior
    return value + surrogate - jax.lax.stop_gradient(surrogate), direct


def pathwise(
    params: Params, key: PRNGKeyArray, x: Float[Array, "D"], *, model: Model, target: Target
) -> tuple[Float[Array, ""], LogTerms]:
    """bound(log w_1..log w_K), differentiated through z = z(phi, noise), in nats.

    What `pathwise_weights` says, in one pass where theta and phi follow the same bound.
    """
    if target.inference_bound is not None:
        return weighted(params, key, x, model=model, target=target, weights=pathwise_weights)
    terms = importance.sample_log_terms(params, key, x, model=model, num_samples=target.num_samples)
    return target.bound(importance.log_weights(terms, beta=target.beta)), terms


def closed_form_kl(
    params: Params, key: PRNGKeyArray, x: Float[Array, "D"], *, model: Model, target: Target
) -> tuple[Float[Array, ""], LogTerms]:
    """(1/K) sum_k log p(x|z_k) - beta sum_g max(free_bits, KL_g), KLs in closed form, in nats.

    Kingma and Welling (2014), eq. 3 and 7: the ELBO with less variance. Only the ELBO can
    be written so (every importance weight needs log p(z_k) - log q(z_k|x) itself). Free
    bits are those of Kingma et al. (2016), eq. 15, per example instead of per minibatch.

    Raises:
      ValueError: the bound is not the ELBO, or the model has no closed-form KL.
    """
    if target.bound is not bounds.elbo or target.inference_bound or model.kl_groups is None:
        raise ValueError("closed_form_kl needs the elbo bound and a model with a closed-form KL")
    terms = importance.sample_log_terms(params, key, x, model=model, num_samples=target.num_samples)
    kl = jnp.sum(jnp.maximum(model.kl_groups(params, x), target.free_bits))
    return jnp.mean(terms.log_likelihood) - target.beta * kl, terms


def sleep_phi(
    params: Params, key: PRNGKeyArray, x: Float[Array, "D"], *, model: Model, target: Target
) -> tuple[Float[Array, ""], LogTerms]:
    """The bound for theta, in nats; phi raises log q(z|x') at K dreams (x', z) ~ p.

    The sleep phase of Hinton et al. (1995): phi lowers E_p(x)[KL(p(z|x) || q(z|x))],
    without bias and without looking at the data.
    """
    data_key, dream_key = jax.random.split(key)
    frozen = jax.lax.stop_gradient(params)

    def dream(key):
        z_key, x_key = jax.random.split(key)
        z = model.sample_prior(frozen, z_key)
        return model.log_posterior(params, model.sample_likelihood(frozen, x_key, z), z)

    terms = importance.sample_log_terms(
        frozen | {"generative": params["generative"]},
        data_key,
        x,
        model=model,
        num_samples=target.num_samples,
    )
    value = target.bound(importance.log_weights(terms, beta=target.beta))
    log_posterior = jnp.mean(jax.vmap(dream)(jax.random.split(dream_key, target.num_samples)))
    return value + log_posterior - jax.lax.stop_gradient(log_posterior), terms


GRADIENTS: dict[str, Surrogate] = {
    **{name: functools.partial(weighted, weights=row) for name, row in PHI_WEIGHTS.items()},
    "pathwise": pathwise,
    "closed_form_kl": closed_form_kl,
    "sleep_phi": sleep_phi,
}
OWN_OBJECTIVE = ("wake_phi", "doubly_reparameterized_wake_phi", "sleep_phi")
"""Estimators whose phi follows a divergence of its own, not a bound."""


def refusals(gradient: str, bound: str, inference_bound: str | None) -> list[str]:
    """Why an estimator cannot be used with these bounds, given by name; [] where it can."""
    if gradient == "closed_form_kl" and (bound != "elbo" or inference_bound):
        return [f"closed_form_kl is a form of the elbo alone, bound is {bound!r}; use pathwise"]
    if gradient in OWN_OBJECTIVE and inference_bound:
        return [f"phi of {gradient} follows no bound; leave out inference_bound"]
    return []


def bias(gradient: str, bound: str) -> str | None:
    """Why an estimator's phi gradient is biased for the bound phi follows; None: unbiased."""
    if gradient == "stl" and bound != "elbo":
        return (
            f"stl is biased for every bound but the elbo, bound is {bound!r}; use "
            f"doubly_reparameterized"
        )
    if gradient == "doubly_reparameterized" and bound == "vr_max":
        return "doubly_reparameterized needs two derivatives, vr_max has a kink; use pathwise"
    return None

"""Surrogates: functions whose gradient estimates that of an expected bound, for one example.

Each returns a scalar to maximise, whose value is the bound for theta, and the log densities it was
made from. `gradients` says which there are, and what is known of each.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.models import relaxation
from vaejax.objectives import baselines, importance, phi_weights
from vaejax.types import LogTerms, Model, Params

Bound = Callable[[Float[Array, "K"]], Float[Array, ""]]
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
      common_key: of random numbers that the examples of a batch share; None: they share none.
    """

    bound: Bound
    num_samples: int
    inference_bound: Bound | None = None
    beta: float | Float[Array, ""] = 1.0
    free_bits: float | Float[Array, ""] = 0.0
    common_key: PRNGKeyArray | None = None


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


def _with_frozen_joint(model: Model) -> Model:
    """`model`, with constants for the parameters as p sees them."""
    return model._replace(
        prior=lambda params: model.prior(jax.lax.stop_gradient(params)),
        likelihood=lambda params, z: model.likelihood(jax.lax.stop_gradient(params), z),
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


def nvil(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    target: Target,
    hidden_dims: tuple[int, ...],
) -> tuple[Float[Array, ""], LogTerms]:
    """The bound for theta, in nats; phi as `phi_weights.nvil` says, with a learned baseline b(x).

    Mnih and Gregor (2014), section 2: b is a network of x alone, `baselines`, which this moves
    towards the bound that phi follows by (f - b(x))^2. Where q raises the bound b knows what to
    expect of x, and the noise of s_i is what x does not tell. The paper's centring by a running
    mean and division by a running deviation are left to Adam, which knows no scale.
    """
    network = baselines.network(model, hidden_dims=hidden_dims)
    expected = baselines.value(network, params, model.intensities(x))
    weights = functools.partial(phi_weights.nvil, baseline=jax.lax.stop_gradient(expected))
    value, terms = weighted(params, key, x, model=model, target=target, weights=weights)
    bound = target.inference_bound or target.bound
    found = bound(jax.lax.stop_gradient(importance.log_weights(terms, beta=target.beta)))
    error = 0.5 * jnp.square((found - expected) / x.size)
    return value - error + jax.lax.stop_gradient(error), terms


def concrete(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    target: Target,
    temperature: float | Float[Array, ""],
) -> tuple[Float[Array, ""], LogTerms]:
    """The bound for theta at discrete z, in nats; phi follows it through relaxed ones.

    phi follows f(log w(z~_1), .., log w(z~_K)) with z~ = `relaxation.sample` at `temperature`: the
    distribution of Maddison et al. (2017), with the masses of the discrete model continued to
    values between 0 and 1, as the KL of Jang et al. (2017). Biased; the bias goes with the
    temperature, and the variance comes in its place. Bound and log densities are those of the
    discrete model, at samples of their own.
    """
    own_key, relaxed_key = jax.random.split(key)
    awake = _with_frozen_posterior(model)
    terms = importance.sample_log_terms(
        params, own_key, x, model=awake, num_samples=target.num_samples
    )
    value = target.bound(importance.log_weights(terms, beta=target.beta))
    asleep = _with_frozen_joint(model)

    def relaxed(key):
        z = relaxation.sample(model.posterior(params, x), key, temperature=temperature)
        return importance.log_terms_at(params, x, z, model=asleep)

    relaxed_terms = jax.vmap(relaxed)(jax.random.split(relaxed_key, target.num_samples))
    bound = target.inference_bound or target.bound
    followed = bound(importance.log_weights(relaxed_terms, beta=target.beta))
    return value + followed - jax.lax.stop_gradient(followed), terms

"""Gradient estimators: functions whose gradient estimates that of an expected bound.

The value of a bound depends on log w alone, its gradient does not: each estimator here
returns, for one example, a scalar to maximise and the log densities it was made from, so
that the plain ELBO and L_K can be reported beside whatever is optimised.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax import bounds, importance
from vaejax.types import LogTerms, Model, Params

Surrogate = Callable[..., tuple[Float[Array, ""], LogTerms]]


def pathwise(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "D"],
    *,
    model: Model,
    bound: bounds.Bound,
    num_samples: int,
    beta: float | Float[Array, ""] = 1.0,
) -> tuple[Float[Array, ""], LogTerms]:
    """bound(log w_1..log w_K), differentiated through z = z(phi, noise), in nats.

    The reparameterised gradient of Kingma and Welling (2014), eq. 10, and, for L_K, of
    Burda et al. (2016), eq. 13. Unbiased for the gradient of the expected bound.
    """
    terms = importance.sample_log_terms(params, key, x, model=model, num_samples=num_samples)
    return bound(importance.log_weights(terms, beta=beta)), terms


def closed_form_kl(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "D"],
    *,
    model: Model,
    bound: bounds.Bound,
    num_samples: int,
    beta: float | Float[Array, ""] = 1.0,
) -> tuple[Float[Array, ""], LogTerms]:
    """(1/K) sum_k log p(x|z_k) - beta KL(q(z|x) || p(z)), the KL in closed form, in nats.

    Kingma and Welling (2014), eq. 3 and 7: the ELBO with less variance. Only the ELBO can
    be written so (every importance weight needs log p(z_k) - log q(z_k|x) itself).

    Raises:
      ValueError: the bound is not the ELBO, or the model has no closed-form KL.
    """
    if bound is not bounds.elbo or model.kl is None:
        raise ValueError("closed_form_kl needs the elbo bound and a model with a closed-form KL")
    terms = importance.sample_log_terms(params, key, x, model=model, num_samples=num_samples)
    return jnp.mean(terms.log_likelihood) - beta * model.kl(params, x), terms


GRADIENTS: dict[str, Surrogate] = {"pathwise": pathwise, "closed_form_kl": closed_form_kl}

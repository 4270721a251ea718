"""Priors at a temperature. To add a family, write what T does to it and name it in `TEMPERED`.

At temperature T every standard deviation of the noise that a distribution is made of is
multiplied by T (as in Glow, Kingma and Dhariwal 2018, section 6, and VDVAE, Child 2021): T = 1 is
the distribution itself, T < 1 draws nearer to its middle. What it makes is a distribution too,
normalised. It is not p(z)^(1 / T^2): that is the same for a normal alone.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vaejax.errors import UserError
from vaejax.models.discrete import AutoregressiveBernoulli, OneHot
from vaejax.models.distributions import Bernoulli, Chain
from vaejax.models.flows import Flow
from vaejax.models.mixtures import Mixture, NormalMixture
from vaejax.types import Distribution

Temperature = float | Float[Array, ""]


def tempered(distribution: Distribution, temperature: Temperature) -> Distribution:
    """`distribution` with T times the noise.

    A normal N(m, S) becomes N(m, T^2 S); each component of a mixture does so, and their weights
    stay; a flow moves a base that does so; each layer of a hierarchy does so, given the layers
    drawn before it. A discrete value is the sign, or the largest, of logits with logistic, or
    Gumbel, noise: its logits are divided by T. `temperature` may be traced.

    Raises:
      UserError: a distribution of which it is not known.
    """
    for family, function in TEMPERED.items():
        if isinstance(distribution, family):
            return function(distribution, temperature)
    raise UserError(
        f"--temperature: a prior of {type(distribution).__name__} knows none; leave it at 1"
    )


def _independent(distribution: dist.Independent, temperature: Temperature) -> Distribution:
    base = tempered(distribution.base_dist, temperature)
    return base.to_event(distribution.reinterpreted_batch_ndims)


def _normal(distribution: dist.Normal, temperature: Temperature) -> Distribution:
    return dist.Normal(distribution.loc, temperature * distribution.scale)


def _full_normal(distribution: dist.MultivariateNormal, temperature: Temperature) -> Distribution:
    return dist.MultivariateNormal(
        distribution.loc, scale_tril=temperature * distribution.scale_tril
    )


def _normal_mixture(distribution: NormalMixture, temperature: Temperature) -> Distribution:
    own = distribution
    return NormalMixture(own.log_weights, own.loc, temperature * own.scale)


def _mixture(distribution: Mixture, temperature: Temperature) -> Distribution:
    one = lambda component: tempered(component, temperature)  # noqa: E731
    return Mixture(jax.vmap(one)(distribution.components))


def _flow(distribution: Flow, temperature: Temperature) -> Distribution:
    own = distribution
    return Flow(tempered(own.base, temperature), own.params, own.context, own.bijection)


def _chain(distribution: Chain, temperature: Temperature) -> Distribution:
    def cooler(step):
        def tempered_step(carry, drawn):
            carry, layer = step(carry, drawn)
            return carry, tempered(layer, temperature)

        return tempered_step

    first = tempered(distribution.first, temperature)
    return Chain(first, tuple(map(cooler, distribution.following)), distribution.top_down)


def _bernoulli(distribution: Bernoulli, temperature: Temperature) -> Distribution:
    return Bernoulli(distribution.logits / temperature)


def _one_hot(distribution: OneHot, temperature: Temperature) -> Distribution:
    return OneHot(distribution.logits / temperature)


def _autoregressive(
    distribution: AutoregressiveBernoulli, temperature: Temperature
) -> Distribution:
    return dataclasses.replace(distribution, temperature=distribution.temperature * temperature)


TEMPERED: dict[type, Callable[..., Distribution]] = {
    dist.Independent: _independent,
    dist.Normal: _normal,
    dist.MultivariateNormal: _full_normal,
    NormalMixture: _normal_mixture,
    Mixture: _mixture,
    Flow: _flow,
    Bernoulli: _bernoulli,
    OneHot: _one_hot,
    AutoregressiveBernoulli: _autoregressive,
    Chain: _chain,
}

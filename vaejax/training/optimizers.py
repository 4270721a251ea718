"""Adam with every knob of the field's papers, its schedules, and the warm-up of beta."""

import itertools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from vaejax.config import Config
from vaejax.types import Params


def learning_rate(config: Config, *, steps_per_epoch: int) -> optax.Schedule:
    """The rate as a function of the step number (from 0).

    constant: r. cosine: r (f + (1 - f)(1 + cos(pi t))/2) with t from 0 to 1 over the run
    and f = `final_scale`. staged: r times the scale of the stage the step lies in (Burda
    et al. 2016, section 5: 3^(i-1) epochs at 1e-3 * 10^(-(i-1)/7) for i = 1..8).
    """
    optimizer, rate = config.optimizer, config.optimizer.learning_rate
    if optimizer.schedule == "cosine":
        num_steps = config.training.num_epochs * steps_per_epoch
        return optax.cosine_decay_schedule(rate, num_steps, alpha=optimizer.final_scale)
    if optimizer.schedule == "staged":
        ends = itertools.accumulate(epochs * steps_per_epoch for epochs in optimizer.stage_epochs)
        stages = [optax.constant_schedule(rate * scale) for scale in optimizer.stage_scales]
        return optax.join_schedules(stages, list(ends)[:-1])
    return optax.constant_schedule(rate)


def beta(config: Config, step: Int[Array, ""], *, steps_per_epoch: int) -> Float[Array, ""]:
    """beta min(1, (step + 1) / (warmup_epochs * steps_per_epoch))."""
    warmup_steps = config.objective.warmup_epochs * steps_per_epoch
    return config.objective.beta * jnp.minimum(1.0, (step + 1) / jnp.maximum(warmup_steps, 1.0))


def _adam(config: Config) -> optax.GradientTransformation:
    """Adam's direction for the parameters that are trained, zero for the others."""
    optimizer, trained = config.optimizer, config.training.parameters
    adam = optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps)
    if trained == "all":
        return adam
    labels = {group: group == trained for group in ("generative", "inference")}
    return optax.multi_transform({True: adam, False: optax.set_to_zero()}, labels)


def init(config: Config, params: Params) -> optax.OptState:
    """Adam's state: zero first moments, second moments at `second_moment_init`."""
    state, start = _adam(config).init(params), config.optimizer.second_moment_init
    moments = optax.tree_utils.tree_get(state, "nu")
    return optax.tree_utils.tree_set(
        state, nu=jax.tree.map(lambda nu: jnp.full_like(nu, start), moments)
    )


def update(
    config: Config,
    gradient: Params,
    state: optax.OptState,
    params: Params,
    *,
    rate: Float[Array, ""],
) -> tuple[Params, optax.OptState]:
    """One step down `gradient` of the loss: new parameters and optimiser state."""
    direction, new = _adam(config).update(gradient, state, params)
    state = _like(new, state)
    return jax.tree.map(lambda p, d: p - (rate * d).astype(p.dtype), params, direction), state


def moving_average(average: Params, params: Params, *, decay: float) -> Params:
    """decay * average + (1 - decay) * params."""
    return _like(optax.incremental_update(params, average, step_size=1.0 - decay), average)


def _like(new: PyTree, old: PyTree) -> PyTree:
    """`new` in the types of `old`: with 64 bits enabled, traced rates would widen it."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)

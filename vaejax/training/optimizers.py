"""Adam with every knob of the field's papers, its schedules, and the warm-up of beta."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from vaejax.config import Config
from vaejax.types import Params


def learning_rate(
    config: Config, step: Int[Array, ""], *, steps_per_epoch: int
) -> Float[Array, ""]:
    """The rate of step number `step` (from 0).

    constant: r. cosine: r (f + (1 - f)(1 + cos(pi t))/2) with t from 0 to 1 over the run
    and f = `final_scale`. staged: r times the scale of the stage the step lies in (Burda
    et al. 2016, section 5: 3^(i-1) epochs at 1e-3 * 10^(-(i-1)/7) for i = 1..8).
    """
    optimizer = config.optimizer
    if optimizer.schedule == "cosine":
        progress = step / (config.training.num_epochs * steps_per_epoch)
        wave = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return optimizer.learning_rate * (
            optimizer.final_scale + (1.0 - optimizer.final_scale) * wave
        )
    if optimizer.schedule == "staged":
        ends = jnp.cumsum(jnp.asarray(optimizer.stage_epochs)) * steps_per_epoch
        stage = jnp.minimum(jnp.searchsorted(ends, step, side="right"), len(ends) - 1)
        return optimizer.learning_rate * jnp.asarray(optimizer.stage_scales)[stage]
    return jnp.asarray(optimizer.learning_rate)


def beta(config: Config, step: Int[Array, ""], *, steps_per_epoch: int) -> Float[Array, ""]:
    """beta min(1, (step + 1) / (warmup_epochs * steps_per_epoch))."""
    warmup_steps = config.objective.warmup_epochs * steps_per_epoch
    return config.objective.beta * jnp.minimum(1.0, (step + 1) / jnp.maximum(warmup_steps, 1.0))


def _adam(config: Config) -> optax.GradientTransformation:
    optimizer = config.optimizer
    return optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps)


def init(config: Config, params: Params) -> optax.OptState:
    """Adam's state: zero first moments, second moments at `second_moment_init`."""
    state = _adam(config).init(params)
    start = config.optimizer.second_moment_init
    return state._replace(nu=jax.tree.map(lambda nu: jnp.full_like(nu, start), state.nu))


def update(
    config: Config,
    gradient: Params,
    state: optax.OptState,
    params: Params,
    *,
    rate: Float[Array, ""],
) -> tuple[Params, optax.OptState]:
    """One step down `gradient` of the loss: new parameters and optimiser state."""
    direction, state = _adam(config).update(gradient, state, params)
    return jax.tree.map(lambda p, d: p - (rate * d).astype(p.dtype), params, direction), state


def moving_average(average: Params, params: Params, *, decay: float) -> Params:
    """decay * average + (1 - decay) * params."""
    return optax.incremental_update(params, average, step_size=1.0 - decay)

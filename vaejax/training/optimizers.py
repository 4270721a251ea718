"""Adam with every knob of the field's papers, its schedules, and the warm-up of beta."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

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


def of_trained(config: Config, tree: Params) -> Params:
    """A tree of the parameters' structure, with 0 for those that are not trained."""
    trained = config.training.parameters
    if trained == "all":
        return tree
    zeros = jax.tree.map(jnp.zeros_like, tree)
    return {group: (tree if group == trained else zeros)[group] for group in tree}


def may_follow(config: Config, gradient: Params, loss: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether the loss and the gradient are finite, and it is no longer than `skip_norm`."""
    norm = optax.tree.norm(of_trained(config, gradient))
    return jnp.isfinite(loss) & (norm <= config.optimizer.skip_norm)


class Counted(NamedTuple):
    """The optimiser's state of a run that may skip steps.

    Attributes:
      adam: what it is without that.
      skipped: how many steps were skipped.
    """

    adam: optax.OptState
    skipped: Int[Array, ""]


def init(config: Config, params: Params) -> optax.OptState | Counted:
    """Adam's state: zero first moments, second moments at `second_moment_init`."""
    state, start = _adam(config).init(params), config.optimizer.second_moment_init
    moments = optax.tree_utils.tree_get(state, "nu")
    state = optax.tree_utils.tree_set(
        state, nu=jax.tree.map(lambda nu: jnp.full_like(nu, start), moments)
    )
    if config.optimizer.skip_norm is None:
        return state
    return Counted(state, jnp.zeros((), jnp.int32))


def without_moments(
    config: Config, state: optax.OptState | Counted, params: Params
) -> optax.OptState | Counted:
    """Adam's state of step 0 in the place of `state`; how many steps were skipped stays known."""
    fresh = init(config, params)
    if isinstance(state, Counted):
        return fresh._replace(skipped=state.skipped)
    return fresh


def num_updates(state: optax.OptState | Counted) -> int:
    """How many steps Adam's moments have followed."""
    return int(optax.tree_utils.tree_get(state, "count"))


def update(
    config: Config,
    gradient: Params,
    state: optax.OptState | Counted,
    params: Params,
    *,
    rate: Float[Array, ""],
) -> tuple[Params, optax.OptState | Counted]:
    """One step down `gradient` of the loss: new parameters and optimiser state.

    The gradient is cut to `clip_norm` first; weights decay apart from it (AdamW, Loshchilov and
    Hutter 2019), biases too, where they are trained.
    """
    optimizer, nothing = config.optimizer, optax.EmptyState()
    if optimizer.clip_norm is not None:
        clip = optax.clip_by_global_norm(optimizer.clip_norm)
        gradient = _like(clip.update(of_trained(config, gradient), nothing)[0], gradient)
    adam = state.adam if isinstance(state, Counted) else state
    direction, new = _adam(config).update(gradient, adam, params)
    new = _like(new, adam)
    state = state._replace(adam=new) if isinstance(state, Counted) else new
    if optimizer.weight_decay is not None:
        decay = optax.add_decayed_weights(optimizer.weight_decay)
        direction = decay.update(direction, nothing, of_trained(config, params))[0]
    return jax.tree.map(lambda p, d: p - (rate * d).astype(p.dtype), params, direction), state


def moving_average(average: Params, params: Params, *, decay: float) -> Params:
    """decay * average + (1 - decay) * params."""
    return _like(optax.incremental_update(params, average, step_size=1.0 - decay), average)


def _like(new: PyTree, old: PyTree) -> PyTree:
    """`new` in the types of `old`: with 64 bits enabled, traced rates would widen it."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)

"""Training as pure functions: state in, state and metrics out.

Every random number is derived from (seed, step), none is kept in the state: a scan, a
Python loop and a resumed run compute the same thing. Leaves of `config` may be traced.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from vaejax import keys
from vaejax.config import Config
from vaejax.data import recipes
from vaejax.data.sources import Kind
from vaejax.objectives import bounds, gradients, importance, surrogates
from vaejax.training import optimizers
from vaejax.types import Model, Params

Metrics = dict[str, Float[Array, "..."]]


class Best(NamedTuple):
    """The parameters with the highest validation bound so far.

    Attributes:
      params: what evaluation uses.
      value: their validation bound, nats (minus infinity before the first validation).
      step: the step they are from.
      stale: validations since then, or since the end of the warm-up.
    """

    params: Params
    value: Float[Array, ""]
    step: Int[Array, ""]
    stale: Int[Array, ""]


class TrainState(NamedTuple):
    """Everything a resumed run needs: arrays only.

    Attributes:
      step: optimiser steps done.
      params: the model's parameters.
      opt_state: Adam's moments, and how many steps were skipped where some may be.
      average: exponential moving average of params, or None where it is off.
      best: best parameters by validation, or None without early stopping.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    average: Params | None
    best: Best | None

    @property
    def skipped(self) -> Int[Array, ""] | None:
        """How many of the steps were skipped; None where none ever is."""
        own = self.opt_state
        return own.skipped if isinstance(own, optimizers.Counted) else None


class Plan(NamedTuple):
    """How a run is cut into steps.

    Attributes:
      steps_per_epoch: whole batches per epoch; the rest of each permutation is unused.
      steps_per_call: steps in one compiled scan; divides `steps_per_epoch`.
      num_steps: steps of the whole run.
      kind: of the training images, see `data.sources`.
      batch_sharding: how a batch lies on several devices; None: it is on one.
    """

    steps_per_epoch: int
    steps_per_call: int
    num_steps: int
    kind: Kind = "levels"
    batch_sharding: jax.sharding.Sharding | None = None


def make_plan(config: Config, num_examples: int, kind: Kind = "levels") -> Plan:
    """One scan per epoch, or equal scans of at most `max_steps_per_call` steps."""
    batches = num_examples // config.training.batch_size
    calls = -(-batches // config.training.max_steps_per_call)
    steps_per_call = batches // calls
    steps_per_epoch = calls * steps_per_call
    num_steps = config.training.num_epochs * steps_per_epoch
    return Plan(steps_per_epoch, steps_per_call, num_steps, kind)


def is_finished(config: Config, plan: Plan, *, step: int, stale: int) -> bool:
    """Whether a run at `step` with `stale` validations without improvement is at its end."""
    patience = config.training.patience
    return step >= plan.num_steps or (patience is not None and stale >= patience)


class Keys(NamedTuple):
    """Independent keys of a run, all from its seed."""

    init: PRNGKeyArray
    shuffle: PRNGKeyArray
    steps: PRNGKeyArray


def make_keys(config: Config) -> Keys:
    """The keys of the run with `config.seed`."""
    return Keys(*(keys.domain(config.seed, f"training/{purpose}") for purpose in Keys._fields))


def init_state(config: Config, *, model: Model) -> TrainState:
    """The state before the first step."""
    key = make_keys(config).init
    params = gradients.init(model.init(key), key, gradient=config.objective.gradient, model=model)
    copy = lambda: jax.tree.map(jnp.copy, params)  # noqa: E731  (donation forbids sharing)
    best = None
    if config.training.patience is not None:
        zero = jnp.zeros((), jnp.int32)
        best = Best(copy(), jnp.asarray(-jnp.inf), zero, jnp.zeros((), jnp.int32))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizers.init(config, params),
        average=None if config.training.ema_decay is None else copy(),
        best=best,
    )


def started_from(state: TrainState, params: Params | None) -> TrainState:
    """The state before the first step with `params` for its own; None: as it is.

    What a gradient estimator learns beside the model stays as it is where `params` lack it.
    """
    if params is None:
        return state
    params = {
        group: {k: params[group].get(k, v) for k, v in own.items()}
        for group, own in state.params.items()
    }
    copy = lambda: jax.tree.map(jnp.copy, params)  # noqa: E731  (donation forbids sharing)
    average = None if state.average is None else copy()
    best = None if state.best is None else state.best._replace(params=copy())
    return state._replace(params=copy(), average=average, best=best)


def averaged_params(state: TrainState) -> Params:
    """The moving average where there is one, else the parameters."""
    return state.params if state.average is None else state.average


def evaluation_params(state: TrainState) -> Params:
    """The parameters a run is judged by: best by validation, else averaged, else last."""
    return averaged_params(state) if state.best is None else state.best.params


def train_step(
    state: TrainState,
    key: PRNGKeyArray,
    images: Num[Array, "B ..."],
    *,
    config: Config,
    model: Model,
    plan: Plan,
) -> tuple[TrainState, Metrics]:
    """One gradient step on one batch; metrics are means over the batch, in nats.

    `key` is the run's key for steps: this step's is derived from it and `state.step`.
    """
    own_key = jax.random.fold_in(key, state.step)
    data_key, sample_key = jax.random.split(own_key)
    x = recipes.prepare(data_key, images, recipes.of(config, plan.kind))
    if plan.batch_sharding is not None:
        x = jax.lax.with_sharding_constraint(x, plan.batch_sharding)
    # Without the barrier XLA:CPU draws x again inside each of its four consumers.
    x = jax.lax.optimization_barrier(x)
    example_keys = jax.random.split(sample_key, images.shape[0])
    beta = optimizers.beta(config, state.step, steps_per_epoch=plan.steps_per_epoch)
    rate = optimizers.learning_rate(config, steps_per_epoch=plan.steps_per_epoch)(state.step)
    surrogate = gradients.surrogate(config.objective.gradient)
    options = {
        "model": model,
        "target": target(config, beta=beta)._replace(
            common_key=keys.within(own_key, "step/common")
        ),
    }

    def loss(params):
        one = lambda key, x: surrogate(params, key, x, **options)  # noqa: E731
        values, terms = jax.vmap(one)(example_keys, x)
        return -jnp.mean(values), terms

    (loss_value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    params, opt_state = optimizers.update(
        config, gradient, state.opt_state, state.params, rate=rate
    )
    average = state.average
    if average is not None:
        average = optimizers.moving_average(average, params, decay=config.training.ema_decay)
    metrics = {
        "loss": loss_value,
        "beta": beta,
        "learning_rate": jnp.asarray(rate),
    } | _bounds_of(terms)
    new = TrainState(state.step + 1, params, opt_state, average, state.best)
    if config.optimizer.skip_norm is None:
        return new, metrics
    follows = optimizers.may_follow(config, gradient, loss_value)
    new = _or_skipped(new, state, follows)
    return new, metrics | {"skipped": ~follows, "skipped_steps": new.skipped}


def _or_skipped(new: TrainState, old: TrainState, follows: Bool[Array, ""]) -> TrainState:
    """`new`, or where the step is skipped `old`, one step and one skipped step further."""
    kept = jax.tree.map(lambda n, o: jnp.where(follows, n, o), new, old)
    counted = kept.opt_state._replace(skipped=old.skipped + ~follows)
    return kept._replace(step=new.step, opt_state=counted)


def target(config: Config, *, beta: Float[Array, ""]) -> surrogates.Target:
    """What `config.objective` maximises, with `beta` as its schedule has it now."""
    objective = config.objective
    followed = objective.inference_bound
    return surrogates.Target(
        bound=bounds.of(objective.bound),
        num_samples=objective.num_samples,
        inference_bound=None if followed is None else bounds.to_maximize(followed),
        beta=beta,
        free_bits=objective.free_bits,
    )


def _bounds_of(terms) -> Metrics:
    """The plain ELBO and L_K beside whatever is optimised."""
    log_weights = importance.log_weights(terms)
    return {
        "elbo": jnp.mean(log_weights),
        "iwae": jnp.mean(jax.vmap(bounds.iwae)(log_weights)),
        "reconstruction": jnp.mean(terms.log_likelihood),
        "kl": jnp.mean(terms.log_posterior - terms.log_prior),
    }


def batch_indices(
    step: Int[Array, ""], *, config: Config, plan: Plan, num_examples: int
) -> Int[Array, "S B"]:
    """Example indices of the `steps_per_call` batches from `step` on (same epoch)."""
    epoch, offset = step // plan.steps_per_epoch, step % plan.steps_per_epoch
    key = jax.random.fold_in(make_keys(config).shuffle, epoch)
    batch_size = config.training.batch_size
    order = jax.random.permutation(key, num_examples)
    order = order[: plan.steps_per_epoch * batch_size].reshape(-1, batch_size)
    return jax.lax.dynamic_slice_in_dim(order, offset, plan.steps_per_call)


def train_call(
    state: TrainState,
    images: Num[Array, "N ..."],
    *,
    config: Config,
    model: Model,
    plan: Plan,
) -> tuple[TrainState, Metrics]:
    """`steps_per_call` steps as one scan; metrics [steps_per_call] each.

    `params_finite` is one number: whether the parameters at the end are finite.
    """
    batches = batch_indices(state.step, config=config, plan=plan, num_examples=images.shape[0])
    key = make_keys(config).steps

    def body(state, rows):
        options = {"config": config, "model": model, "plan": plan}
        return train_step(state, key, images[rows], **options)

    with jax.default_matmul_precision(config.training.precision):
        state, metrics = jax.lax.scan(body, state, batches)
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]
    return state, metrics | {"params_finite": jnp.all(jnp.stack(finite))}


def update_best(
    state: TrainState, value: Float[Array, ""], *, config: Config, plan: Plan
) -> TrainState:
    """`state` with `best` updated by a validation bound `value` of the current step.

    While beta rises nothing counts as stale: a bound at beta = 1 may fall then though all is well.
    """
    best = state.best
    warming_up = state.step < config.objective.warmup_epochs * plan.steps_per_epoch
    better = value > best.value
    pick = lambda new, old: jnp.where(better, new, old)  # noqa: E731
    params = jax.tree.map(pick, averaged_params(state), best.params)
    stale = jnp.where(better | warming_up, 0, best.stale + 1)
    value, step = pick(value, best.value), pick(state.step, best.step)
    return state._replace(best=Best(params, value, step, stale))

"""Training in memory: the library's own step, without a run directory or checkpoints."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Num, PyTree

from vaejax import config as config_lib
from vaejax.config import Config, Objective, Optimizer, Training
from vaejax.data.sources import Kind
from vaejax.data.splits import TrainingData
from vaejax.training import step as training
from vaejax.types import Model, Params

Images = Num[Array, "N ..."] | Num[np.ndarray, "N ..."]
_init = jax.jit(training.init_state, static_argnames="model")
_call = jax.jit(training.train_call, static_argnames=("model", "plan"))


def log_spaced(count: int, num_records: int) -> tuple[int, ...]:
    """0 and at most `num_records` further numbers up to `count`, dense where it begins."""
    numbers = np.geomspace(1, count, num_records).round().astype(int)
    return tuple(sorted({0, *numbers.tolist()}))


def digits_vae(
    *,
    seed: int,
    latent_dim: int,
    hidden_dims: tuple[int, ...],
    num_epochs: int,
    parts: Mapping[str, str] | None = None,
    **sections: Objective | Optimizer,
) -> Config:
    """A VAE on the binarised digits; `sections` are those of a config, `parts` of its model."""
    encoder = f"mlp(hidden_dims={hidden_dims})"
    return config_lib.validated(
        Config(
            seed=seed,
            model=config_lib.Model(latent_dims=(latent_dim,), encoder=encoder, **(parts or {})),
            training=Training(num_epochs=num_epochs),
            **sections,
        )
    )


def epochs(
    config: Config,
    images: Images | Callable[[int], Images],
    *,
    model: Model,
    kind: Kind,
    start: Callable[[Params], Params] | None = None,
) -> Iterator[Params]:
    """Yields the parameters before training and after each of its epochs.

    All configs of one model that differ in traced numbers alone share one compiled program.

    Args:
      images: the training examples, or `(epoch) -> examples` where each epoch has its own.
      kind: of the images, as in `TrainingData`.
      start: `(params) -> params`, applied to the initial parameters.
    """
    if callable(images):
        images_of = images
    else:
        same = jnp.asarray(images)
        images_of = lambda epoch: same  # noqa: E731
    plan = training.make_plan(config, len(images_of(0)), kind)
    state = _init(config, model=model)
    if start is not None:
        state = training.started_from(state, start(state.params))
    # A weakly typed leaf would make the first calls compile anew.
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)
    yield state.params
    for epoch in range(config.training.num_epochs):
        current = images_of(epoch)
        for _ in range(plan.steps_per_epoch // plan.steps_per_call):
            state, _ = _call(state, current, config=config, model=model, plan=plan)
        yield state.params


def trained(config: Config, data: TrainingData, *, model: Model) -> Params:
    """The parameters after the last epoch."""
    for params in epochs(config, data.images, model=model, kind=data.kind):
        last = params
    return last


def minimize(
    loss: Callable[[PyTree], Float[Array, ""]],
    params: PyTree,
    *,
    record_at: Sequence[int],
    learning_rate: float,
) -> list[PyTree]:
    """Adam on a loss that is known exactly, in the precision of `params`: no images, no noise.

    The rate falls to zero along a cosine.

    Args:
      record_at: rising step counts, the last of them the number of steps; 0 gives the
        parameters as they come.

    Returns:
      The parameters after each of those counts.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, max(1, record_at[-1])))

    @jax.jit
    def advance(carry, count):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, count, step, carry)

    carry, done, kept = (params, optimizer.init(params)), 0, []
    for count in record_at:
        carry, done = advance(carry, count - done), count
        kept.append(carry[0])
    return kept

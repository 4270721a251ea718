"""Training of an image model in memory, epoch by epoch: no run directory, no checkpoints."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from vaejax.config import Config
from vaejax.data.splits import TrainingData
from vaejax.models import registry as models
from vaejax.training import step as training
from vaejax.types import Model, Params


def build(config: Config, data: TrainingData) -> Model:
    """The model of `config` for the images of `data`."""
    return models.MODELS[config.model.name].build(config.model, data.spec)


def epochs(config: Config, data: TrainingData, *, model: Model) -> Iterator[Params]:
    """Yields the parameters before training and after each of its epochs."""
    plan = training.make_plan(config, len(data.images))
    images = jnp.asarray(data.images)
    call = jax.jit(lambda s: training.train_call(s, images, config=config, model=model, plan=plan))
    state = jax.jit(lambda: training.init_state(config, model=model))()
    # A weakly typed leaf would make the first calls compile anew.
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)
    yield state.params
    for _ in range(config.training.num_epochs):
        for _ in range(plan.steps_per_epoch // plan.steps_per_call):
            state, _ = call(state)
        yield state.params


def train(config: Config, data: TrainingData, *, model: Model) -> Params:
    """The parameters after the last epoch."""
    for params in epochs(config, data, model=model):
        last = params
    return last

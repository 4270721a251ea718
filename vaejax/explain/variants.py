"""Variants of one model of the digits: trained from one seed, measured on the same digits."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax import config as config_lib
from vaejax.config import Config
from vaejax.data.splits import TrainingData
from vaejax.evaluation import examples as evaluation
from vaejax.evidence import estimators as evidence
from vaejax.objectives import importance
from vaejax.training import step as training
from vaejax.types import Estimator, Evidence, Model, Numbers, Params

_ROWS = 8  # examples in memory at once, times their samples


class Mean(NamedTuple):
    """A mean over examples and its standard error: sd / sqrt(N), Monte-Carlo noise included.

    Of a difference between two models on the same examples, or between two quantities of
    one model, it is the paired error.
    """

    value: float
    error: float


def mean(values: Float[np.ndarray, "N"]) -> Mean:
    """Mean and error of per-example values (or of per-example differences)."""
    values = np.asarray(values, np.float64)
    return Mean(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def settings(
    *, seed: int, latent_dim: int, hidden_units: int, num_epochs: int, num_samples: int = 1
) -> Config:
    """A VAE on the binarised digits, trained on L_K with K = `num_samples` (1: the ELBO)."""
    return config_lib.override_all(
        Config(),
        {
            "seed": seed,
            "model.latent_dims": (latent_dim,),
            "model.hidden_dims": ((hidden_units,),),
            "objective.bound": "elbo" if num_samples == 1 else "iwae",
            "objective.num_samples": num_samples,
            "optimizer.learning_rate": 3e-3,
            "optimizer.schedule": "cosine",
            "training.num_epochs": num_epochs,
        },
    )


def train(
    config: Config, variants: Sequence[Numbers], data: TrainingData, *, model: Model
) -> list[Params]:
    """One model per entry of `variants`, which replaces traced numbers of `config`.

    One compiled program serves them all.
    """
    plan = training.make_plan(config, len(data.images))
    images = jnp.asarray(data.images)

    @jax.jit
    def run(state, numbers):
        traced = config_lib.with_numbers(config, numbers)

        def call(state, _):
            state, _ = training.train_call(state, images, config=traced, model=model, plan=plan)
            return state, None

        return jax.lax.scan(call, state, length=plan.num_steps // plan.steps_per_call)[0]

    return [run(training.init_state(config, model=model), numbers).params for numbers in variants]


def measure(
    variants: Sequence[Params],
    key: PRNGKeyArray,
    x: Float[np.ndarray, "N D"],
    *,
    model: Model,
    num_samples: int,
) -> list[dict[str, Float[np.ndarray, "N"]]]:
    """ "elbo", "reconstruction", "kl" and "iwae_k" per example, as `evaluation` names them.

    All variants use the same samples' noise; elbo = reconstruction - kl, sample by sample.
    """

    @jax.jit
    def run(params, x):
        def one(row):
            index, x = row
            terms = importance.sample_log_terms(
                params, jax.random.fold_in(key, index), x, model=model, num_samples=num_samples
            )
            return evaluation.summarize_weights(terms)[0]

        return jax.lax.map(one, (jnp.arange(len(x)), x), batch_size=_ROWS)

    return [jax.tree.map(np.asarray, run(params, jnp.asarray(x))) for params in variants]


def annealed(
    variants: Sequence[Params],
    key: PRNGKeyArray,
    x: Float[np.ndarray, "N D"],
    *,
    model: Model,
    **budget,
) -> list[Evidence]:
    """log p(x) of every variant by annealed importance sampling; each has a pilot of its own."""
    module = evidence.ESTIMATORS["annealed"]
    estimator: Estimator = module.build(module.Config(**budget), model=model)
    pilot_examples = module.Config(**budget).pilot_examples

    @jax.jit
    def run(params, key: Array, x):
        pilot_key, key = jax.random.split(key)
        tuning = estimator.pilot(params, pilot_key, x[:pilot_examples])
        estimate = lambda key, x: estimator.estimate(params, key, x, tuning)["annealed"]  # noqa: E731
        return jax.vmap(estimate)(jax.random.split(key, len(x)), x)

    return [jax.tree.map(np.asarray, run(params, key, jnp.asarray(x))) for params in variants]

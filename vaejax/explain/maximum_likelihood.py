"""Gradient ascent on a bound, against the closed-form maximum of log p(x) itself."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from vaejax import config as config_lib
from vaejax.config import Dataset, Objective, Optimizer, Training
from vaejax.data import splits
from vaejax.data.splits import TrainingData
from vaejax.explain import closed_forms, draw, measure, train
from vaejax.explain.result import Picture
from vaejax.models import latent_variable, linear_gaussian
from vaejax.models.linear_gaussian import LinearGaussian
from vaejax.schema import field
from vaejax.types import Params

QUESTION = "Why maximise a bound: does it lead to the maximum of log p(x)?"
_NUM_RECORDS = 40
_START_LOG_SCALE = -1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """The linear-Gaussian model on the digits' grey values: its best p(x) is known."""

    num_latents: int = field(8, "latents", low=1, high=60)
    elbo_epochs: int = field(170, "epochs of training on the ELBO", low=1)
    bound_epochs: int = field(55, "epochs of training on L_k", low=1)
    batch_size: int = field(100, "digits per step", low=1)
    learning_rate: float = field(0.03, "first rate; cosine to 0", low=0.0)
    num_samples: int = field(5, "samples k of the second objective, L_k", low=2)


class Trained(NamedTuple):
    """One training run.

    Attributes:
      epochs: epochs done when it was measured, [R].
      log_marginal: mean exact log p(x) of the training digits then, nats, [R].
      elbo: mean exact ELBO of them, nats, [R].
      angle: largest angle between the span of its W and the best one, degrees.
    """

    epochs: Float[np.ndarray, "R"]
    log_marginal: Float[np.ndarray, "R"]
    elbo: Float[np.ndarray, "R"]
    angle: float


class Findings(NamedTuple):
    """Attributes:

    best: mean log p(x) of the closed-form maximum (probabilistic PCA), nats.
    sklearn: `sklearn.decomposition.PCA.score` of the same digits, nats.
    runs: by objective, "ELBO" and "L_k".
    """

    best: float
    sklearn: float
    runs: dict[str, Trained]


def _settings(config: Config, *, seed: int, num_samples: int) -> config_lib.Config:
    is_elbo = num_samples == 1
    return config_lib.validated(
        config_lib.Config(
            seed=seed,
            dataset=Dataset(binarization="none", num_validation=0),
            model=config_lib.Model(
                latent_dims=(config.num_latents,),
                posterior="full_normal(shared_scale=True)",
                likelihood="normal",
                encoder="linear",
            ),
            objective=Objective(
                bound="elbo" if is_elbo else "iwae",
                gradient="closed_form_kl" if is_elbo else "pathwise",
                num_samples=num_samples,
            ),
            optimizer=Optimizer(learning_rate=config.learning_rate, schedule="cosine"),
            training=Training(
                num_epochs=config.elbo_epochs if is_elbo else config.bound_epochs,
                batch_size=config.batch_size,
            ),
        )
    )


def compute(config: Config, *, seed: int) -> Findings:
    """Trains on the ELBO and on L_k, and solves for the maximum."""
    data = splits.training_data(_settings(config, seed=seed, num_samples=1))
    x = measure.grey_digits("train", num_validation=0)
    best, value = closed_forms.maximum_likelihood(x, config.num_latents)
    flat = x.reshape(len(x), -1)
    score = float(PCA(config.num_latents, svd_solver="full").fit(flat).score(flat))
    objectives = {"ELBO": 1, f"L_{config.num_samples}": config.num_samples}
    runs = {
        name: _train(_settings(config, seed=seed, num_samples=size), data, x, best)
        for name, size in objectives.items()
    }
    return Findings(value, score, runs)


def _start(params: Params) -> Params:
    """Starts with a W that hardly uses z and an s near that of the data, which takes fewer
    epochs than the library's wider start."""
    model = linear_gaussian.of(params)
    size, num_latents = model.weights.shape
    weights = model.weights * np.sqrt(num_latents / size)
    start = model._replace(weights=weights, log_scale=jnp.asarray(_START_LOG_SCALE))
    return params | {"generative": linear_gaussian.generative_params(start)}


def _train(
    settings: config_lib.Config,
    data: TrainingData,
    x: Float[np.ndarray, "N ..."],
    best: LinearGaussian,
) -> Trained:
    model = latent_variable.build(settings.model, data.spec)
    recorded = train.log_spaced(settings.training.num_epochs, _NUM_RECORDS)
    course = train.epochs(settings, data.images, kind=data.kind, model=model, start=_start)
    kept = [params for epoch, params in enumerate(course) if epoch in recorded]

    def example(params, key, x):
        parts = linear_gaussian.of(params), linear_gaussian.posterior_of(params)
        return model.log_marginal(params, x), closed_forms.elbo(*parts, x)

    with jax.enable_x64(True):
        double = list(map(measure.in_float64, kept))
        log_marginal, elbo = measure.each(example, double, x, rows=1)
    weights = linear_gaussian.of(double[-1]).weights
    angle = float(np.degrees(scipy.linalg.subspace_angles(weights, best.weights).max()))
    return Trained(np.array(recorded), log_marginal.mean(axis=1), elbo.mean(axis=1), angle)


def numbers(findings: Findings) -> dict[str, Any]:
    """How far each run ends from the closed-form maximum, in nats and degrees."""
    rows = {
        f"trained on {name}": {
            "log_marginal_nats": float(run.log_marginal[-1]),
            "below_the_maximum_nats": float(findings.best - run.log_marginal[-1]),
            "elbo_nats": float(run.elbo[-1]),
            "largest_subspace_angle_degrees": run.angle,
            "epochs": int(run.epochs[-1]),
        }
        for name, run in findings.runs.items()
    }
    start = next(iter(findings.runs.values())).log_marginal[0]
    return rows | {
        "maximum_in_closed_form_nats": findings.best,
        "average_log_likelihood_of_scikit_learn_nats": findings.sklearn,
        "log_marginal_before_training_nats": float(start),
    }


def headline(findings: Findings) -> str:
    """Distances to the global maximum."""
    parts = [
        f"{findings.best - run.log_marginal[-1]:.4f} ({name})"
        for name, run in findings.runs.items()
    ]
    return f"trained on a bound, log p(x) ends below its maximum by {', '.join(parts)} nat"


def sentences(findings: Findings) -> list[str]:
    """The maximum, how close both objectives come, and why."""
    (first, elbo), (second, bound) = findings.runs.items()
    gaps = [findings.best - run.log_marginal[-1] for run in (elbo, bound)]
    left = elbo.log_marginal[-1] - elbo.elbo[-1]
    return [
        f"For this model nobody needs a bound: the highest average log p(x) of the "
        f"training digits has a closed form, {findings.best:.4f} nats, and scikit-learn's "
        f"probabilistic PCA gives {findings.sklearn:.4f}.",
        f"Gradient ascent that never saw log p(x) starts at {elbo.log_marginal[0]:.2f} and ends "
        f"{gaps[0]:.4f} nat below that maximum when it climbs the {first}, {gaps[1]:.4f} when it "
        f"climbs {second}; the space that the decoder spans is off by {elbo.angle:.1f} and "
        f"{bound.angle:.1f} degrees at most.",
        f"It works because q can become the posterior here (the ELBO ends {left:.4f} nat below "
        f"log p(x)): where the bound touches, its highest point is log p(x)'s highest point; a q "
        f"that cannot touch pulls the model towards posteriors that it can reach.",
    ]


def pictures(findings: Findings) -> dict[str, Picture]:
    """log p(x) against the epoch, and the distance to its maximum."""
    return {
        "ascent": Picture(
            "Left: exact average log p(x) of the training digits while a bound on it is "
            "maximised, and its closed-form maximum (dashed). Right: what is missing to that "
            "maximum, on logarithmic axes; the dotted line is 0.05 nat.",
            _ascent(findings),
        )
    }


def _articled(name: str) -> str:
    return f"the {name}" if name == "ELBO" else name


def _ascent(findings: Findings) -> Figure:
    figure, (left, right) = draw.panels(9.6, 4.2, 1, 2)
    for (name, run), color in zip(findings.runs.items(), (draw.ELBO, draw.BOUND), strict=True):
        gap = findings.best - run.log_marginal
        left.plot(
            run.epochs, run.log_marginal, color=color, lw=1.8, label=f"climbing {_articled(name)}"
        )
        right.loglog(
            run.epochs[1:], gap[1:], color=color, lw=1.8, label=f"climbing {_articled(name)}"
        )
        right.plot(run.epochs[-1], gap[-1], "o", color=color, ms=4)
        draw.label(right, run.epochs[-1], gap[-1], f"{gap[-1]:.4f}", color, va="top", ha="right",
                   xytext=(0, -6))  # fmt: skip
    left.axhline(findings.best, color=draw.LOG_MARGINAL, ls="--", lw=1.2)
    draw.label(left, 0, findings.best, f"maximum in closed form: {findings.best:.3f}",
               draw.LOG_MARGINAL, va="bottom", xytext=(6, 4))  # fmt: skip
    right.axhline(0.05, color=draw.DATA, ls=":", lw=1.2)
    draw.label(right, 1, 0.05, "0.05 nat", draw.DATA, va="bottom")
    left.set_xscale("symlog", linthresh=1, linscale=0.5)
    left.margins(y=0.12)
    left.set_xlim(0)
    draw.finish(left, title="exact log p(x) while a bound is maximised", xlabel="epochs",
                ylabel="log p(x), nats per digit")  # fmt: skip
    draw.finish(right, title="what is missing to the maximum", xlabel="epochs",
                ylabel="nats per digit")  # fmt: skip
    right.margins(y=0.15)
    return figure

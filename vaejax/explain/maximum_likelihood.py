"""Gradient ascent on a bound, against the closed-form maximum of log p(x) itself."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from vaejax import config as config_lib
from vaejax.data import splits
from vaejax.data.splits import TrainingData
from vaejax.explain import closed_forms, draw, fit, vae
from vaejax.explain.result import Picture
from vaejax.schema import field

QUESTION = "Why maximise a bound: does it lead to the maximum of log p(x)?"
_NUM_RECORDS = 40


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
    return config_lib.override_all(
        config_lib.Config(),
        {
            "seed": seed,
            "dataset.binarization": "none",
            "dataset.num_validation": 0,
            "model.name": "linear_gaussian",
            "model.latent_dim": config.num_latents,
            "objective.bound": "iwae" if num_samples > 1 else "elbo",
            "objective.gradient": "pathwise" if num_samples > 1 else "closed_form_kl",
            "objective.num_samples": num_samples,
            "optimizer.learning_rate": config.learning_rate,
            "optimizer.schedule": "cosine",
            "training.num_epochs": config.bound_epochs if num_samples > 1 else config.elbo_epochs,
            "training.batch_size": config.batch_size,
        },
    )


def compute(config: Config, *, seed: int) -> Findings:
    """Trains on the ELBO and on L_k, and solves for the maximum."""
    settings = _settings(config, seed=seed, num_samples=1)
    data = splits.training_data(settings)
    x = splits.held_out(settings, "train").x.astype(np.float64)
    generative, best = closed_forms.maximum_likelihood(x, config.num_latents)
    score = float(PCA(config.num_latents, svd_solver="full").fit(x).score(x))
    objectives = {"ELBO": 1, f"L_{config.num_samples}": config.num_samples}
    runs = {
        name: _train(_settings(config, seed=seed, num_samples=size), data, x, generative)
        for name, size in objectives.items()
    }
    return Findings(best, score, runs)


def _train(
    settings: config_lib.Config, data: TrainingData, x: Float[np.ndarray, "N D"], best: Any
) -> Trained:
    model, rows = vae.build(settings, data), []

    @jax.jit
    def measure(params, x):
        marginal = jax.vmap(lambda x: model.log_marginal(params, x))(x)
        return marginal.mean(), jax.vmap(lambda x: closed_forms.elbo(params, x))(x).mean()

    measured = fit.log_spaced(settings.training.num_epochs, _NUM_RECORDS)
    for epoch, params in enumerate(vae.epochs(settings, data, model=model)):
        if epoch not in measured:
            continue
        with jax.enable_x64(True):
            double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
            rows.append([epoch, *map(float, measure(double, x))])
    angles = scipy.linalg.subspace_angles(double["generative"]["weights"], best["weights"])
    return Trained(*map(np.asarray, zip(*rows, strict=True)), float(np.degrees(angles.max())))


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

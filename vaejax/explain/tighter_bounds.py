"""ELBO against importance-weighted bounds: L_k rises with k, and what training on it does."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vaejax.config import Objective, Optimizer
from vaejax.data import splits
from vaejax.evaluation import means
from vaejax.evaluation.means import ExampleMean
from vaejax.evidence import gaps
from vaejax.evidence.estimators import annealed
from vaejax.explain import measure, tighter_bounds_pictures, train
from vaejax.explain.result import Picture
from vaejax.models import latent_variable
from vaejax.schema import field

QUESTION = "What do more samples buy: the ELBO or an importance-weighted bound?"
_SIZES = (1, 5, 50)


@dataclasses.dataclass(frozen=True)
class Config:
    """One VAE on the binarised digits per k, alike in everything else, seed included."""

    num_epochs: int = field(120, "epochs of training", low=1)
    latent_dim: int = field(16, "latents", low=1)
    hidden_units: int = field(64, "width of the hidden layer", low=1)
    num_examples: int = field(48, "test digits that are measured", low=2, high=360)
    num_samples: int = field(2000, "samples for the ELBO and every L_k", low=50)
    num_temperatures: int = field(100, "temperatures of annealed importance sampling", low=1)
    num_chains: int = field(16, "its chains per digit", low=4)
    gap_steps: int = field(150, "steps that fit the best q to each digit", low=1)
    gap_samples: int = field(8, "samples of z per such step", low=1)


class Findings(NamedTuple):
    """B models (one per k of training), N test digits; nats.

    Attributes:
      trained_with: k of the objective of each model, [B].
      sizes: the S values k at which L_k is measured, the first 1.
      bounds: L_k per digit, [B, S, N]; k = 1 is the ELBO.
      log_marginal: log p(x) by annealed importance sampling, [B, N].
      variance: of its Monte-Carlo error, [B, N].
      best: ELBO of the best diagonal normal q for each digit, [B, N].
      best_full: the same with any normal q, [B, N].
    """

    trained_with: tuple[int, ...]
    sizes: tuple[int, ...]
    bounds: Float[np.ndarray, "B S N"]
    log_marginal: Float[np.ndarray, "B N"]
    variance: Float[np.ndarray, "B N"]
    best: Float[np.ndarray, "B N"]
    best_full: Float[np.ndarray, "B N"]

    def parts(self, index: int) -> dict[str, ExampleMean]:
        """log p(x) - ELBO of one model and its two parts, which add up (Cremer et al. 2018)."""
        elbo, best = self.bounds[index, 0], self.best[index]
        return {
            "inference": means.over_examples(self.log_marginal[index] - elbo),
            "approximation": means.over_examples(self.log_marginal[index] - best),
            "amortization": means.over_examples(best - elbo),
        }


def compute(config: Config, *, seed: int) -> Findings:
    """Trains with k = 1, 5 and 50, and measures on the first test digits."""
    settings = [
        train.digits_vae(
            seed=seed,
            latent_dim=config.latent_dim,
            hidden_dims=(config.hidden_units,),
            num_epochs=config.num_epochs,
            objective=Objective(bound="elbo" if size == 1 else "iwae", num_samples=size),
            optimizer=Optimizer(learning_rate=3e-3, schedule="cosine"),
        )
        for size in _SIZES
    ]
    data = splits.training_data(settings[0])
    x = splits.held_out(settings[0], "test").x[: config.num_examples].astype(np.float32)
    model = latent_variable.build(settings[0].model, data.spec)
    models = [train.trained(own, data, model=model) for own in settings]
    found = measure.bounds(models, x, model=model, seed=seed, num_samples=config.num_samples)
    tasks = measure.tasks(
        models,
        x,
        model=model,
        seed=seed,
        annealed=annealed.Config(
            num_temperatures=config.num_temperatures, num_chains=config.num_chains
        ),
        gaps=gaps.Config(
            num_steps=config.gap_steps, num_samples=config.gap_samples, elbo_samples=500
        ),
    )
    sizes = tuple(sorted(int(name[5:]) for name in found if name.startswith("iwae_")))
    return Findings(
        trained_with=_SIZES,
        sizes=sizes,
        bounds=np.stack([found[f"iwae_{k}"] for k in sizes], axis=1),
        **measure.marginals(tasks)._asdict(),
    )


def _change(values: Float[np.ndarray, "B N"], index: int) -> ExampleMean:
    """One model minus the one trained with k = 1, paired over digits."""
    return means.over_examples(values[index] - values[0])


def numbers(findings: Findings) -> dict[str, Any]:
    """One row per k of training; errors are paired standard errors over the test digits."""
    table = {}
    for index, size in enumerate(findings.trained_with):
        log_marginal = _change(findings.log_marginal, index)
        elbo = _change(findings.bounds[:, 0], index)
        row = {
            "log_p_x_nats": float(findings.log_marginal[index].mean()),
            "log_p_x_monte_carlo_error_nats": means.monte_carlo_error(findings.variance[index]),
            "log_p_x_minus_that_of_k_1_nats": log_marginal.value,
            "log_p_x_difference_error_nats": log_marginal.data_se,
            "elbo_nats": float(findings.bounds[index, 0].mean()),
            "elbo_minus_that_of_k_1_nats": elbo.value,
            "elbo_difference_error_nats": elbo.data_se,
        }
        for name, part in findings.parts(index).items():
            row |= {f"{name}_gap_nats": part.value, f"{name}_gap_error_nats": part.data_se}
        full = means.over_examples(findings.log_marginal[index] - findings.best_full[index])
        row["approximation_gap_of_any_normal_nats"] = full.value
        row["approximation_gap_of_any_normal_error_nats"] = full.data_se
        table[f"trained with k={size}"] = row
    ladder = {}
    for size, bound in zip(findings.sizes, findings.bounds[0], strict=True):
        short = means.over_examples(findings.log_marginal[0] - bound)
        ladder[f"L_{size}"] = {
            "bound_nats": float(bound.mean()),
            "log_p_x_minus_bound_nats": short.value,
            "its_paired_error_nats": short.data_se,
        }
    return {**table, **ladder, "num_test_digits": findings.best.shape[1]}


def _moved(change: ExampleMean) -> str:
    """ "rises by", "falls by" or "changes by", as two standard errors allow."""
    if abs(change.value) <= 2.0 * change.data_se:
        return f"changes by {change.value:+.2f} +- {change.data_se:.2f} nats, within its error"
    verb = "rises" if change.value > 0 else "falls"
    return f"{verb} by {abs(change.value):.2f} +- {change.data_se:.2f} nats"


def _short(gap: ExampleMean) -> str:
    """How far a bound falls short, and whether that can be told from nothing."""
    seen = "" if abs(gap.value) > 2.0 * gap.data_se else ", nothing that could be told from zero"
    return f"{gap.value:.3f} +- {gap.data_se:.3f}{seen}"


def _reason(findings: Findings) -> str:
    """Which part of the gap grew more from the first to the last k, as paired errors tell."""
    approximation = findings.log_marginal - findings.best
    amortization = findings.best - findings.bounds[:, 0]
    growth = approximation - amortization
    excess = means.over_examples(growth[-1] - growth[0])
    moved = "the true posterior has moved away from every diagonal normal"
    behind = "the encoder is further from the best q it could give"
    if abs(excess.value) <= 2.0 * excess.data_se:
        return f"in about equal parts because {moved} and because {behind}"
    return f"mostly because {moved if excess.value > 0 else behind}"


def headline(findings: Findings) -> str:
    """What training with the largest k does to both."""
    log_marginal = _change(findings.log_marginal, -1)
    elbo = _change(findings.bounds[:, 0], -1)
    return (
        f"Training with k = {findings.trained_with[-1]}: log p(x) {log_marginal.value:+.2f} +- "
        f"{log_marginal.data_se:.2f}, ELBO {elbo.value:+.2f} +- {elbo.data_se:.2f} nats"
    )


def sentences(findings: Findings) -> list[str]:
    """L_k on one model; training on it; where the ELBO's loss comes from."""
    elbo, top = findings.bounds[0, 0], findings.bounds[0, -1]
    before = means.over_examples(findings.log_marginal[0] - elbo)
    after = means.over_examples(findings.log_marginal[0] - top)
    last = findings.trained_with[-1]
    first_parts, last_parts = findings.parts(0), findings.parts(-1)
    wider = {name: last_parts[name].value - part.value for name, part in first_parts.items()}
    growth = "grows" if wider["inference"] > 0 else "shrinks"
    reason = _reason(findings)
    return [
        f"On one model nothing changes but the bound: the ELBO lies {before.value:.3f} +- "
        f"{before.data_se:.3f} nats below log p(x), and L_{findings.sizes[-1]}, which averages "
        f"{findings.sizes[-1]:,} weights before the logarithm, {_short(after)}.",
        f"Training on L_k is another matter, as it changes the model: from k = 1 to k = {last}, "
        f"log p(x) {_moved(_change(findings.log_marginal, -1))}, while the ELBO "
        f"{_moved(_change(findings.bounds[:, 0], -1))}.",
        f"The reason is that L_k asks less of q: log p(x) - ELBO {growth} from "
        f"{first_parts['inference'].value:.2f} to {last_parts['inference'].value:.2f} nats "
        f"(best q falls short: {first_parts['approximation'].value:.2f} to "
        f"{last_parts['approximation'].value:.2f}; encoder behind the best q: "
        f"{first_parts['amortization'].value:.2f} to {last_parts['amortization'].value:.2f}), "
        f"{reason}.",
    ]


def pictures(findings: Findings) -> dict[str, Picture]:
    """L_k against k, and the models with their gaps."""
    parts = [findings.parts(index) for index in range(len(findings.trained_with))]
    changes = {
        "log p(x)": [_change(findings.log_marginal, i) for i in range(len(parts))],
        "ELBO": [_change(findings.bounds[:, 0], i) for i in range(len(parts))],
    }
    return tighter_bounds_pictures.pictures(findings, parts, changes)

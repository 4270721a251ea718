"""A richer q(z|x) or a richer p(z): which of them buys log p(x), and what each does to the gap."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from vaejax.config import Optimizer
from vaejax.data import splits
from vaejax.evaluation import means
from vaejax.evaluation.means import ExampleMean
from vaejax.evidence import gaps
from vaejax.evidence.estimators import annealed
from vaejax.explain import draw, measure, train
from vaejax.explain.result import Picture
from vaejax.models import latent_variable, posteriors, priors
from vaejax.parts import Part
from vaejax.schema import field

QUESTION = "Does a richer q(z|x) or a richer p(z) buy log p(x), and what does each do to the gap?"
_PLAIN = {"prior": "normal", "posterior": "normal"}


@dataclasses.dataclass(frozen=True)
class Config:
    """VAEs of the binarised digits that differ in p(z) or in q(z|x) alone."""

    posteriors: tuple[Part, ...] = field(
        ("full_normal", "coupling"), "richer q, each with N(0, I)", parts=posteriors.POSTERIORS
    )
    priors: tuple[Part, ...] = field(
        ("mixture(num_components=50)", "vamp(num_components=50)"),
        "richer p, each with a normal q",
        parts=priors.PRIORS,
    )
    num_seeds: int = field(2, "trainings of each, averaged", low=1)
    num_epochs: int = field(120, "epochs of training", low=1)
    latent_dim: int = field(16, "latents", low=1)
    hidden_units: int = field(64, "width of the hidden layer", low=1)
    num_examples: int = field(96, "test digits that are measured", low=2, high=360)
    num_samples: int = field(1000, "samples for the ELBO", low=50)
    num_temperatures: int = field(100, "temperatures of annealed importance sampling", low=1)
    num_chains: int = field(16, "its chains per digit", low=4)
    gap_steps: int = field(150, "steps that fit the best normal q to each digit", low=1)
    gap_samples: int = field(8, "samples of z per such step", low=1)


class Findings(NamedTuple):
    """B models, the first the plain one, S seeds, N test digits; nats.

    Attributes:
      priors: of each model, as a config names it, [B].
      posteriors: of each model, [B].
      elbo: the ELBO, [B, S, N].
      log_marginal: log p(x) by annealed importance sampling, [B, S, N].
      variance: of its Monte-Carlo error, [B, S, N].
      best: ELBO of the best diagonal normal q for each digit, [B, S, N].
      best_full: the same with any normal q, [B, S, N].
    """

    priors: tuple[str, ...]
    posteriors: tuple[str, ...]
    elbo: Float[np.ndarray, "B S N"]
    log_marginal: Float[np.ndarray, "B S N"]
    variance: Float[np.ndarray, "B S N"]
    best: Float[np.ndarray, "B S N"]
    best_full: Float[np.ndarray, "B S N"]

    def names(self) -> list[str]:
        """What is richer in each, without its options: "q: coupling"."""
        short = lambda part: part.partition("(")[0]  # noqa: E731
        return [
            f"p: {short(p)}" if p != "normal" else f"q: {short(q)}" if q != "normal" else "plain"
            for p, q in zip(self.priors, self.posteriors, strict=True)
        ]

    def gap(self, index: int) -> ExampleMean:
        """log p(x) - ELBO of one model, averaged over its seeds; the error is that of N digits."""
        return means.over_examples((self.log_marginal - self.elbo)[index].mean(axis=0))

    def change(self, values: Float[np.ndarray, "B S N"], index: int) -> ExampleMean:
        """One model minus the plain one, paired over digits, averaged over seeds."""
        return means.over_examples((values[index] - values[0]).mean(axis=0))


def _variants(config: Config) -> list[dict[str, str]]:
    richer_q = [_PLAIN | {"posterior": str(part)} for part in config.posteriors]
    return [_PLAIN, *richer_q, *(_PLAIN | {"prior": str(part)} for part in config.priors)]


def _measured(config: Config, parts: dict[str, str], *, seed: int) -> tuple[np.ndarray, ...]:
    """ELBO [S, N] and the arrays of `measure.Marginals` of one variant, S seeds side by side."""
    settings = [
        train.digits_vae(
            seed=seed + number,
            latent_dim=config.latent_dim,
            hidden_dims=(config.hidden_units,),
            num_epochs=config.num_epochs,
            optimizer=Optimizer(learning_rate=3e-3, schedule="cosine"),
            parts=parts,
        )
        for number in range(config.num_seeds)
    ]
    data = splits.training_data(settings[0])
    x = splits.held_out(settings[0], "test").x[: config.num_examples].astype(np.float32)
    model = latent_variable.build(settings[0].model, data.spec)
    models = [train.trained(own, data, model=model) for own in settings]
    bounds = measure.bounds(models, x, model=model, seed=seed, num_samples=config.num_samples)
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
    return (bounds["elbo"], *measure.marginals(tasks))


def compute(config: Config, *, seed: int) -> Findings:
    """Trains every variant on the same images and measures all on the first test digits."""
    variants = _variants(config)
    found = [_measured(config, parts, seed=seed) for parts in variants]
    return Findings(
        tuple(parts["prior"] for parts in variants),
        tuple(parts["posterior"] for parts in variants),
        *(np.stack(values) for values in zip(*found, strict=True)),
    )


def numbers(findings: Findings) -> dict[str, Any]:
    """One row per model; errors are paired standard errors over digits, seeds apart."""
    table = {}
    for index, name in enumerate(findings.names()):
        log_marginal, elbo = (
            findings.change(values, index) for values in (findings.log_marginal, findings.elbo)
        )
        gap = findings.gap(index)
        mean_variance = findings.variance[index].mean(axis=0) / findings.variance.shape[1]
        by_seed = (findings.log_marginal - findings.elbo)[index].mean(axis=1)
        full = means.over_examples((findings.log_marginal - findings.best_full)[index].mean(axis=0))
        diagonal = means.over_examples((findings.log_marginal - findings.best)[index].mean(axis=0))
        table[name] = {
            "prior": findings.priors[index],
            "posterior": findings.posteriors[index],
            "log_p_x_nats": float(findings.log_marginal[index].mean()),
            "log_p_x_monte_carlo_error_nats": means.monte_carlo_error(mean_variance),
            "elbo_nats": float(findings.elbo[index].mean()),
            "log_p_x_minus_that_of_plain_nats": log_marginal.value,
            "log_p_x_difference_error_nats": log_marginal.data_se,
            "elbo_minus_that_of_plain_nats": elbo.value,
            "elbo_difference_error_nats": elbo.data_se,
            "log_p_x_minus_elbo_nats": gap.value,
            "log_p_x_minus_elbo_error_nats": gap.data_se,
            "log_p_x_minus_elbo_range_over_seeds_nats": float(np.ptp(by_seed)),
            "log_p_x_minus_best_diagonal_normal_nats": diagonal.value,
            "log_p_x_minus_best_normal_nats": full.value,
        }
    return table | {"num_test_digits": findings.elbo.shape[2], "num_seeds": findings.elbo.shape[1]}


def _of(findings: Findings, kind: str) -> list[int]:
    return [i for i, name in enumerate(findings.names()) if name.startswith(f"{kind}: ")]


def _best(findings: Findings, kind: str) -> tuple[str, ExampleMean, float] | None:
    """The model of a kind ("p" or "q") with the highest log p(x): name, gain, change of gap."""
    members = _of(findings, kind)
    if not members:
        return None
    best = max(members, key=lambda i: findings.log_marginal[i].mean())
    change = findings.gap(best).value - findings.gap(0).value
    return findings.names()[best], findings.change(findings.log_marginal, best), change


def headline(findings: Findings) -> str:
    """The best richer p and the best richer q, in log p(x)."""
    found = [(kind, _best(findings, kind)) for kind in "pq"]
    parts = [
        f"a richer {kind} {best[1].value:+.2f} +- {best[1].data_se:.2f}"
        for kind, best in found
        if best
    ]
    return f"log p(x) in nats: {', '.join(parts)}" if parts else "nothing richer was trained"


def _answer(findings: Findings, kind: str, what: str) -> str:
    best = _best(findings, kind)
    if best is None:
        return f"No {what} was asked for."
    name, gain, change = best
    told = "" if abs(gain.value) > 2 * gain.data_se else ", which its error does not tell from none"
    verb = "wider" if change > 0 else "narrower"
    return (
        f"Of the {what}s the {name[3:]} has the highest log p(x), {gain.value:+.3f} +- "
        f"{gain.data_se:.3f} nats against N(0, I) and a diagonal normal{told}; log p(x) - ELBO is "
        f"{abs(change):.3f} nat {verb} with it."
    )


def sentences(findings: Findings) -> list[str]:
    """What a richer p does, what a richer q does, and how large the gap is that q could close."""
    plain = findings.gap(0)
    by_seed = (findings.log_marginal - findings.elbo)[0].mean(axis=1)
    full = float((findings.log_marginal - findings.best_full)[0].mean())
    return [
        _answer(findings, "p", "richer p(z)"),
        _answer(findings, "q", "richer q(z|x)"),
        f"All a better q could win on the plain model is its gap, {plain.value:.2f} +- "
        f"{plain.data_se:.2f} nats (over {len(by_seed)} seeds it differs by "
        f"{np.ptp(by_seed):.2f}), of which the best normal q of each digit leaves {full:.2f}: "
        f"what p(z) lacks is in log p(x) itself, and no q can give it.",
    ]


def pictures(findings: Findings) -> dict[str, Picture]:
    """Changes of log p(x) and ELBO, and the gaps."""
    return {
        "parts": Picture(
            "Left: log p(x) and ELBO of each model minus those of the plain one, in nats (bars: "
            "two paired standard errors over test digits). Right: log p(x) - ELBO of each, and "
            "what the best diagonal normal and the best normal q of every digit would leave.",
            _figure(findings),
        )
    }


def _figure(findings: Findings) -> Figure:
    figure, (left, right) = draw.panels(10.0, 0.5 * len(findings.priors) + 1.6, 1, 2, sharey=True)
    rows = np.arange(len(findings.priors))
    for shift, name, values, color in (
        (-0.1, "log p(x)", findings.log_marginal, draw.LOG_MARGINAL),
        (0.1, "ELBO", findings.elbo, draw.ELBO),
    ):
        changes = [findings.change(values, index) for index in rows]
        left.errorbar(
            [c.value for c in changes], rows + shift, xerr=[2 * c.data_se for c in changes],
            fmt="o", capsize=3, color=color, label=name,
        )  # fmt: skip
    left.axvline(0.0, color=draw.DATA, lw=0.8)
    left.set_yticks(rows, findings.names())
    left.invert_yaxis()
    draw.finish(left, xlabel="nats, minus the plain model", title="what richer parts buy")
    gaps_of = [findings.gap(index) for index in rows]
    right.barh(
        rows, [g.value for g in gaps_of], xerr=[2 * g.data_se for g in gaps_of], height=0.5,
        color=draw.KL, capsize=3, label="log p(x) - ELBO",
    )  # fmt: skip
    for name, best, marker in (
        ("best diagonal normal q", findings.best, "o"),
        ("best normal q", findings.best_full, "D"),
    ):
        left_over = (findings.log_marginal - best).mean(axis=(1, 2))
        right.plot(left_over, rows, marker, color=draw.LOG_MARGINAL, mfc="white", label=name)
    draw.finish(right, xlabel="nats", title="what q leaves")
    return figure

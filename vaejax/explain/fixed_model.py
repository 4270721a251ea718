"""Only q is trained: log p(x) stands still, and the ELBO can rise no higher."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree
from matplotlib.figure import Figure

from vaejax.explain import closed_forms, draw, identity, measure, train
from vaejax.explain.result import Picture
from vaejax.models.linear_gaussian import LinearGaussian, LinearPosterior
from vaejax.schema import field

QUESTION = "If the model is fixed, what does training the encoder do?"


@dataclasses.dataclass(frozen=True)
class Config:
    """A linear-Gaussian model of the digits whose generative half is not touched."""

    num_examples: int = field(200, "training digits", low=2)
    num_latents: int = field(16, "latents", low=2, high=60)
    num_steps: int = field(3000, "Adam steps of each q", low=10)
    learning_rate: float = field(0.01, "first rate of the diagonal q; cosine to 0", low=0.0)
    full_learning_rate: float = field(0.001, "the same of the full q", low=0.0)
    num_records: int = field(60, "steps of each q that are drawn", low=2)


class Findings(NamedTuple):
    """Means over examples at each record, nats: R of the diagonal q, then S of the full q.

    Attributes:
      steps: steps done since the start of the first q, [R + S].
      elbo: the ELBO, [R + S].
      kl: KL(q(z|x) || p(z|x)), computed without the ELBO, [R + S].
      log_marginal: log p(x), computed without either.
      num_diagonal: R.
      best_diagonal_kl: the least KL a diagonal q can have.
      residual: largest |log p(x) - ELBO - KL| over records and examples.
    """

    steps: Float[np.ndarray, "T"]
    elbo: Float[np.ndarray, "T"]
    kl: Float[np.ndarray, "T"]
    log_marginal: float
    num_diagonal: int
    best_diagonal_kl: float
    residual: float


def compute(config: Config, *, seed: int) -> Findings:
    """Gradient ascent on the exact ELBO in phi alone; q first diagonal, then full."""
    size = config.num_latents
    steps = train.log_spaced(config.num_steps, config.num_records)
    with jax.enable_x64(True):
        x = measure.grey_digits("train")[: config.num_examples]
        model, _ = closed_forms.maximum_likelihood(x, size)
        model = closed_forms.rotated(model, seed)
        start = {
            "weights": jnp.zeros((size, x[0].size)),
            "bias": jnp.zeros(size),
            "log_diagonal": jnp.zeros(size),
        }
        diagonal = _train(model, start, x, steps, config.learning_rate)
        start = diagonal[-1] | {"lower": jnp.zeros((size, size))}
        full = _train(model, start, x, steps, config.full_learning_rate)
        found = identity.linear_terms(model, list(map(_posterior, [*diagonal, *full])), x)
    return Findings(
        np.concatenate([steps, np.add(steps, config.num_steps)]).astype(float),
        found.elbo.mean(axis=1),
        found.kl.mean(axis=1),
        float(found.log_marginal.mean()),
        len(steps),
        closed_forms.best_diagonal_kl(model),
        float(found.residual().max()),
    )


def _posterior(free: PyTree) -> LinearPosterior:
    factor = jnp.diag(jnp.exp(free["log_diagonal"]))
    if "lower" in free:
        factor += jnp.tril(free["lower"], -1)
    return LinearPosterior(free["weights"], free["bias"], factor)


def _train(
    model: LinearGaussian, start: PyTree, x: Any, steps: tuple[int, ...], rate: float
) -> list[PyTree]:
    """The free parameters of q at `steps` of Adam on minus the mean ELBO, in closed form."""

    def loss(free):
        q = _posterior(free)
        return -jnp.mean(jax.vmap(lambda x: closed_forms.elbo(model, q, x))(x))

    return train.minimize(loss, start, record_at=steps, learning_rate=rate)


def numbers(findings: Findings) -> dict[str, Any]:
    """Where both families start and end, in nats."""
    ends = {"before": 0, "best diagonal q": findings.num_diagonal - 1, "best full q": -1}
    rows = {
        name: {
            "elbo_nats": float(findings.elbo[index]),
            "kl_nats": float(findings.kl[index]),
            "sum_nats": float(findings.elbo[index] + findings.kl[index]),
        }
        for name, index in ends.items()
    }
    moved = np.abs(findings.elbo + findings.kl - findings.log_marginal).max()
    return rows | {
        "log_marginal_nats": findings.log_marginal,
        "least_kl_of_a_diagonal_q_exact_nats": findings.best_diagonal_kl,
        "largest_movement_of_the_mean_sum_nats": float(moved),
        "largest_residual_of_an_example_nats": findings.residual,
    }


def headline(findings: Findings) -> str:
    """How little log p(x) moved while the ELBO rose."""
    rise = findings.elbo[-1] - findings.elbo[0]
    moved = np.abs(findings.elbo + findings.kl - findings.log_marginal).max()
    return f"training q alone lifts the ELBO by {rise:.1f} nats, and ELBO + KL by {moved:.0e}"


def sentences(findings: Findings) -> list[str]:
    """What trained, what did not, and what a richer q is good for."""
    diagonal = findings.num_diagonal - 1
    elbo, kl = findings.elbo, findings.kl
    moved = np.abs(elbo + kl - findings.log_marginal).max()
    return [
        f"With prior and decoder frozen and only the encoder learning, the "
        f"ELBO goes from {elbo[0]:.2f} to {elbo[diagonal]:.2f} nats, the KL from {kl[0]:.2f} to "
        f"{kl[diagonal]:.2f}, and their sum stays at log p(x) = {findings.log_marginal:.2f} "
        f"(it moves by {moved:.0e} nat).",
        f"A q with independent latents cannot do better than KL = "
        f"{findings.best_diagonal_kl:.4f}, which has a closed form here and is where training "
        f"ends ({kl[diagonal]:.4f}); a q that may correlate them contains the posterior, and "
        f"takes the KL to {kl[-1]:.0e}.",
        "So all that training an encoder can do is to close the gap under a ceiling that the "
        "model has set: a better encoder makes the ELBO a better measurement, not the model "
        "a better model.",
    ]


def pictures(findings: Findings) -> dict[str, Picture]:
    """ELBO and KL under a ceiling that does not move."""
    return {
        "ceiling": Picture(
            "Above: the ELBO (blue) rises towards log p(x) (black), which does not move; what is "
            "between them is the KL (orange). Below: the KL alone, on a logarithmic axis. Left: "
            "q with independent latents; right: q with correlations, from where the left ended "
            "(mind the other axis).",
            _ceiling(findings),
        )
    }


def _ceiling(findings: Findings) -> Figure:
    figure, axes = draw.panels(9.6, 5.8, 2, 2, height_ratios=(3, 2), sharex="col")
    count, top = findings.num_diagonal, findings.log_marginal
    parts = {
        "1. q(z|x) with independent latents": (slice(None, count), findings.best_diagonal_kl),
        "2. then q(z|x) with correlations": (slice(count, None), None),
    }
    for (upper, lower), (title, (part, least)) in zip(axes.T, parts.items(), strict=True):
        steps = findings.steps[part] - findings.steps[part][0]
        elbo, kl = findings.elbo[part], findings.kl[part]
        floor = elbo[0] - 0.15 * (top - elbo[0])
        upper.fill_between(steps, floor, elbo, color=draw.ELBO, alpha=0.25, lw=0)
        upper.fill_between(steps, elbo, top, color=draw.KL, alpha=0.35, lw=0)
        upper.plot(steps, elbo, color=draw.ELBO, lw=1.8)
        upper.axhline(top, color=draw.LOG_MARGINAL, lw=1.8)
        upper.set_ylim(floor, top + 0.12 * (top - floor))
        draw.label(upper, 1, top, f"log p(x) = {top:.2f}: fixed", draw.LOG_MARGINAL, va="bottom")
        draw.label(upper, steps[-1], floor, f"ELBO ends at {elbo[-1]:.2f}", draw.ELBO,
                   xytext=(-6, 6), ha="right", va="bottom")  # fmt: skip
        draw.label(upper, 1, 0.5 * (elbo[0] + top), "KL", draw.KL_TEXT, fontsize=12)
        draw.finish(upper, title=title, ylabel="nats per digit", xlim=(0, steps[-1]))
        lower.plot(steps, kl, color=draw.KL, lw=1.8)
        text = f"ends at {kl[-1]:.1e}" if least is None else f"ends at {kl[-1]:.4f}"
        draw.label(lower, steps[-1], kl.max(), text, draw.KL_TEXT, xytext=(-6, -6), ha="right",
                   va="top")  # fmt: skip
        if least is not None:
            lower.axhline(least, color=draw.DATA, ls="--", lw=1)
            draw.label(lower, 1, least, f"exact least for such a q: {least:.4f}", draw.DATA,
                       va="top", xytext=(6, -3))  # fmt: skip
            lower.set_ylim(0.4 * least)
        lower.set_yscale("log")
        lower.set_xscale("symlog", linthresh=1, linscale=0.3)
        draw.finish(lower, xlabel="training steps of q", ylabel="KL(q || p(z|x)), nats")
    figure.suptitle("The model p(x, z) is frozen; only q is trained", fontsize=12)
    return figure

"""Why reconstructing well is not enough: the same VAE trained with beta = 0, 0.1, 1 and 4."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vaejax import config as config_lib
from vaejax import keys
from vaejax.config import Optimizer
from vaejax.data import splits
from vaejax.data.splits import TrainingData
from vaejax.evaluation import means
from vaejax.evaluation.means import ExampleMean
from vaejax.evidence.estimators import annealed
from vaejax.explain import measure, plane, reconstruction_pictures, train
from vaejax.explain.result import Picture
from vaejax.models import latent_variable, likelihoods
from vaejax.schema import field
from vaejax.types import DataSpec, Model, Params

QUESTION = "Why is the reconstruction term not enough?"
_BETAS = (0.0, 0.1, 1.0, 4.0)
_REFERENCE = _BETAS.index(1.0)
_RECONSTRUCTED, _DRAWN = 8, 16
_HALF_WIDTH = 6.0  # of the square of latents: beyond it lie 4e-9 of the prior


@dataclasses.dataclass(frozen=True)
class Config:
    """One VAE on the binarised digits per beta, alike in everything else, seed included."""

    num_epochs: int = field(150, "epochs of training", low=1)
    latent_dim: int = field(16, "latents", low=1)
    hidden_units: int = field(128, "width of the hidden layer", low=1)
    num_examples: int = field(64, "test digits that are measured", low=_RECONSTRUCTED, high=360)
    num_samples: int = field(1000, "samples K of the importance-weighted bound", low=2)
    num_temperatures: int = field(300, "temperatures of annealed importance sampling", low=1)
    num_chains: int = field(8, "its chains per digit", low=4)
    grid_nodes: int = field(241, "nodes per latent of the check with two latents", low=41)


class Findings(NamedTuple):
    """B models, N test digits; nats.

    Attributes:
      betas: weight of the KL in training, [B].
      num_samples: K of `iwae`.
      reconstruction: E_q[log p(x|z)] per digit, [B, N].
      kl: KL(q(z|x) || p(z)), [B, N].
      elbo: reconstruction - kl, the ELBO of beta = 1 whatever the beta of training, [B, N].
      iwae: L_K from the encoder's samples, [B, N].
      log_marginal: log p(x) by annealed importance sampling from the prior, [B, N].
      variance: of its Monte-Carlo error, [B, N].
      independent: log p(x) of a model that draws every pixel by itself, [N].
      two_latents: log p(x) of the first model minus that of beta = 1, both trained anew with
        two latents, by quadrature: no bound, but the value.
      two_latents_shift: largest change of its log p(x) per digit with 3/4 of the nodes.
      x: the digits that are shown, [S, H, W, C].
      reconstructions: E[x|z], z ~ q(z|x), of those, [B, S, H, W, C].
      samples: E[x|z], z ~ p(z), [B, T, H, W, C].
    """

    betas: tuple[float, ...]
    num_samples: int
    reconstruction: Float[np.ndarray, "B N"]
    kl: Float[np.ndarray, "B N"]
    elbo: Float[np.ndarray, "B N"]
    iwae: Float[np.ndarray, "B N"]
    log_marginal: Float[np.ndarray, "B N"]
    variance: Float[np.ndarray, "B N"]
    independent: Float[np.ndarray, "N"]
    two_latents: ExampleMean
    two_latents_shift: float
    x: Float[np.ndarray, "S H W C"]
    reconstructions: Float[np.ndarray, "B S H W C"]
    samples: Float[np.ndarray, "B T H W C"]


def _settings(config: Config, *, seed: int, latent_dim: int) -> list[config_lib.Config]:
    """One per beta."""
    settings = train.digits_vae(
        seed=seed,
        latent_dim=latent_dim,
        hidden_dims=(config.hidden_units,),
        num_epochs=config.num_epochs,
        optimizer=Optimizer(learning_rate=3e-3, schedule="cosine"),
    )
    return [config_lib.override_all(settings, {"objective.beta": beta}) for beta in _BETAS]


def _images(models: list[Params], x, *, model: Model, seed: int):
    """E[x|z] for z ~ q(z|x) and for z ~ p(z); all models use the same noise."""
    posterior_key, prior_key = jax.random.split(keys.domain(seed, "explain/images"))

    @jax.jit
    def run(params):
        posterior = jax.vmap(lambda key, x: model.posterior(params, x).sample(key))
        prior = jax.vmap(model.prior(params).sample)
        decode = jax.vmap(lambda z: model.likelihood(params, z).mean)
        rebuilt = decode(posterior(jax.random.split(posterior_key, len(x)), x))
        return rebuilt, decode(prior(jax.random.split(prior_key, _DRAWN)))

    pairs = [jax.tree.map(np.asarray, run(params)) for params in models]
    return (np.stack(part) for part in zip(*pairs, strict=True))


def _with_two_latents(
    config: Config, data: TrainingData, x, *, seed: int
) -> tuple[ExampleMean, float]:
    """The first beta against beta = 1 where log p(x) is an integral over the plane."""
    settings = _settings(config, seed=seed, latent_dim=2)
    model = latent_variable.build(settings[0].model, data.spec)
    models = [train.trained(settings[index], data, model=model) for index in (0, _REFERENCE)]

    def log_marginal(models, num_nodes):
        rule = plane.trapezoidal(_HALF_WIDTH, num_nodes)

        def example(params, key, x):
            return plane.log_marginal(plane.log_joint(params, x, rule, model=model), rule)

        return measure.each(example, models, x, rows=num_nodes**2)

    fine = log_marginal(models, config.grid_nodes)
    coarse = log_marginal(models[:1], 3 * config.grid_nodes // 4)
    return means.over_examples(fine[0] - fine[1]), float(np.abs(fine[0] - coarse[0]).max())


def independent_pixels(
    mean: Float[np.ndarray, "H W C"], x: Float[np.ndarray, "N H W C"]
) -> Float[np.ndarray, "N"]:
    """log p(x) of independent Bernoulli pixels with the training mean: no latents at all."""
    bernoulli = likelihoods.LIKELIHOODS["bernoulli"](DataSpec(mean.shape, mean))
    logits = bernoulli.output_bias(jnp.asarray(mean, jnp.float32))
    return np.asarray(jax.vmap(bernoulli.distribution({}, logits).log_prob)(jnp.asarray(x)))


def compute(config: Config, *, seed: int) -> Findings:
    """Trains the models and measures them on the first test digits."""
    settings = _settings(config, seed=seed, latent_dim=config.latent_dim)
    data = splits.training_data(settings[0])
    x = splits.held_out(settings[0], "test").x[: config.num_examples].astype(np.float32)
    model = latent_variable.build(settings[0].model, data.spec)
    models = [train.trained(own, data, model=model) for own in settings]
    found = measure.bounds(models, x, model=model, seed=seed, num_samples=config.num_samples)
    # From the prior: at beta = 0 the encoder's q is too narrow to start from or to scale by.
    chains = annealed.Config(
        start="prior",
        num_temperatures=config.num_temperatures,
        num_chains=config.num_chains,
    )
    tasks = measure.tasks(models, x, model=model, seed=seed, annealed=chains)
    log_marginal = measure.annealed(tasks)
    two_latents, shift = _with_two_latents(config, data, x, seed=seed)
    reconstructions, samples = _images(models, x[:_RECONSTRUCTED], model=model, seed=seed)
    return Findings(
        betas=_BETAS,
        num_samples=config.num_samples,
        reconstruction=found["reconstruction"],
        kl=found["kl"],
        elbo=found["elbo"],
        iwae=found[f"iwae_{config.num_samples}"],
        log_marginal=log_marginal.value,
        variance=log_marginal.variance,
        independent=independent_pixels(data.spec.mean, x),
        two_latents=two_latents,
        two_latents_shift=shift,
        x=x[:_RECONSTRUCTED],
        reconstructions=reconstructions,
        samples=samples,
    )


def behind(findings: Findings, index: int) -> ExampleMean:
    """log p(x) of one model minus that of beta = 1, paired over digits."""
    reference = findings.log_marginal[_REFERENCE]
    return means.over_examples(findings.log_marginal[index] - reference)


def numbers(findings: Findings) -> dict[str, Any]:
    """One row per beta; errors are standard errors over the test digits."""
    table = {}
    for index, beta in enumerate(findings.betas):
        log_marginal = means.over_examples(findings.log_marginal[index])
        difference = behind(findings, index)
        table[f"beta={beta:g}"] = {
            "reconstruction_nats": float(findings.reconstruction[index].mean()),
            "kl_nats": float(findings.kl[index].mean()),
            "elbo_nats": float(findings.elbo[index].mean()),
            "iwae_bound_nats": float(findings.iwae[index].mean()),
            "log_p_x_nats": log_marginal.value,
            "log_p_x_error_over_digits_nats": log_marginal.data_se,
            "log_p_x_monte_carlo_error_nats": means.monte_carlo_error(findings.variance[index]),
            "log_p_x_minus_that_of_beta_1_nats": difference.value,
            "its_paired_error_nats": difference.data_se,
        }
    return {
        **table,
        "independent_pixels_log_p_x_nats": float(findings.independent.mean()),
        "two_latents_log_p_x_at_beta_0_minus_beta_1_nats": findings.two_latents.value,
        "its_paired_error_nats": findings.two_latents.data_se,
        "its_change_with_fewer_nodes_nats": findings.two_latents_shift,
        "num_test_digits": findings.kl.shape[1],
        "importance_samples": findings.num_samples,
    }


def _extremes(findings: Findings) -> tuple[int, int, int]:
    """Indices of the best reconstruction, and of the best and worst log p(x)."""
    log_marginal = findings.log_marginal.mean(axis=1)
    best = int(findings.reconstruction.mean(axis=1).argmax())
    return best, int(log_marginal.argmax()), int(log_marginal.argmin())


def _against(difference: ExampleMean) -> str:
    """A comparison in words that two standard errors allow."""
    if abs(difference.value) <= 2.0 * difference.data_se:
        return "not to be told apart from"
    return "worse than" if difference.value < 0.0 else "better than"


def _rank(findings: Findings, index: int, worst: int) -> str:
    """Where one model stands among all, as far as paired errors tell."""
    if index != worst:
        return f"the lowest is that of beta = {findings.betas[worst]:g}"
    others = [i for i in range(len(findings.betas)) if i != index]
    next_worst = min(others, key=lambda i: findings.log_marginal[i].mean())
    difference = means.over_examples(
        findings.log_marginal[index] - findings.log_marginal[next_worst]
    )
    relation = _against(difference)
    if relation == "worse than":
        return "the worst of all"
    return f"the lowest of all, {relation} beta = {findings.betas[next_worst]:g}"


def headline(findings: Findings) -> str:
    """What the best reconstruction costs."""
    sharpest, _, _ = _extremes(findings)
    difference = behind(findings, sharpest)
    return (
        f"Best reconstruction: beta = {findings.betas[sharpest]:g}; its log p(x) minus that of "
        f"beta = 1: {difference.value:+.1f} +- {difference.data_se:.1f} nats"
    )


def sentences(findings: Findings) -> list[str]:
    """Best reconstruction, what it is worth, and why a bound through q does not see it."""
    sharpest, best, worst = _extremes(findings)
    beta = [f"beta = {value:g}" for value in findings.betas]
    reconstruction, log_marginal, iwae, kl = (
        rows.mean(axis=1)
        for rows in (
            findings.reconstruction,
            findings.log_marginal,
            findings.iwae,
            findings.kl,
        )
    )
    rank = _rank(findings, sharpest, worst)
    difference = means.over_examples(findings.log_marginal[sharpest] - findings.log_marginal[best])
    pixels = means.over_examples(findings.log_marginal[sharpest] - findings.independent)
    return [
        f"{beta[sharpest]} reconstructs test digits best, {reconstruction[sharpest]:.1f} nats "
        f"against {reconstruction[best]:.1f} at {beta[best]}, but as a model of the data it is "
        f"{_against(difference)} {beta[best]}: log p(x) is {log_marginal[sharpest]:.2f} against "
        f"{log_marginal[best]:.2f} nats, a difference of {difference.value:.2f} +- "
        f"{difference.data_se:.2f} ({rank}).",
        f"log p(x) asks how probable a digit is when z is drawn from the prior, and at "
        f"{beta[sharpest]} the encoder puts its codes KL = {kl[sharpest]:.0f} nats away from there "
        f"({kl[best]:.1f} at {beta[best]}): the prior rarely draws where it learned to decode, "
        f"and the model is {_against(pixels)} drawing every pixel on its own "
        f"({findings.independent.mean():.2f} nats).",
        f"A bound through the encoder misjudges this too: with {findings.num_samples:,} samples "
        f"it says {iwae[sharpest]:.1f} nats at {beta[sharpest]}, where annealing from the prior "
        f"finds {log_marginal[sharpest]:.1f}; both are lower bounds, so the comparison was made "
        f"again with two latents, where quadrature gives log p(x) itself: {beta[0]} minus "
        f"{beta[_REFERENCE]} is {findings.two_latents.value:.2f} +- "
        f"{findings.two_latents.data_se:.2f} nats.",
    ]


def pictures(findings: Findings) -> dict[str, Picture]:
    """The numbers, and what the models reconstruct and draw."""
    differences = [behind(findings, index) for index in range(len(findings.betas))]
    return reconstruction_pictures.pictures(findings, differences)

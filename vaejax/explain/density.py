"""What p_theta(x) is: a VAE's density drawn while it learns one that is known.

p_theta(x) = integral of p(z) N(x; f(z), s^2 I) dz over the plane of two latents, by
the trapezoidal rule on a square of nodes: a mixture of normals, one per node, so that its
values on a grid of x are a product of two small matrices.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax import config as config_lib
from vaejax import keys
from vaejax.config import Dataset, Model, Objective, Optimizer, Training
from vaejax.errors import UserError
from vaejax.evaluation import means
from vaejax.evaluation.means import ExampleMean
from vaejax.explain import densities, density_pictures, grids, measure, plane, train
from vaejax.explain.densities import Density
from vaejax.explain.result import Picture
from vaejax.models import latent_variable, priors
from vaejax.parts import Part
from vaejax.schema import field
from vaejax.types import DataSpec, Params
from vaejax.types import Model as VAE

Name = Literal[tuple(densities.DENSITIES)]
QUESTION = "What goes into p_theta(x), what comes out, and how can it come close to the real p(x)?"
_HALF_WIDTH_Z, _HALF_WIDTH_X = 5.0, 5.5
_POINTS = {1: 221, 2: 111}  # of x per axis: half the narrowest scale apart, or less
_STEPS_PER_EPOCH = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """VAEs with two latents on fresh samples of known densities, trained on L_K.

    With a diagonal q, the optimum of the ELBO (K = 1) in theta is not that of log p(x).
    """

    names: tuple[Name, ...] = field(tuple(densities.DENSITIES), "which densities")
    num_steps: int = field(6000, "training steps, rounded up to tens", low=2)
    batch_size: int = field(128, "fresh samples per step (1-d: a quarter)", low=4)
    num_samples: int = field(16, "samples K of z in the objective L_K; 1: the ELBO", low=1)
    learning_rate: float = field(5e-3, "first rate of Adam; cosine to 0", low=0.0)
    hidden_units: int = field(64, "width of the two hidden layers", low=1)
    prior: Part = field("mixture(num_components=60)", "p(z)", parts=priors.PRIORS)
    num_records: int = field(20, "checkpoints of training that are drawn", low=3)
    first_scale: float = field(0.2, "standard deviation of p(x|z) at the start", low=1e-3)
    grid_nodes: int = field(160, "nodes per latent of the quadrature", low=21)
    test_samples: int = field(1000, "samples of the density for E log p_theta", low=2)


class Course(NamedTuple):
    """One density and its model at R points of training; nats.

    Attributes:
      size: D.
      line: grid points of each axis of x, [G].
      truth: p(x) on line^D, [P].
      model: p_theta(x) there, [R, P].
      integral: integral of p_theta over the grid, [R].
      kl: KL(p || p_theta), [R].
      entropy: of p.
      scale: the learned standard deviation of p(x|z), [R].
      sampled: E log p_theta at the end by samples of p: mean and standard error.
      kl_shift: |change of the final KL| with 3/2 as many nodes per latent.
      density_shift: largest change of the final p_theta(x), relative to its peak.
      unresolved: prior mass of nodes whose neighbours' E[x|z] are over `scale` away.
    """

    size: int
    line: Float[np.ndarray, "G"]
    truth: Float[np.ndarray, "P"]
    model: Float[np.ndarray, "R P"]
    integral: Float[np.ndarray, "R"]
    kl: Float[np.ndarray, "R"]
    entropy: float
    scale: Float[np.ndarray, "R"]
    sampled: ExampleMean
    kl_shift: float
    density_shift: float
    unresolved: float


class Findings(NamedTuple):
    """Attributes:

    steps: the R step counts that are recorded, the first 0.
    num_samples: K of the objective.
    courses: by name of the density.
    """

    steps: tuple[int, ...]
    num_samples: int
    courses: dict[str, Course]


def _scale(params: Params) -> float:
    return float(np.exp(np.float64(params["generative"]["likelihood"]["log_scale"])))


def log_marginal(
    params: Params, x: Float[np.ndarray, "N D"], rule: plane.Rule, *, model: VAE
) -> Float[np.ndarray, "N"]:
    """log p_theta(x) in log space, through the model's own log p(x|z): for single points."""

    def example(params, key, x):
        return plane.log_marginal(plane.log_joint(params, x, rule, model=model), rule)

    return measure.each(example, [params], x, rows=len(rule.nodes))[0]


def _settings(config: Config, size: int, *, seed: int) -> config_lib.Config:
    hidden = (config.hidden_units, config.hidden_units)
    return config_lib.validated(
        config_lib.Config(
            seed=seed,
            dataset=Dataset(binarization="none"),
            model=Model(
                latent_dims=(2,),
                likelihood="normal",
                prior=config.prior,
                encoder=f"mlp(hidden_dims={hidden}, activation='relu')",
            ),
            objective=Objective(bound="iwae", num_samples=config.num_samples),
            optimizer=Optimizer(learning_rate=config.learning_rate, schedule="cosine"),
            training=Training(
                num_epochs=-(-config.num_steps // _STEPS_PER_EPOCH),
                # One dimension is learned sooner.
                batch_size=config.batch_size if size == 2 else config.batch_size // 4,
            ),
        )
    )


def _train(
    target: Density, key: PRNGKeyArray, *, config: Config, settings: config_lib.Config, model: VAE
) -> Iterator[Params]:
    """The parameters after every `_STEPS_PER_EPOCH` steps, on samples that are never seen twice."""
    count = _STEPS_PER_EPOCH * settings.training.batch_size
    draw = jax.jit(lambda key: jax.vmap(target.sample)(jax.random.split(key, count)))

    def start(params):
        # From a wide start the shortest way down may lead to a decoder that ignores z.
        likelihood = {"log_scale": jnp.log(config.first_scale)}
        return params | {"generative": params["generative"] | {"likelihood": likelihood}}

    images = lambda epoch: draw(jax.random.fold_in(key, epoch))  # noqa: E731
    return train.epochs(settings, images, model=model, kind="real", start=start)


@functools.cache
def at_nodes(model: VAE) -> Callable[..., tuple[Array, Array]]:
    """`(params, z [M, 2]) -> E[x|z] [M, D], log p(z) [M]`."""

    def both(params, z):
        log_prior = jax.vmap(model.prior(model.prepare(params)).log_prob)(z)
        return jax.vmap(lambda z: model.likelihood(params, z).mean)(z), log_prior

    return jax.jit(both)


def _course(
    target: Density,
    history: Sequence[Params],
    key: PRNGKeyArray,
    *,
    model: VAE,
    at: Callable[..., tuple[Array, Array]],
    config: Config,
) -> Course:
    """Draws p_theta at every record of `history` and measures it against the truth.

    `at` is `at_nodes(model)`, compiled once for the densities of one size.
    """
    line = grids.axis(_HALF_WIDTH_X, _POINTS[target.size])
    log_prob = grids.log_prob_grid(target, line)

    def draw(params, rule):
        found = at(params, np.asarray(rule.nodes, np.float32))
        loc, log_prior = (np.asarray(values, np.float64) for values in found)
        masses = np.exp(log_prior + np.asarray(rule.log_weights, np.float64))
        return loc, masses, grids.node_mixture(loc, masses, _scale(params), line)

    rule = plane.trapezoidal(_HALF_WIDTH_Z, config.grid_nodes)
    drawn = [draw(params, rule) for params in history]
    model_density = np.stack([values for *_, values in drawn])
    kl = [grids.kl_on_grid(log_prob, values, line, target.size) for values in model_density]
    last = history[-1]
    *_, finer = draw(last, plane.trapezoidal(_HALF_WIDTH_Z, 3 * config.grid_nodes // 2))
    x = jax.jit(jax.vmap(target.sample))(jax.random.split(key, config.test_samples))
    return Course(
        size=target.size,
        line=line,
        truth=np.exp(log_prob),
        model=model_density,
        integral=np.array([grids.integral(v, line, target.size) for v in model_density]),
        kl=np.array(kl),
        entropy=grids.entropy(log_prob, line, target.size),
        scale=np.array(list(map(_scale, history))),
        sampled=means.over_examples(log_marginal(last, np.asarray(x), rule, model=model)),
        kl_shift=abs(grids.kl_on_grid(log_prob, finer, line, target.size) - kl[-1]),
        density_shift=float(np.max(np.abs(finer - model_density[-1])) / model_density[-1].max()),
        unresolved=grids.unresolved(*drawn[-1][:2], _scale(last)),
    )


def compute(config: Config, *, seed: int) -> Findings:
    """Trains and draws, one density after another; UserError where there is none.

    Densities of one size share their initial parameters and one compiled program.
    """
    if not config.names:
        raise UserError(f"config.density.names: needs one of {', '.join(densities.DENSITIES)}")
    courses = {}
    for name in config.names:
        target = densities.DENSITIES[name]()
        settings = _settings(config, target.size, seed=seed)
        model = latent_variable.build(settings.model, DataSpec((target.size,), None))
        recorded = train.log_spaced(settings.training.num_epochs, config.num_records)
        train_key, test_key = (
            keys.domain(seed, f"explain/density/{name}/{purpose}") for purpose in ("train", "test")
        )
        course = _train(target, train_key, config=config, settings=settings, model=model)
        history = [params for epoch, params in enumerate(course) if epoch in recorded]
        courses[name] = _course(
            target, history, test_key, model=model, at=at_nodes(model), config=config
        )
    steps = tuple(_STEPS_PER_EPOCH * epoch for epoch in recorded)
    return Findings(steps, config.num_samples, courses)


def numbers(findings: Findings) -> dict[str, Any]:
    """Per density: distance before and after, both sides of the limit, and the checks."""
    table = {
        name: {
            "kl_before_nats": float(course.kl[0]),
            "kl_after_nats": float(course.kl[-1]),
            "e_log_p_theta_after_nats": float(-course.entropy - course.kl[-1]),
            "e_log_p_theta_by_samples_nats": course.sampled.value,
            "its_standard_error_nats": course.sampled.data_se,
            "minus_entropy_nats": -course.entropy,
            "integral_of_p_theta": float(course.integral[-1]),
            "integral_furthest_from_one": float(
                course.integral[np.argmax(np.abs(course.integral - 1.0))]
            ),
            "likelihood_scale": float(course.scale[-1]),
            "kl_change_with_more_nodes_nats": course.kl_shift,
            "density_change_with_more_nodes_of_peak": course.density_shift,
            "prior_mass_between_far_nodes": course.unresolved,
        }
        for name, course in findings.courses.items()
    }
    return table | {
        "steps": list(findings.steps),
        "kl_nats_at_steps": {n: course.kl.tolist() for n, course in findings.courses.items()},
    }


def headline(findings: Findings) -> str:
    """The remaining distances."""
    sizes = sorted({course.size for course in findings.courses.values()})
    largest = [max(c.kl[-1] for c in findings.courses.values() if c.size == d) for d in sizes]
    parts = [f"at most {kl:.3f} nat in {d}-d" for d, kl in zip(sizes, largest, strict=True)]
    return f"KL(p || p_theta) falls to {', '.join(parts)}"


def sentences(findings: Findings) -> list[str]:
    """What goes in and comes out, what training does, and where it must stop."""
    courses = findings.courses
    off = max(np.abs(course.integral - 1.0).max() for course in courses.values())
    first = max(courses, key=lambda name: courses[name].kl[0])
    worst = max(courses, key=lambda name: courses[name].kl[-1])
    start, end = courses[first], courses[worst]
    verb = "falls" if start.kl[-1] < start.kl[0] else "does not fall"
    return [
        f"p_theta(x) takes a point x and the decoder's parameters and gives one number, a "
        f"density: whatever the parameters, its integral over x stays 1 (furthest off over "
        f"{len(findings.steps)} checkpoints of {len(courses)} models: {off:.0e}), so more of it "
        f"near the data means less of it elsewhere.",
        f"The real p(x) never changes, p_theta(x) does: over {findings.steps[-1]} steps "
        f"KL(p || p_theta) {verb} from {start.kl[0]:.2f} to {start.kl[-1]:.3f} nats for the "
        f"{first}, and is {end.kl[-1]:.3f} at the end where it is largest (the {worst}).",
        f"So 'maximising log p(x)' means E log p_theta(x), and it has a ceiling, minus the "
        f"entropy of the data: for the {worst} {-end.entropy:.3f} nats, of which training with "
        f"K = {findings.num_samples} reaches {-end.entropy - end.kl[-1]:.3f} on the grid and "
        f"{end.sampled.value:.3f} +- {end.sampled.data_se:.3f} on fresh samples.",
    ]


def pictures(findings: Findings) -> dict[str, Picture]:
    """The densities at four times, their distance over time, and an animation."""
    return density_pictures.pictures(findings.steps, findings.courses)

"""How fast training and evaluation are, and how near to what the machine's matmul allows."""

import pathlib
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import products
from vaejax import config as config_lib
from vaejax.config import Config, Objective, Training
from vaejax.config import Model as ModelConfig
from vaejax.evaluation import mapping, per_example
from vaejax.evidence import annealing
from vaejax.models import latent_variable
from vaejax.training import step as training
from vaejax.types import DataSpec, Model, Params

_MATMUL_SIZE = 2048
_REPETITIONS = 7
_SECONDS_PER_REPETITION = 1.0
_TRAIN_CASES = {"k=1, B=100": (1, 275), "k=5, B=100": (5, 110), "k=50, B=100": (50, 14)}
Fields = dict[str, Any]


class Variant(NamedTuple):
    """Another model beside the MLP: the fields that make it, and the steps of a timed scan."""

    fields: Fields
    steps: int


_VARIANTS = {
    "gated_mlp": Variant({"encoder": "gated_mlp"}, 110),
    "conv": Variant({"encoder": "conv"}, 55),
    "resnet": Variant({"encoder": "resnet"}, 22),
    "top-down, 2 layers": Variant({"latent_dims": (50, 25), "hierarchy": "top_down"}, 55),
    "top-down, 5 layers": Variant(
        {"latent_dims": (50, 40, 30, 20, 10), "hierarchy": "top_down"}, 55
    ),
    "prior=vamp(500)": Variant({"prior": "vamp(num_components=500)"}, 110),
    "prior=coupling": Variant({"prior": "coupling"}, 110),
    "posterior=coupling": Variant({"posterior": "coupling"}, 110),
    "posterior=coupling(spline)": Variant({"posterior": "coupling(kind='spline')"}, 110),
    "posterior=iaf": Variant({"posterior": "iaf"}, 110),
    "posterior=mixture": Variant({"posterior": "mixture"}, 110),
}


def _seconds(function: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begun


def _matmul() -> Callable[[], float]:
    """A function that measures the float32 matmul rate now, in floating-point operations/s."""
    matrix = jax.random.normal(jax.random.key(0), (_MATMUL_SIZE, _MATMUL_SIZE))
    multiply = jax.jit(jnp.matmul)
    _seconds(lambda: multiply(matrix, matrix))
    return lambda: (
        2 * _MATMUL_SIZE**3 / min(_seconds(lambda: multiply(matrix, matrix)) for _ in range(5))
    )


def _mnist(
    num_samples: int, max_steps: int, gradient: str = "pathwise", fields: Fields | None = None
) -> tuple[Config, Model, np.ndarray]:
    """A VAE of 50 latents on 55,000 random images (speed does not depend on their content).

    784-200-200-50, or what `fields` of its config make of it.
    """
    config = config_lib.validated(
        Config(
            objective=Objective(bound="iwae", num_samples=num_samples, gradient=gradient),
            training=Training(max_steps_per_call=max_steps),
            model=ModelConfig(**fields or {}),
        )
    )
    images = np.random.default_rng(0).integers(0, 256, (55_000, 28, 28, 1), dtype=np.uint8)
    spec = DataSpec(images.shape[1:], images.mean(axis=0) / 255.0)
    return config, latent_variable.build(config.model, spec), images


def _multiplications(params: Params) -> int:
    """Multiply-adds of one pass through the networks of `params`."""
    return sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 2)


def _best(run: Callable[[], Any], matmul: Callable[[], float]) -> tuple[float, float, float]:
    """Best seconds of `run`, best matmul rate, and the median ratio of neighbours.

    Each repetition is paired with a matmul measured just before: on a shared machine the
    speed drifts, and the ratio of neighbours drifts less than either.
    """
    times, rates = [], []
    for _ in range(_REPETITIONS):
        rates.append(matmul())
        times.append(_seconds(run))
    return (
        min(times),
        max(rates),
        statistics.median(t * r for t, r in zip(times, rates, strict=True)),
    )


def _report(seconds: float, rate: float, product: float, flops: float, compile_seconds: float):
    return {
        "matmul_gflops": rate / 1e9,
        "gflops": flops / seconds / 1e9,
        "fraction_of_matmul": flops / product,
        "compile_seconds": compile_seconds,
    }


class _Training(NamedTuple):
    """A compiled scan of training steps, ready to be timed."""

    run: Callable[[], Any]
    params: Params
    examples: int
    compile_seconds: float


def _compiled_training(
    num_samples: int, steps: int, gradient: str = "pathwise", fields: Fields | None = None
) -> _Training:
    """`training.train_call` of the MNIST model, binarisation included, run once."""
    config, model, images = _mnist(num_samples, steps, gradient, fields)
    plan = training.make_plan(config, len(images))
    call = jax.jit(training.train_call, static_argnames=("model", "plan"), donate_argnames="state")
    state = jax.jit(lambda: training.init_state(config, model=model))()
    params = jax.device_get(state.params)
    # A weakly typed leaf would make the second call compile anew.
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)
    images, options = jnp.asarray(images), {"config": config, "model": model, "plan": plan}
    compile_seconds = _seconds(lambda: call.lower(state, images, **options).compile() and None)
    holder = [state]

    def run():
        holder[0], metrics = call(holder[0], images, **options)
        return metrics

    _seconds(run)
    examples = plan.steps_per_call * config.training.batch_size
    return _Training(run, params, examples, compile_seconds)


def training_rate(name: str) -> dict[str, float]:
    """Examples per second of one compiled scan of training steps, binarisation included.

    Counted are the matrix products alone, by the usual rule forward once and backward twice;
    `executed_fraction` leaves out the gradient with respect to the data, which is not computed.
    `fraction_of_own_products` is the time of these products, each timed apart, over the step's.
    """
    num_samples, steps = _TRAIN_CASES[name]
    case = _compiled_training(num_samples, steps)
    encoder = _multiplications(case.params["inference"])
    decoder = _multiplications(case.params["generative"])
    seconds, rate, product = _best(case.run, _matmul())
    flops = 6 * case.examples * (encoder + num_samples * decoder)
    report = _report(seconds, rate, product, flops, case.compile_seconds)
    executed = 1 - 2 * case.examples * 784 * 200 / flops
    report["executed_fraction"] = executed * report["fraction_of_matmul"]
    own = products.timer(case.params, num_samples, case.examples, _seconds)
    pairs = [(own(), _seconds(case.run)) for _ in range(_REPETITIONS)]
    report["fraction_of_own_products"] = statistics.median(a / b for a, b in pairs)
    return {"examples_per_second": case.examples / seconds} | report


def variant_rate(name: str) -> dict[str, float]:
    """Training rate of another model, k = 1, B = 100, and over that of the MLP.

    The median ratio of neighbouring runs, in turn: the machine's speed drifts.
    """
    fields, steps = _VARIANTS[name]
    ours, plain = _compiled_training(1, steps, fields=fields), _compiled_training(1, steps)
    pairs = [(_seconds(ours.run), _seconds(plain.run)) for _ in range(_REPETITIONS)]
    return {
        "ratio_to_plain": statistics.median(other / own for own, other in pairs),
        "examples_per_second": ours.examples / min(own for own, _ in pairs),
        "compile_seconds": ours.compile_seconds,
    }


def estimator_cost(gradient: str, *, num_samples: int = 50, steps: int = 14) -> dict[str, float]:
    """Time of an IWAE training step with `gradient` over that of a pathwise one.

    The median ratio of neighbouring runs, in turn: the machine's speed drifts.
    """
    ours = _compiled_training(num_samples, steps, gradient)
    pathwise = _compiled_training(num_samples, steps)
    pairs = [(_seconds(ours.run), _seconds(pathwise.run)) for _ in range(_REPETITIONS)]
    return {
        "ratio_to_pathwise": statistics.median(own / other for own, other in pairs),
        "examples_per_second": ours.examples / min(own for own, _ in pairs),
        "compile_seconds": ours.compile_seconds,
    }


def evaluation_rate(num_samples: int = 5000) -> dict[str, float]:
    """Log weights per second of `per_example.evaluate`, all its statistics included.

    Counted are the decoder's matrix products alone.
    """
    config, model, images = _mnist(1, 1)
    params = jax.jit(model.init)(jax.random.key(0))
    example_map = _evaluation(config, model, 50, num_samples)
    count = example_map.examples_per_call
    x = jnp.asarray(images[:count] > 127, jnp.float32)
    run = lambda: example_map.run(params, jax.random.key(0), jnp.arange(count), x)  # noqa: E731
    first = _seconds(run)
    seconds, rate, product = _best(run, _matmul())
    flops = 2 * _multiplications(params["generative"]) * count * num_samples
    report = _report(seconds, rate, product, flops, first - seconds)
    return {"samples_per_second": count * num_samples / seconds} | report


def _evaluation(config: Config, model: Model, num_examples: int, num_samples: int):
    chunk_size = config.evaluation.chunk_size
    return per_example.make(
        model, num_examples=num_examples, num_samples=num_samples, chunk_size=chunk_size
    )


def evaluation_memory(num_samples: int, encoder: str = "mlp") -> dict[str, float]:
    """Peak resident memory of this process after evaluating two examples at K samples."""
    config, model, images = _mnist(1, 1, fields={"encoder": encoder})
    params = jax.jit(model.init)(jax.random.key(0))
    x = (images[:2] > 127).astype(np.uint8)
    mapping.over_examples(_evaluation(config, model, 2, num_samples), params, jax.random.key(0), x)
    return {"num_samples": num_samples, "peak_mebibytes": _peak_mebibytes()}


def _peak_mebibytes() -> float:
    """Peak resident memory of this process.

    On Linux from its own memory map: getrusage counts what the parent held before exec too.
    """
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def matmul_rates() -> dict[str, float]:
    """The rate of the product at each precision: on a GPU "default" is TF32, "highest" float32."""
    rates = {}
    for precision in ("default", "high", "highest"):
        with jax.default_matmul_precision(precision):
            rates[f"{precision}_gflops"] = max(_matmul()() for _ in range(3)) / 1e9
    return rates


CASES: dict[str, Callable[[], dict[str, float]]] = {
    "matmul": matmul_rates,
    **{f"train {name}": lambda name=name: training_rate(name) for name in _TRAIN_CASES},
    **{f"train {name}": lambda name=name: variant_rate(name) for name in _VARIANTS},
    "doubly reparameterized k=50": lambda: estimator_cost("doubly_reparameterized"),
    "8 of 50 samples differentiated": lambda: estimator_cost("resampled(num_backward=8)"),
    "evaluate K=5000": evaluation_rate,
}
MEMORY_CASES: dict[str, tuple[int, str]] = {
    "memory K=500": (500, "mlp"),
    "memory K=50000": (50_000, "mlp"),
    "memory conv K=1000": (1000, "conv"),
    "memory conv K=10000": (10_000, "conv"),
}


def annealing_rate(*, num_chains: int = 16, num_examples: int = 32) -> dict[str, float]:
    """Leapfrog gradients per second of scored AIS chains, all examples in one call.

    A gradient in z passes the decoder forward and backward: 4 operations per weight. The
    one gradient per temperature that is not a leapfrog step is not counted.
    """
    _, model, images = _mnist(1, 1)
    params = model.init(jax.random.key(0))
    x = jnp.asarray(images[:num_examples] > 127, jnp.float32)
    num_temperatures, num_leapfrog = 20, 5
    schedule = annealing.Schedule(
        annealing.spacing("linear", num_temperatures), jnp.full(num_temperatures, 0.5)
    )

    def example(key, x):
        path = annealing.make_path(params, key, x, model=model, start="posterior")
        keys = jax.random.split(key, num_chains)
        return jax.vmap(
            lambda key: annealing.forward(key, path, schedule, num_leapfrog=num_leapfrog)
        )(keys)

    keys = jax.random.split(jax.random.key(1), num_examples)
    call = jax.jit(jax.vmap(example))
    compile_seconds = _seconds(lambda: call(keys, x))
    seconds, rate, product = _best(lambda: call(keys, x), _matmul())
    gradients = num_temperatures * num_leapfrog * num_chains * num_examples
    flops = 4 * _multiplications(params["generative"]) * gradients
    return {"gradients_per_second": gradients / seconds} | _report(
        seconds, rate, product, flops, compile_seconds
    )

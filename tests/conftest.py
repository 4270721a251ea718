"""Fixtures shared by all tests: small data, small models, 64-bit arithmetic on request."""

import os
import pathlib
import shutil
import tempfile

# `make test` runs the suite in two parts, one after the other. Numbers are tested on the code that
# users run. Where a test is about plumbing, most of its time is compilation, and its programs need
# no optimised code. Without VAEJAX_SUITE everything is optimised.
NUMERICS = (
    "test_bounds",
    "test_convolutions",
    "test_discrete",
    "test_gibbs",
    "test_relaxed",
    "test_resampled",
    "test_distributions",
    "test_evaluation",
    "test_evidence",
    "test_families",
    "test_fusion",
    "test_gaps",
    "test_gradients",
    "test_kills",
    "test_likelihoods",
    "test_numerics",
    "test_oracle",
    "test_pareto",
    "test_rate_distortion",
    "test_rates",
    "test_sumo",
    "test_top_down",
)
SUITE = os.environ.get("VAEJAX_SUITE", "all")
if SUITE == "plumbing":
    level = "--xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {level}"

# Scripts and tests compile the same small programs over and over, in several processes.
OWN_CACHE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if OWN_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="vaejax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Tests kill processes, also while they write to it: JAX warns, and compiles again.
    os.environ["PYTHONWARNINGS"] = "ignore:Error reading persistent compilation cache entry"

import jax
import jaxtyping
import numpy as np
import pytest

# Shapes in signatures are checked at run time, and an accidental broadcast is an error. The checks
# are a seventh of the time: the slow suite, whose functions the fast one calls too, goes without.
_PARTS = ("convolutions", "distributions", "divergences", "image_networks", "ladders", "latents")
_PARTS += ("discrete", "linear_gaussian", "maps", "networks", "pixels", "sites", "supports")
_PARTS += ("top_down",)
_CHECKED = ["numerics", "objectives", "evidence", *(f"models.{name}" for name in _PARTS)]
if os.environ.get("VAEJAX_SHAPES") != "unchecked":
    jaxtyping.install_import_hook([f"vaejax.{name}" for name in _CHECKED], "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")

from vaejax import config as config_lib
from vaejax import schema
from vaejax.config import Model
from vaejax.models import latent_variable
from vaejax.types import DataSpec

ROOT = pathlib.Path(__file__).parent.parent
MNIST = ROOT.parent / "shared" / "data" / "tfds"


SLOWEST_FIRST = (
    "test_kills",
    "test_fusion",
    "test_hosts",
    "test_search",
    "test_sweep_launches",
    "test_sweeps",
    "test_scripts",
    "test_explain",
    "test_gradients",
    "test_evidence",
    "test_families",
    "test_comparison_report",
)


def pytest_ignore_collect(collection_path):
    """Leaves out the files of the other part of the suite."""
    name = collection_path.stem
    if SUITE == "all" or not name.startswith("test_"):
        return None
    return True if (name in NUMERICS) != (SUITE == "numerics") else None


SLOW_FIXTURES = {
    ("test_explain", "found"),
    ("test_levels", "evaluated"),
    ("test_sample", "trained"),
}
"""Whole runs, a quarter of a minute and more each: what is read off them is tested slowly."""


SHARED_BY_NAME = ("test_discrete", "test_models")
"""Their tests of one name share a model, and so a process (`--dist loadgroup`)."""
SHARED_FIXTURES = (
    ("test_comparison_estimators", "two_runs"),
    ("test_comparison_report", "evaluated"),
    ("test_evidence_run", "trained"),
    ("test_explain", "found"),
    ("test_export", "trained"),
    ("test_fuzz", "run_folder"),
    ("test_gradient_lab", "result"),
    ("test_hostile", "run"),
    ("test_hosts", "alone"),
    ("test_levels", "evaluated"),
    ("test_limits", "original"),
    ("test_meshes", "found"),
    ("test_rates", "evaluated"),
    ("test_sample", "trained"),
    ("test_scripts", "trained"),
    ("test_scripts", "unkilled"),
    ("test_search", "searched"),
    ("test_search", "whole"),
    ("test_sweeps", "together"),
    ("test_sweep_launches", "swept"),
)
"""Whole runs again: tests that read off one of them share a process, and it is made once."""


def _group(item):
    """The tests that run in one process with `item`, or None."""
    name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
    if item.path.stem in SHARED_BY_NAME and name is not None:
        return f"{item.path.stem}-{name}"
    shared = [pair for pair in SHARED_FIXTURES if pair[1] in item.fixturenames]
    return next(("-".join(pair) for pair in shared if pair[0] == item.path.stem), None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The longest files first, so that two processes end at about the same time."""
    for item in items:
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))
        if SLOW_FIXTURES & {(item.path.stem, name) for name in item.fixturenames}:
            item.add_marker(pytest.mark.slow)
    rank = {name: position for position, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_unconfigure():
    """The process that made the compilation cache removes it."""
    if OWN_CACHE:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def data_directory(tmp_path_factory):
    """One prepared copy of the digits for all test processes of this session."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    os.environ["TFDS_DATA_DIR"] = str(shared / "tfds")
    return shared / "tfds"


@pytest.fixture
def mnist_directory():
    """The prepared MNIST beside the repository; tests that need it skip where it is absent."""
    if not (MNIST / "mnist").is_dir():
        pytest.skip("no prepared MNIST beside the repository")
    return MNIST


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def spec():
    """Twelve pixels of different mean; levels 0, 1 and 2, so that 0/1 are legal x of all."""
    return DataSpec((2, 6, 1), np.linspace(0.05, 0.95, 12).reshape(2, 6, 1), levels=3)


LINEAR = {
    "model__latent_dims": (3,),
    "model__posterior": "full_normal(shared_scale=True)",
    "model__likelihood": "normal",
    "model__encoder": "linear",
    "dataset__binarization": "none",
}


def small_config(**overrides):
    """A digits run of a second, with `section__key=value` overrides."""
    values = {
        "dataset.num_validation": 37,
        "model.latent_dims": (3,),
        "model.encoder": "mlp(hidden_dims=(8,))",
        "training.num_epochs": 3,
        "training.batch_size": 200,
        "training.checkpoint_seconds": 0.0,
        "evaluation.num_samples": 20,
    }
    values |= {key.replace("__", "."): value for key, value in overrides.items()}
    return config_lib.override_all(config_lib.Config(), values)


def model_config(**fields):
    """The config of a model from the text of its parts."""
    return schema.checked(Model(**fields))


MODELS = {
    "mlp-1": {"latent_dims": (2,), "encoder": "mlp(hidden_dims=(5,))"},
    "mlp-2": {
        "latent_dims": (3, 2),
        "encoder": "mlp(hidden_dims=(5,)), mlp(hidden_dims=(4, 4))",
    },
    "mlp-3-normal": {
        "latent_dims": (3, 2, 1),
        "encoder": "mlp(hidden_dims=(5,)), mlp(hidden_dims=(4,)), linear",
        "likelihood": "normal",
    },
    "mlp-full": {
        "latent_dims": (3,),
        "encoder": "mlp(hidden_dims=(5,))",
        "posterior": "full_normal",
    },
    "top_down-2": {
        "latent_dims": (2, 3),
        "encoder": "mlp(hidden_dims=(5,))",
        "hierarchy": "top_down(features=4)",
    },
    "top_down-3-ladder": {
        "latent_dims": (2, 2, 1),
        "encoder": "mlp(hidden_dims=(4,))",
        "likelihood": "normal",
        "hierarchy": "top_down(features=4, merge='precision', skip=False)",
    },
    "top_down-3-maps": {
        "latent_dims": (1, 1, 3),
        "encoder": "mlp(hidden_dims=(4,))",
        "posterior": "normal(shared_scale=True)",
        "hierarchy": "top_down(features=2, downsampling=(2, 2, 0))",
    },
    "conv-2": {
        "latent_dims": (3, 2),
        "encoder": "conv(channels=(2,)), gated_mlp(hidden_dims=(4,))",
    },
    "resnet": {"latent_dims": (2,), "encoder": "resnet(channels=(2,), norm='group')"},
    "mlp-mixture": {
        "latent_dims": (2,),
        "encoder": "mlp(hidden_dims=(5,))",
        "posterior": "mixture(num_components=3)",
        "prior": "mixture(num_components=3)",
    },
    "mlp-vamp": {
        "latent_dims": (2,),
        "encoder": "mlp(hidden_dims=(5,))",
        "prior": "vamp(num_components=4)",
    },
    "mlp-coupling": {
        "latent_dims": (3,),
        "encoder": "mlp(hidden_dims=(5,))",
        "posterior": "coupling(num_layers=2, hidden_dims=(4,), context_dims=2)",
        "prior": "coupling(kind='spline', num_layers=2, hidden_dims=(4,), num_bins=3)",
    },
    "mlp-2-iaf": {
        "latent_dims": (3, 2),
        "encoder": "mlp(hidden_dims=(5,)), mlp(hidden_dims=(4,))",
        "posterior": "iaf(num_layers=2, hidden_dims=(4,), context_dims=2)",
        "prior": "autoregressive(hidden_dims=(4,))",
    },
    "linear_gaussian-full": {
        "latent_dims": (2,),
        "encoder": "linear",
        "posterior": "full_normal(shared_scale=True)",
        "likelihood": "normal",
    },
    "linear_gaussian-diagonal": {
        "latent_dims": (2,),
        "encoder": "linear",
        "posterior": "normal(shared_scale=True)",
        "likelihood": "normal",
    },
    "continuous_bernoulli": {
        "latent_dims": (1,),
        "encoder": "linear",
        "likelihood": "continuous_bernoulli",
    },
    "discretized_logistic": {
        "latent_dims": (1,),
        "encoder": "linear",
        "likelihood": "discretized_logistic(scale='decoder')",
    },
    "logistic_mixture": {
        "latent_dims": (1,),
        "encoder": "linear",
        "likelihood": "discretized_logistic_mixture(num_components=2)",
    },
    "categorical": {"latent_dims": (1,), "encoder": "linear", "likelihood": "categorical"},
    "belief_network": {
        "latent_dims": (3, 2),
        "encoder": "mlp(hidden_dims=(4,)), linear",
        "posterior": "bernoulli",
        "prior": "bernoulli",
    },
    "autoregressive_bernoulli": {
        "latent_dims": (3,),
        "encoder": "linear",
        "posterior": "bernoulli",
        "prior": "autoregressive_bernoulli(hidden_dims=())",
    },
    "choices": {
        "latent_dims": (4, 4),
        "encoder": "linear",
        "posterior": "categorical(num_classes=2)",
        "prior": "categorical(num_classes=2)",
        "hierarchy": "top_down(features=2)",
    },
}
"""Models at a size for tests; together they hold every part of every registry."""
MODEL_NAMES = tuple(MODELS)
FAST = ("mlp-1", "mlp-2", "mlp-mixture", "top_down-2", "linear_gaussian-full")
SLOW_NAMES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in MODEL_NAMES
]
"""All of them, most in the slow suite alone."""


def small_model(name, spec):
    """The model of that name in `MODELS` for data of `spec`."""
    return latent_variable.build(model_config(**MODELS[name]), spec)


def perturbed(params, key, scale=0.3):
    """Parameters moved away from their special initial values."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [
            leaf + scale * jax.random.normal(k, leaf.shape, leaf.dtype)
            for leaf, k in zip(leaves, keys, strict=True)
        ]
    )

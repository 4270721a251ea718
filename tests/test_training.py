"""The pure part of training: steps, schedules, averages, early stopping."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import small_config

from vaejax import config as config_lib
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.models import latent_variable
from vaejax.training import memory, optimizers, programs
from vaejax.training import step as training
from vaejax.types import DataSpec

SPEC = DataSpec((8, 8, 1), None)


@functools.cache
def _setup(**overrides):
    config = small_config(**overrides)
    data = splits.training_data(config)
    model = latent_variable.build(config.model, data.spec)
    plan = training.make_plan(config, len(data.images))
    return config, model, plan, jnp.asarray(data.images)


def _start(config, model):
    return jax.jit(lambda: training.init_state(config, model=model))()


def test_scan_is_the_python_loop_bit_for_bit():
    config, model, plan, images = _setup()
    options = {"config": config, "model": model, "plan": plan}
    scanned, metrics = jax.jit(functools.partial(training.train_call, **options))(
        _start(config, model), images
    )
    step = jax.jit(functools.partial(training.train_step, **options))
    looped = _start(config, model)
    key = training.make_keys(config).steps
    batches = training.batch_indices(
        looped.step, config=config, plan=plan, num_examples=len(images)
    )
    losses = []
    for rows in batches:
        looped, row = step(looped, key, images[rows])
        losses.append(row["loss"])
    chex.assert_trees_all_equal(scanned, looped)
    np.testing.assert_array_equal(metrics["loss"], losses)


def test_numbers_of_a_config_are_arguments_of_one_program():
    """Rate, beta, seed and the options of a bound: one trace serves all their values."""
    renyi = {"objective__bound": "renyi(alpha=0.5)", "objective__num_samples": 4}
    config, model, plan, images = _setup(**renyi)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def call(config, state):
        return training.train_call(state, images, config=config, model=model, plan=plan)

    state = _start(config, model)
    constant, _ = jax.jit(
        functools.partial(training.train_call, config=config, model=model, plan=plan)
    )(state, images)
    traced, metrics = call(config, state)
    chex.assert_trees_all_close(constant.params, traced.params, rtol=1e-5, atol=1e-6)
    others = [
        {"optimizer__learning_rate": 1e-2},
        {"seed": 5},
        {"objective__beta": 0.3},
        {"objective__bound": "renyi(alpha=-0.5)", "objective__allow_biased": False},
    ]
    for other in others[:3]:
        moved, _ = call(small_config(**renyi | other), state)
        assert not np.allclose(*(jax.tree.leaves(s.params)[1] for s in (traced, moved))), other
    moved, values = call(small_config(**renyi | {"objective__bound": "renyi(alpha=0.1)"}), state)
    assert not np.allclose(values["loss"], metrics["loss"])


def test_each_epoch_uses_every_example_once_in_a_new_order():
    config, _, plan, images = _setup(dataset__num_validation=37)
    assert (len(images), plan.steps_per_epoch) == (1400, 7)
    rows = functools.partial(
        training.batch_indices, config=config, plan=plan, num_examples=len(images)
    )
    first, second = (np.asarray(rows(jnp.int32(step))).ravel() for step in (0, 7))
    assert sorted(first) == sorted(second) == list(range(1400))
    assert (first != second).any()


def test_long_epochs_are_cut_into_equal_calls_of_the_same_order():
    config, _, plan, images = _setup(training__max_steps_per_call=3)
    assert plan == training.Plan(steps_per_epoch=6, steps_per_call=2, num_steps=18)
    whole = plan._replace(steps_per_call=6)
    rows = functools.partial(training.batch_indices, config=config, num_examples=len(images))
    parts = [rows(jnp.int32(step), plan=plan) for step in (6, 8, 10)]
    np.testing.assert_array_equal(np.concatenate(parts), rows(jnp.int32(6), plan=whole))


def test_adam_is_optax_adam_with_every_knob():
    config = small_config(optimizer__b1=0.8, optimizer__b2=0.99, optimizer__eps=1e-3)
    reference = optax.adam(0.1, b1=0.8, b2=0.99, eps=1e-3)
    params = theirs = {"a": jnp.array([1.0, -2.0])}
    state, their_state = optimizers.init(config, params), reference.init(theirs)
    for scale in (1.0, -0.5, 2.0):
        gradient = {"a": scale * jnp.array([0.3, 0.7])}
        params, state = optimizers.update(config, gradient, state, params, rate=jnp.asarray(0.1))
        updates, their_state = reference.update(gradient, their_state)
        theirs = optax.apply_updates(theirs, updates)
    chex.assert_trees_all_close(params, theirs, rtol=1e-6)


def test_second_moments_start_where_the_config_says():
    config = small_config(optimizer__second_moment_init=1.0, optimizer__eps=0.0)
    params = {"a": jnp.array([0.0])}
    state = optimizers.init(config, params)
    moved, _ = optimizers.update(config, {"a": jnp.array([1.0])}, state, params, rate=1.0)
    # First step: m^ = 1 and v^ = (0.999 * 1 + 0.001 * 1) / 0.001 = 1000.
    np.testing.assert_allclose(moved["a"], -1.0 / np.sqrt(1000.0), rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, {0: 1e-3, 29: 1e-3}),
        (
            {"optimizer__schedule": "cosine", "optimizer__final_scale": 0.1},
            {0: 1e-3, 15: 0.55e-3, 30: 1e-4, 31: 1e-4},
        ),
        (
            {
                "optimizer__schedule": "staged",
                "optimizer__stage_epochs": (1, 2),
                "optimizer__stage_scales": (10.0, 7.2),
            },
            {0: 1e-2, 9: 1e-2, 10: 7.2e-3, 29: 7.2e-3, 30: 7.2e-3},
        ),
    ],
)
def test_schedules_by_hand(overrides, expected):
    config = small_config(**overrides)
    for step, rate in expected.items():
        value = optimizers.learning_rate(config, steps_per_epoch=10)(jnp.int32(step))
        np.testing.assert_allclose(value, rate, rtol=1e-5)


@pytest.mark.parametrize(
    ("warmup", "step", "expected"), [(0.0, 0, 0.7), (2.0, 0, 0.035), (2.0, 9, 0.35), (2.0, 99, 0.7)]
)
def test_beta_warms_up_linearly(warmup, step, expected):
    config = small_config(objective__beta=0.7, objective__warmup_epochs=warmup)
    value = optimizers.beta(config, jnp.int32(step), steps_per_epoch=10)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.slow
def test_beta_zero_trains_an_autoencoder():
    """Without the KL the reconstruction is better and the ELBO worse."""
    ends = {}
    for beta in (0.0, 1.0):
        config, model, plan, images = _setup(
            objective__beta=beta, optimizer__learning_rate=1e-2, training__num_epochs=20
        )
        call = jax.jit(
            functools.partial(training.train_call, config=config, model=model, plan=plan)
        )
        state = _start(config, model)
        for _ in range(20):
            state, metrics = call(state, images)
        ends[beta] = {name: float(value.mean()) for name, value in metrics.items()}
    assert ends[0.0]["reconstruction"] > ends[1.0]["reconstruction"] + 1
    assert ends[0.0]["elbo"] < ends[1.0]["elbo"] - 1
    np.testing.assert_allclose(ends[0.0]["loss"], -ends[0.0]["reconstruction"], rtol=1e-5)


def test_metrics_report_the_plain_bounds_whatever_is_optimised():
    config, model, plan, images = _setup(
        objective__bound="iwae", objective__num_samples=4, objective__beta=0.5
    )
    _, metrics = jax.jit(
        functools.partial(training.train_call, config=config, model=model, plan=plan)
    )(_start(config, model), images)
    np.testing.assert_allclose(
        metrics["elbo"], metrics["reconstruction"] - metrics["kl"], rtol=1e-5
    )
    assert (metrics["iwae"] > metrics["elbo"]).all()
    assert not np.allclose(metrics["loss"], -metrics["iwae"])


@pytest.mark.parametrize("trained", ["generative", "inference"])
@pytest.mark.parametrize("eps", [1e-8, 0.0])
def test_parameters_that_are_not_trained_stay_bit_for_bit(trained, eps):
    """With eps = 0 too, where Adam on zero gradients would divide zero by zero."""
    config, model, plan, images = _setup(training__parameters=trained, optimizer__eps=eps)
    before = jax.device_get(_start(config, model).params)
    call = functools.partial(training.train_call, config=config, model=model, plan=plan)
    after = jax.jit(call)(_start(config, model), images)[0].params
    frozen = {"generative": "inference", "inference": "generative"}[trained]
    chex.assert_trees_all_equal(after[frozen], before[frozen])
    for new, old in zip(
        jax.tree.leaves(after[trained]), jax.tree.leaves(before[trained]), strict=True
    ):
        assert not np.array_equal(new, old)


def test_a_model_too_large_for_the_memory_is_refused_before_it_is_made():
    config = small_config(model__latent_dims=(2**20,), model__encoder="mlp(hidden_dims=(9999,))")
    with pytest.raises(UserError, match=r"config\.model: parameters and Adam's moments need"):
        programs.set_up(config)


def test_a_step_too_large_for_the_memory_is_refused_before_it_runs():
    config, model, plan, images = _setup()
    compiled = (
        jax.jit(functools.partial(training.train_call, config=config, model=model, plan=plan))
        .lower(_start(config, model), images)
        .compile()
    )
    needed = memory.program_bytes(compiled)
    assert needed > images.nbytes
    memory.check_training(compiled, config, limit=needed)
    memory.check_samples(config, limit=needed)  # what is known before is no more than that
    with pytest.raises(UserError, match=r"num_samples=1 with .*batch_size=200.* lower either"):
        memory.check_training(compiled, config, limit=needed - 1)


def test_samples_too_many_for_the_memory_are_refused_before_the_step_is_compiled():
    """XLA of JAX 0.12 divides by zero where it compiles a step of 2^31 - 1 samples."""
    config = small_config(objective__num_samples=2**31 - 1)
    with pytest.raises(UserError, match=r"batch_size=200: one step needs at least .* lower either"):
        programs.set_up(config)


def test_a_biased_gradient_is_allowed_on_request():
    config = small_config(
        objective__bound="iwae", objective__gradient="stl", objective__allow_biased=True
    )
    assert "stl is biased" in config_lib.biased_gradient(config.objective)
    assert config_lib.biased_gradient(small_config().objective) is None


def test_training_precision_reaches_the_matrix_products():
    config, model, plan, images = _setup(training__precision="highest")
    call = functools.partial(training.train_call, model=model, plan=plan)
    state = jax.eval_shape(lambda: training.init_state(config, model=model))
    highest = str(jax.make_jaxpr(call)(state, images, config=config))
    plain = str(jax.make_jaxpr(call)(state, images, config=_setup()[0]))
    assert "HIGHEST" in highest
    assert "HIGHEST" not in plain


def test_moving_average_by_hand():
    average = optimizers.moving_average({"a": jnp.ones(1)}, {"a": jnp.zeros(1)}, decay=0.9)
    np.testing.assert_allclose(average["a"], 0.9)


def test_average_follows_and_is_what_evaluation_uses():
    config, model, plan, images = _setup(training__ema_decay=0.5)
    state = _start(config, model)
    start = jax.tree.leaves(state.params)[1]
    state, _ = jax.jit(
        functools.partial(
            training.train_call, config=config, model=model, plan=plan._replace(steps_per_call=1)
        )
    )(state, images)
    expected = 0.5 * (start + jax.tree.leaves(state.params)[1])
    used = jax.tree.leaves(training.evaluation_params(state))[1]
    np.testing.assert_allclose(used, expected, rtol=1e-5)


def test_best_keeps_the_parameters_of_the_highest_bound():
    config, model, plan, _ = _setup(training__patience=2)
    state = _start(config, model)
    seen = []
    for step, value in enumerate([-30.0, -20.0, -25.0, -21.0]):
        params = jax.tree.map(lambda p, step=step: p * 0 + step, state.params)
        state = training.update_best(
            state._replace(step=jnp.int32(step), params=params),
            jnp.float32(value),
            config=config,
            plan=plan,
        )
        seen.append((int(state.best.step), int(state.best.stale)))
    assert seen == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert float(jax.tree.leaves(training.evaluation_params(state))[0].max()) == 1.0
    assert float(state.best.value) == -20.0


def test_patience_counts_from_the_end_of_the_warm_up():
    """The best so far is kept all the same; the count begins when beta has risen."""
    config, model, plan, _ = _setup(training__patience=2, objective__warmup_epochs=3.0)
    state, stale = _start(config, model), []
    for epoch in range(1, 7):
        state = training.update_best(
            state._replace(step=jnp.int32(epoch * plan.steps_per_epoch)),
            jnp.float32(-epoch),
            config=config,
            plan=plan,
        )
        stale.append(int(state.best.stale))
    assert stale == [0, 0, 1, 2, 3, 4]
    assert int(state.best.step) == plan.steps_per_epoch


def test_no_key_of_a_step_is_used_twice(monkeypatch):
    """The data's noise and the samples' have keys of their own."""
    config, model, plan, images = _setup()
    used = []
    spied = jax.random.split, training.recipes.prepare

    def split(key, *rest):
        if not isinstance(key, jax.core.Tracer):
            used.append(bytes(np.asarray(jax.random.key_data(key))))
        return spied[0](key, *rest)

    def prepare(key, *rest, **options):
        used.append(bytes(np.asarray(jax.random.key_data(key))))
        return spied[1](key, *rest, **options)

    monkeypatch.setattr(jax.random, "split", split)
    monkeypatch.setattr(training.recipes, "prepare", prepare)
    state, key = _start(config, model), training.make_keys(config).steps
    used.clear()
    training.train_step(state, key, images[:4], config=config, model=model, plan=plan)
    assert len(used) == len({*used}) == 3

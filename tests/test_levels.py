"""Grey and colour levels: quantised, scaled, dequantised; whole numbers for masses; bits/dim."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from conftest import small_config
from run_script import run_script

from vaejax import config as config_lib
from vaejax.comparison import csv_table
from vaejax.data import levels, recipes, sources, splits
from vaejax.errors import UserError
from vaejax.evaluation import means, summary
from vaejax.training import programs

MASS = {"dataset__binarization": "none", "model__likelihood": "discretized_logistic"}
DENSITY = {"dataset__binarization": "none", "model__likelihood": "continuous_bernoulli"}
COLOURS = np.random.default_rng(0).integers(0, 256, (30, 4, 3, 3), np.uint8)


@pytest.mark.parametrize("count", [2, 3, 17, 32, 255, 256])
def test_quantising_makes_bins_of_one_width(count):
    found = levels.quantize(np.arange(256, dtype=np.uint8), count)
    np.testing.assert_array_equal(found, np.floor(np.arange(256) / 256 * count))
    sizes = np.bincount(found)
    assert len(sizes) == count
    assert sizes.max() - sizes.min() <= 1
    assert found.dtype == np.uint8


def test_the_digits_have_17_levels():
    stored = sources.load("digits", "train").images
    np.testing.assert_array_equal(levels.quantize(stored, 17), np.round(stored * (16 / 255)))


def test_noise_fills_the_step_to_the_next_level_and_no_more():
    """The whole part of levels * x is the level again, and the rest is uniform."""
    images = np.tile(np.arange(256, dtype=np.uint8), (400, 1))
    for count in (256, 32, 5):
        whole = images[:, :count]
        x = np.asarray(levels.dequantized(jax.random.key(0), whole, count), np.float64)
        assert x.min() >= 0.0
        assert x.max() < 1.0
        rest = x * count - whole
        assert rest.min() > -1e-5
        assert rest.max() < 1.0
        error = math.sqrt(1 / 12 / rest.size)
        assert abs(rest.mean() - 0.5) < 4 * error + 1e-5
        assert abs((rest**2).mean() - 1 / 3) < 4 * error + 1e-5


@pytest.mark.parametrize(
    ("options", "kind", "values", "dtype"),
    [
        (MASS, "levels", "whole numbers 0..255", np.uint8),
        (MASS | {"dataset__levels": 32}, "levels", "whole numbers 0..31 of 256 levels", np.uint8),
        (DENSITY, "real", "level / 255", np.float32),
        (DENSITY | {"dataset__levels": 5}, "real", "level / 4 of 256 levels", np.float32),
        (
            DENSITY | {"dataset__dequantize": True, "dataset__levels": 5},
            "real",
            "(level 0..4 of 256 levels + u) / 5, u fixed (seed 0)",
            np.float32,
        ),
        ({}, "binary", "0 and 1", np.uint8),
    ],
)
def test_the_likelihood_says_what_becomes_of_levels(options, kind, values, dtype):
    config = small_config(**options)
    data, test = splits.training_data(config), splits.held_out(config, "test")
    assert (test.kind, test.values, test.x.dtype) == (kind, values, dtype)
    x = recipes.prepare(jax.random.key(0), data.images, recipes.of(config, data.kind))
    assert x.dtype == np.float32
    assert data.spec.levels == config.dataset.levels
    error = x.std(axis=0) / math.sqrt(len(x)) + 2e-4  # a pixel of 1 in 2,000 may never be drawn
    np.testing.assert_array_less(abs(data.spec.mean - x.mean(axis=0)), 4 * error)
    most = data.spec.levels - 1 if kind == "levels" else 1
    assert x.max() == pytest.approx(most, abs=1e-3)


def test_noise_is_fresh_in_training_and_fixed_in_evaluation():
    config = small_config(**DENSITY, dataset__dequantize=True)
    other = small_config(**DENSITY, dataset__dequantize=True, dataset__binarization_seed=1)
    first, again = (splits.held_out(config, "test") for _ in range(2))
    assert first.sha256 == again.sha256
    assert first.sha256 != splits.held_out(other, "test").sha256
    assert first.sha256 != splits.held_out(small_config(**DENSITY), "test").sha256
    data = splits.training_data(config)
    recipe = recipes.of(config, data.kind)
    draws = [recipes.prepare(jax.random.key(i), data.images[:50], recipe) for i in range(2)]
    assert (draws[0] != draws[1]).mean() > 0.99
    grey = np.full((50, 8, 8), 128, np.uint8)
    given = sources.from_arrays(np.concatenate([grey, grey]), grey)
    config = small_config(
        **DENSITY,
        dataset__dequantize=True,
        dataset__num_validation=50,
        training__batch_size=10,
    )
    x = [splits.held_out(config, split, given=given).x for split in splits.SPLITS]
    for one, two in ((0, 1), (0, 2), (1, 2)):  # no split shares its noise with another
        assert abs(np.corrcoef(x[one].ravel(), x[two].ravel())[0, 1]) < 4 / math.sqrt(50 * 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset__levels": 32},
            r"dataset.levels: has no effect on 0/1 pixels \(dataset.binarization='dynamic'\)",
        ),
        ({"dataset__dequantize": True}, "dataset.dequantize: has no effect on 0/1 pixels"),
        (MASS | {"dataset__dequantize": True}, "dataset.dequantize: is for densities, .* is a ma"),
        (MASS | {"dataset__levels": 1}, r"dataset.levels: must be .* >= 2 and <= 256, got 1"),
        (MASS | {"dataset__levels": 300}, r"dataset.levels: must be .* >= 2 and <= 256, got 300"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(UserError, match=message) as error:
        small_config(**options)
    assert "\n" not in str(error.value)


BITS = (COLOURS > 127).astype(np.uint8)
REALS = COLOURS / 255.0


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (COLOURS, {"model__likelihood": "bernoulli"}, "'none' gives grey levels, .* needs 0 or 1"),
        (REALS, {"model__likelihood": "bernoulli"}, "'none' gives numbers between 0 and 1"),
        (BITS, MASS, "is a mass over grey or colour levels, and x is 0 or 1"),
        (BITS, DENSITY, "is a density, and x is 0 or 1"),
        (COLOURS, MASS | {"dataset__binarization": "dynamic"}, "is a mass over grey or colour"),
        (REALS, MASS, "is a mass over whole numbers, and the images .* store grey levels"),
        (REALS, DENSITY | {"dataset__dequantize": True}, "dataset.dequantize: needs images of who"),
        (BITS, MASS | {"dataset__levels": 9}, "dataset.levels: needs .*, those of '.*' are binary"),
        (
            COLOURS[..., :2],
            MASS | {"model__likelihood": "discretized_logistic_mixture"},
            r"needs images \[H, W, C\] of 1 or 3 channels, got \(4, 3, 2\)",
        ),
    ],
)
def test_a_likelihood_that_does_not_fit_the_data_is_one_line(tmp_path, images, options, message):
    path = tmp_path / "images.npz"
    np.savez(path, train=images, test=images[:5])
    fields = {"dataset__name": str(path), "dataset__num_validation": 0, "training__batch_size": 2}
    config = small_config(**{"dataset__binarization": "none"} | fields | options)
    with pytest.raises(UserError, match=message) as error:
        programs.set_up(config)
    assert "\n" not in str(error.value)


def test_bits_per_dim_are_those_of_the_mass_per_value():
    assert means.bits_per_dim(-64 * math.log(16), 64) == pytest.approx(4.0)
    row = summary.row(np.array([-3.0, -5.0]), np.zeros(2), "exact", num_dims=2)
    assert row.value_bits_per_dim == pytest.approx(2 / math.log(2))
    assert summary.row(np.zeros(2), np.zeros(2), "exact").value_bits_per_dim is None


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A colour mixture and a density, trained on a file of colour images and evaluated."""
    folder = tmp_path_factory.mktemp("levels")
    np.savez(folder / "colours.npz", train=COLOURS, test=COLOURS[:8] // 2)
    common = [
        f"--config.dataset.name={folder / 'colours.npz'}",
        "--config.dataset.binarization=none",
        "--config.dataset.num_validation=5",
        "--config.training.num_epochs=2",
        "--config.training.batch_size=5",
        "--config.model.encoder=mlp(hidden_dims=(4,))",
        "--config.dataset.levels=8",
        "--config=configs/digits.py",
    ]
    kinds = {
        "mass": ["--config.model.likelihood=discretized_logistic_mixture(num_components=2)"],
        "density": ["--config.model.likelihood=normal", "--config.dataset.dequantize"],
    }
    found = {}
    for name, flags in kinds.items():
        trained = run_script("train.py", f"--workdir={folder / name}", *common, *flags)
        assert trained.code == 0, trained.err
        found[name] = run_script("evaluate.py", f"--workdir={folder / name}", "--num_samples=10")
        assert found[name].code == 0, found[name].err
    return folder, found


def test_an_evaluation_of_levels_gives_bits_per_dim(evaluated):
    folder, found = evaluated
    assert "bits/dim" in found["mass"].out
    assert "x: whole numbers 0..7 of 256 levels; D = 36" in found["mass"].out
    result = json.loads((folder / "mass" / "evaluation.json").read_text())
    rows, protocol = result["estimates"], result["protocol"]
    assert (protocol["num_dims"], protocol["values"]) == (36, "whole numbers 0..7 of 256 levels")
    for name in ("elbo", "iwae_10"):
        expected = -rows[name]["value"] / (36 * math.log(2))
        assert rows[name]["value_bits_per_dim"] == pytest.approx(expected)
        assert expected < 4.5  # log2(8) = 3 is that of uniform levels
    assert "value_bits_per_dim" not in rows["kl"]
    assert "bits/dim" not in found["density"].out
    other = json.loads((folder / "density" / "evaluation.json").read_text())
    assert "num_dims" not in other["protocol"]
    assert "value_bits_per_dim" not in other["estimates"]["elbo"]


def test_a_mass_and_a_density_are_never_compared(evaluated, tmp_path):
    folder, _ = evaluated
    paths = [str(folder / name) for name in ("mass", "density")]
    refused = run_script("compare.py", f"--out={tmp_path}", *paths)
    assert refused.code == 2
    assert "values is 'whole numbers 0..7 of 256 levels' in mass" in refused.err
    one = run_script("compare.py", f"--out={tmp_path}", paths[0])
    assert one.code == 0, one.err
    assert "per dim" in one.out
    assert "| bits per dim |" in (tmp_path / "comparison.md").read_text()
    header, *rows = (tmp_path / "comparison.csv").read_text().splitlines()
    assert header.split(",") == list(csv_table.COLUMNS)
    column = header.split(",").index("value_bits_per_dim")
    result = json.loads((folder / "mass" / "evaluation.json").read_text())
    expected = result["estimates"]["elbo"]["value_bits_per_dim"]
    assert float(rows[0].split(",")[column]) == pytest.approx(expected, rel=1e-6)


def test_levels_are_part_of_what_a_run_is():
    config = small_config(**DENSITY)
    for change in ({"levels": 32}, {"dequantize": True}):
        other = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, **change))
        (name,) = change
        assert [d.split(":")[0] for d in config_lib.differences(config, other)] == [
            f"dataset.{name}"
        ]

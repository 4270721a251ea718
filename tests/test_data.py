"""Images from disk to x: loading, splits, binarisation, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import small_config
from image_arrays import LEVELS, file_config

from vaejax import keys
from vaejax.data import binarization, prepared, recipes, splits
from vaejax.data import sources as datasets
from vaejax.errors import UserError


def _prepare(root, name, examples, *, shape=(2, 2, 1), dtype=np.uint8, feature="image"):
    """Writes a TFDS dataset of `examples` (split -> list of images) and returns `root`."""

    def info(self):
        features = {feature: tfds.features.Tensor(shape=shape, dtype=dtype)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def rows(images):
        for index, image in enumerate(images):
            yield index, {feature: image}

    builder_class = type(
        name.title(),
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version("1.0.0"),
            "name": name,
            "_info": info,
            "_split_generators": lambda self, _: {s: rows(i) for s, i in examples.items()},
            "_generate_examples": None,
            "__module__": __name__,
        },
        skip_registration=True,
    )
    builder = builder_class(data_dir=str(root), file_format="array_record")
    builder.download_and_prepare()
    return root


def test_digits_are_scikit_learns_digits():
    from sklearn.datasets import load_digits

    train, test = (datasets.load("digits", split).images for split in ("train", "test"))
    assert train.shape == (1437, 8, 8, 1)
    assert test.shape == (360, 8, 8, 1)
    ours = np.concatenate([train, test]).reshape(1797, 64)
    theirs = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


def test_mnist_is_read_without_tensorflow(mnist_directory):
    import sys

    images, kind = datasets.load("mnist", "test[:100]", data_dir=str(mnist_directory))
    assert kind == "levels"
    assert images.shape == (100, 28, 28, 1)
    assert images.dtype == np.uint8
    assert images.max() == 255
    assert "tensorflow" not in sys.modules


def test_any_prepared_dataset_is_found_by_name_newest_version_first(tmp_path):
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    _prepare(tmp_path, "squares", {"train": [image]})
    shutil.copytree(tmp_path / "squares" / "1.0.0", tmp_path / "squares" / "0.9.0")
    np.testing.assert_array_equal(
        datasets.load("squares", "train", data_dir=str(tmp_path)).images, [image]
    )


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("fashion_mnist", "train", r"prepare it with: pip install -e '\.\[prepare\]'"),
        ("digit", "train", "did you mean 'digits'"),
        ("digits", "tset", "did you mean 'test'"),
        ("digits", "train[:0]", "is empty"),
        ("digits", "train[:2%", r"split of dataset 'digits': 'train\[:2%'"),
    ],
)
def test_what_cannot_be_loaded_is_explained(name, split, message):
    with pytest.raises(UserError, match=message):
        datasets.load(name, split)


def test_images_of_changing_shape_are_refused(tmp_path):
    images = [np.zeros((2, 2, 1), np.uint8), np.zeros((3, 2, 1), np.uint8)]
    _prepare(tmp_path, "ragged", {"train": images}, shape=(None, 2, 1))
    with pytest.raises(UserError, match=r"change shape \(\(2, 2, 1\), \(3, 2, 1\)\)"):
        datasets.load("ragged", "train", data_dir=str(tmp_path))


def test_floats_above_one_are_refused(tmp_path):
    image = np.full((2, 2, 1), 255, np.float32)
    _prepare(tmp_path, "floats", {"train": [image]}, dtype=np.float32)
    with pytest.raises(UserError, match=r"must lie in \[0, 1\], got 255..255; scale them"):
        datasets.load("floats", "train", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("shape", "dtype", "value", "message"),
    [
        ((), np.uint8, np.uint8(3), "feature 'image' needs arrays of numbers, has int"),
        ((4,), np.uint8, np.zeros(4, np.uint8), r"needs images of shape .*, got \(1, 4\)"),
        ((), np.str_, "a text", "feature 'image' needs arrays of numbers, has bytes"),
        ((2, 0, 1), np.uint8, np.zeros((2, 0, 1), np.uint8), "is empty, shape"),
    ],
)
def test_features_that_are_no_images_are_refused(tmp_path, shape, dtype, value, message):
    _prepare(tmp_path, "odd", {"train": [value]}, shape=shape, dtype=dtype)
    with pytest.raises(UserError, match=message) as error:
        datasets.load("odd", "train", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_dataset_without_images_is_refused(tmp_path):
    image = np.zeros((2, 2, 1), np.uint8)
    _prepare(tmp_path, "texts", {"train": [image]}, feature="text")
    with pytest.raises(UserError, match="needs a feature 'image', has text"):
        datasets.load("texts", "train", data_dir=str(tmp_path))


def test_an_empty_dataset_is_refused(tmp_path):
    image = np.zeros((2, 2, 1), np.uint8)
    _prepare(tmp_path, "hollow", {"train": [image]})
    path = tmp_path / "hollow" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"] = ["0"]
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="is empty"):
        datasets.load("hollow", "train", data_dir=str(tmp_path))


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_a_damaged_dataset_is_named(tmp_path, share):
    images = list(np.random.default_rng(0).integers(0, 256, (500, 8, 8, 1), np.uint8))
    _prepare(tmp_path, "broken", {"train": images}, shape=(8, 8, 1))
    (record,) = (tmp_path / "broken" / "1.0.0").glob("*array_record*")
    content = record.read_bytes()
    record.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="broken") as error:
        datasets.load("broken", "train", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_binarisation_has_the_right_probability_for_every_intensity():
    images = np.tile(np.arange(256, dtype=np.uint8), (4000, 1))
    draws = np.asarray(jax.jit(binarization.sample)(jax.random.key(0), images))
    probability = np.arange(256) / 255
    error = np.sqrt(probability * (1 - probability) / 4000)
    assert (abs(draws.mean(axis=0) - probability) <= 4.5 * error).all()
    assert not draws[:, 0].any()
    assert draws[:, 255].all()


def test_binarisation_is_independent_between_pixels():
    images = np.full((20_000, 2), 128, np.uint8)
    draws = np.asarray(jax.jit(binarization.sample)(jax.random.key(0), images)).astype(float)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 4 / np.sqrt(20_000)


def test_an_odd_number_of_pixels_is_binarised():
    images = np.full((3, 5), 255, np.uint8)
    assert np.asarray(binarization.sample(jax.random.key(0), images)).all()


def test_held_out_data_is_fixed_and_hashed():
    """The hash is part of every published number: it must not drift between versions."""
    first, again = (splits.held_out(small_config(), "test") for _ in range(2))
    other = splits.held_out(small_config(dataset__binarization_seed=1), "test")
    np.testing.assert_array_equal(first.x, again.x)
    assert set(np.unique(first.x)) == {0, 1}
    assert first.sha256.startswith("287c45e40abf090d")
    assert other.sha256 != first.sha256


def test_validation_is_cut_from_train_and_test_is_untouched():
    config = small_config(dataset__binarization="none", model__likelihood="normal")
    data = splits.training_data(config)
    assert (data.kind, data.validation.kind) == ("levels", "real")
    assert data.validation.x.shape == (37, 8, 8, 1)
    parts = [data.images / np.float32(255), data.validation.x]
    whole = datasets.load("digits", "train").images / np.float32(255)
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)
    np.testing.assert_allclose(data.spec.mean, data.images.mean(axis=0) / 255.0)
    np.testing.assert_allclose(splits.held_out(config, "validation").x, data.validation.x)
    np.testing.assert_allclose(splits.held_out(config, "train").x, parts[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dataset__num_validation": 1437}, "must leave training images, got 1437 of 1437"),
        ({"training__batch_size": 1401}, "at most the 1400 training images, got 1401"),
    ],
)
def test_splits_that_leave_nothing_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        splits.training_data(small_config(**overrides))


@pytest.mark.parametrize(
    ("split", "message"), [("tets", "did you mean 'test'"), ("validation", "is empty")]
)
def test_bad_evaluation_splits_are_refused(split, message):
    with pytest.raises(UserError, match=message):
        splits.held_out(small_config(dataset__num_validation=0), split)


def test_static_is_one_draw_and_threshold_none():
    options = {"dataset__num_validation": 37}
    static = splits.training_data(small_config(dataset__binarization="static", **options))
    again = splits.held_out(small_config(dataset__binarization="static", **options), "train")
    other = small_config(dataset__binarization="static", dataset__binarization_seed=1, **options)
    assert static.kind == "binary"
    assert set(np.unique(static.images)) == {0, 1}
    np.testing.assert_array_equal(static.images, again.x)
    assert (splits.training_data(other).images != static.images).any()
    np.testing.assert_allclose(static.spec.mean, static.images.mean(axis=0))

    raw = datasets.load("digits", "train").images
    threshold = splits.training_data(small_config(dataset__binarization="threshold", **options))
    np.testing.assert_array_equal(threshold.images, raw[:1400] > 127)
    np.testing.assert_array_equal(threshold.validation.x, raw[1400:] > 127)
    assert threshold.validation.binarization == "threshold"
    hashes = {
        choice: splits.held_out(small_config(dataset__binarization=choice), "test").sha256[:8]
        for choice in ("dynamic", "static", "threshold")
    }
    assert hashes["dynamic"] == hashes["static"] == "287c45e4"
    assert hashes["threshold"] != hashes["static"]


@pytest.mark.parametrize("kind", ["levels", "real"])
def test_prepare_makes_x_of_every_kind(kind):
    images = np.tile(np.array([0, 51, 153, 255], np.uint8), (4000, 1))
    images = images if kind == "levels" else (images / 255).astype(np.float32)
    made = {
        choice: np.asarray(
            jax.jit(recipes.prepare, static_argnames="recipe")(
                jax.random.key(0),
                images,
                recipe=recipes.Recipe(kind, "real" if choice == "none" else "binary", choice),
            )
        )
        for choice in binarization.CHOICES
    }
    assert {x.dtype for x in made.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(made["none"][0], [0, 0.2, 0.6, 1], rtol=1e-6)
    np.testing.assert_array_equal(made["threshold"][0], [0, 0, 1, 1])
    for choice in ("dynamic", "static"):
        assert set(np.unique(made[choice])) == {0, 1}
        np.testing.assert_allclose(made[choice].mean(axis=0), [0, 0.2, 0.6, 1], atol=0.035)


def test_validation_and_test_share_no_noise_by_position(tmp_path):
    """Equal images in equal places: the same noise would give the same x."""
    path = tmp_path / "images.npz"
    grey = np.full((50, 8, 8), 128, np.uint8)
    np.savez(path, train=np.concatenate([grey, grey]), test=grey)
    config = file_config(path, dataset__num_validation=50)
    x = {split: splits.held_out(config, split).x for split in splits.SPLITS}
    for one, other in (("validation", "test"), ("train", "test"), ("train", "validation")):
        assert abs((x[one] == x[other]).mean() - 0.5) < 0.05


def test_keys_of_purposes_differ_from_each_other_and_from_keys_by_position():
    seed = 3
    names = [f"binarization/{split}" for split in splits.SPLITS] + ["steps", "init"]
    found = [jax.random.key_data(keys.domain(seed, name)).tolist() for name in names]
    key = jax.random.key(seed)
    found += jax.random.key_data(jax.random.split(key, 1000)).tolist()
    assert len({tuple(item) for item in found}) == len(found)
    traced = jax.jit(lambda seed: jax.random.key_data(keys.domain(seed, "steps")))(seed)
    assert traced.tolist() == found[3]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train_split": "test"}, "train_split: 'test' and dataset.test_split='test' have 360"),
        ({"train_split": "train+test[:3]"}, "test_split='test' have 3 images in common"),
        ({"test_split": "train[99%:]"}, r"train_split: 'train' .* have 14 images in common"),
        (
            {"validation_split": "train[:5]", "num_validation": 0},
            "train_split: 'train' and dataset.validation_split=.* have 5 images",
        ),
        (
            {"validation_split": "test[:5]", "num_validation": 0},
            r"validation_split: 'test\[:5\]' and dataset.test_split='test' have 5 images",
        ),
        (
            {"validation_split": "train[1000:]", "train_split": "train[:1000]"},
            "num_validation: must be 0 with dataset.validation_split='train.1000:.', .* got 37",
        ),
        ({"validation_split": "validation"}, "validation_split of 'digits': unknown 'validation'"),
    ],
)
def test_splits_with_images_in_common_are_refused(overrides, message):
    config = small_config(**{f"dataset__{key}": value for key, value in overrides.items()})
    for read in (splits.training_data, lambda config: splits.held_out(config, "validation")):
        with pytest.raises(UserError, match=message):
            read(config)


def test_a_split_of_its_own_can_be_validated_on(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, train=LEVELS, test=LEVELS[:4], validation=LEVELS[4:9])
    data = splits.training_data(file_config(path, dataset__validation_split="validation"))
    assert (len(data.images), len(data.validation.x)) == (20, 5)


def test_arrays_from_python_are_a_data_set():
    given = datasets.from_arrays(LEVELS, LEVELS[:4], LEVELS[4:6])
    config = file_config("unused", dataset__validation_split="validation")
    data = splits.training_data(config, given=given)
    assert data.images.shape == (20, 4, 3, 1)
    assert data.spec.mean.shape == data.spec.shape == (4, 3, 1)
    assert splits.held_out(config, "test", given=given).x.shape == (4, 4, 3, 1)
    assert LEVELS.flags.writeable  # the caller's own array stays theirs
    with pytest.raises(UserError, match="from_arrays: test: needs images of shape"):
        datasets.from_arrays(LEVELS, LEVELS[0, 0])


def test_a_read_only_data_directory_falls_back_to_the_users_own(tmp_path, monkeypatch, capsys):
    shared, home = tmp_path / "shared", tmp_path / "home"
    prepare = prepared._prepare

    def read_only(name, root):
        if root == shared:
            raise PermissionError(13, "Permission denied", str(root))
        prepare(name, root)

    monkeypatch.setattr(prepared, "_prepare", read_only)
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared))
    monkeypatch.setenv("HOME", str(home))
    for _ in range(2):
        assert len(datasets.load("digits", "test").images) == 360
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert f"{shared} cannot be written; 'digits' is prepared under {home}" in said


def test_a_home_that_cannot_be_found_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="stands for no home that can be found"):
        datasets.load("mnist", "test", data_dir="~nosuchuser/data")

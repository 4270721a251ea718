"""Images from disk to x: loading, splits, binarisation, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import small_config

from vaejax.data import binarization, splits
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

    train, test = datasets.load("digits", "train"), datasets.load("digits", "test")
    assert train.shape == (1437, 8, 8, 1)
    assert test.shape == (360, 8, 8, 1)
    ours = np.concatenate([train, test]).reshape(1797, 64)
    theirs = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


def test_mnist_is_read_without_tensorflow(mnist_directory):
    import sys

    images = datasets.load("mnist", "test[:100]", data_dir=str(mnist_directory))
    assert images.shape == (100, 28, 28, 1)
    assert images.dtype == np.uint8
    assert images.max() == 255
    assert "tensorflow" not in sys.modules


def test_any_prepared_dataset_is_found_by_name_newest_version_first(tmp_path):
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    _prepare(tmp_path, "squares", {"train": [image]})
    shutil.copytree(tmp_path / "squares" / "1.0.0", tmp_path / "squares" / "0.9.0")
    np.testing.assert_array_equal(
        datasets.load("squares", "train", data_dir=str(tmp_path)), [image]
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


def test_images_that_are_not_uint8_are_refused(tmp_path):
    _prepare(tmp_path, "floats", {"train": [np.zeros((2, 2, 1), np.float32)]}, dtype=np.float32)
    with pytest.raises(UserError, match="needs uint8 images, has float32"):
        datasets.load("floats", "train", data_dir=str(tmp_path))


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


def test_a_damaged_dataset_is_named(tmp_path):
    _prepare(tmp_path, "broken", {"train": [np.zeros((2, 2, 1), np.uint8)] * 50})
    (record,) = (tmp_path / "broken" / "1.0.0").glob("*array_record*")
    record.write_bytes(record.read_bytes()[:20])
    with pytest.raises(UserError, match="broken"):
        datasets.load("broken", "train", data_dir=str(tmp_path))


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
    parts = [data.images / np.float32(255), data.validation.x]
    whole = datasets.load("digits", "train").reshape(1437, 64) / np.float32(255)
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

"""Images from disk to x: loading, splits, binarisation, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import small_config

from vaejax import keys
from vaejax.data import binarization, prepared, recipes, slices, splits
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


LEVELS = np.random.default_rng(0).integers(0, 256, (20, 4, 3), np.uint8)
BITS = (LEVELS > 127).astype(np.uint8)


def file_config(path, **overrides):
    """A config of the images in a file."""
    values = {
        "dataset__name": str(path),
        "dataset__num_validation": 0,
        "training__batch_size": 2,
    }
    return small_config(**values | overrides)


@pytest.mark.parametrize(
    ("train", "kind", "dtype"),
    [
        (LEVELS, "levels", np.uint8),
        (LEVELS.astype(np.int64)[..., None], "levels", np.uint8),
        (np.repeat(LEVELS[..., None], 3, -1), "levels", np.uint8),
        (BITS, "binary", np.uint8),
        (BITS.astype(bool), "binary", np.uint8),
        (BITS.astype(np.float32), "binary", np.uint8),
        (LEVELS / 255, "real", np.float32),
        (LEVELS.astype(np.float16) / 255, "real", np.float32),
        (np.zeros_like(LEVELS), "levels", np.uint8),
    ],
)
def test_a_file_of_images_gives_its_kind(tmp_path, train, kind, dtype):
    path = tmp_path / "images.npz"
    np.savez(path, train=train, test=train[:5], labels=np.array(["a"]))
    source = datasets.load(str(path), "train")
    assert (source.kind, source.images.dtype) == (kind, dtype)
    assert source.images.shape == (20, 4, 3, train.shape[3] if train.ndim == 4 else 1)
    np.testing.assert_allclose(source.images.reshape(train.shape), train, atol=1e-7)
    assert len(datasets.load(str(path), "test").images) == 5
    assert datasets.sizes(str(path)) == {"train": 20, "test": 5}
    with pytest.raises(ValueError, match="read-only"):
        source.images[0] = 1


def test_black_images_do_not_change_the_kind_of_their_data_set():
    found = datasets.from_arrays(BITS, np.zeros_like(BITS), BITS[:2])
    assert {source.kind for source in found.values()} == {"binary"}
    found = datasets.from_arrays(LEVELS, BITS)
    assert {source.kind for source in found.values()} == {"levels"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": LEVELS}, "needs arrays 'train' and 'test', holds none of them"),
        ({"train": np.array([{}, None])}, "holds Python objects, which are never loaded"),
        ({"train": LEVELS - 300.0}, r"must lie in \[0, 1\], got -300..-45"),
        ({"train": LEVELS.astype(int) * 2}, "whole numbers must be 0..255, got 0..5"),
        ({"train": LEVELS.astype(int) - 9}, "whole numbers must be 0..255, got -9"),
        ({"train": np.where(LEVELS > 3, np.nan, 0.5)}, "must be finite, got NaN"),
        ({"train": np.where(LEVELS > 3, np.inf, 0.5)}, "must be finite, got NaN"),
        ({"train": np.float32(0.5)}, r"needs images of shape .*, got \(\)"),
        ({"train": LEVELS.reshape(20, -1)}, r"needs images of shape .*, got \(20, 12\)"),
        ({"train": np.array([["a"]])}, "needs numbers .*, got <U1"),
        ({"train": LEVELS + 0j}, "needs numbers .*, got complex128"),
        ({"train": LEVELS[:0]}, r"is empty, shape \(0, 4, 3\)"),
        ({"train": LEVELS[:, :0]}, r"is empty, shape \(20, 0, 3\)"),
        ({"train": LEVELS, "test": LEVELS[:, 1:]}, "images of one shape, got train .*, test"),
        ({"train": LEVELS, "test": LEVELS / 255}, "got train uint8, test float64"),
    ],
)
def test_files_that_hold_no_images_are_refused(tmp_path, arrays, message):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=f"images.npz.*{message}") as error:
        datasets.load(str(path), "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: b"", "is empty"),
        (lambda whole: b"hello, world", "is neither a .npz nor a .npy file"),
        (lambda whole: whole[: len(whole) // 2], "cannot be read"),
        (lambda whole: whole[:200] + bytes(9) + whole[209:], "cannot be read"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, content, message):
    path = tmp_path / "images.npz"
    np.savez_compressed(path, train=LEVELS, test=LEVELS)
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        datasets.load(str(path), "train")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path):
    np.savez(tmp_path / "images.npz", train=LEVELS)
    with pytest.raises(UserError, match=r"no file .*imges.npz'; did you mean 'images.npz'"):
        datasets.load(str(tmp_path / "imges.npz"), "train")
    with pytest.raises(UserError, match="no file"):
        datasets.load("~nosuchuser/a.npz", "train")
    assert datasets.load("images.npz", "train", data_dir=str(tmp_path)).kind == "levels"


def test_a_single_array_is_called_train(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, LEVELS)
    assert len(datasets.load(str(path), "train[:80%]").images) == 16
    np.testing.assert_array_equal(
        datasets.load(str(path), "train[-4:]").images[..., 0], LEVELS[16:]
    )
    with pytest.raises(UserError, match=r"unknown 'test'.*legal: train"):
        datasets.load(str(path), "test")
    with pytest.raises(UserError, match="is empty"):
        datasets.load(str(path), "train[20:]")
    data = splits.training_data(
        file_config(path, dataset__train_split="train[:16]", dataset__test_split="train[80%:]")
    )
    assert data.images.shape == (16, 4, 3, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train", [("train", 0, 10)]),
        ("train[:3]", [("train", 0, 3)]),
        ("train[3:]", [("train", 3, 10)]),
        ("train[-3:-1]", [("train", 7, 9)]),
        ("train[25%:75%]", [("train", 2, 8)]),
        ("train[5:2]", [("train", 5, 5)]),
        ("train[:99]+test", [("train", 0, 10), ("test", 0, 4)]),
    ],
)
def test_slices_are_those_of_tfds(text, expected):
    assert slices.parse(text, {"train": 10, "test": 4}, where="split") == expected


@pytest.mark.parametrize("text", ["train[", "train[a:b]", "train[3]", "train[::2]", "train[:_]"])
def test_texts_that_are_no_slices_are_refused(text):
    with pytest.raises(UserError, match="split: needs a split or a slice like train"):
        slices.parse(text, {"train": 10}, where="split")


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, train=LEVELS)
    first, again = (datasets.load(str(path), "train").images for _ in range(2))
    assert np.shares_memory(first, again)
    np.savez(path, train=LEVELS[:7])
    assert len(datasets.load(str(path), "train").images) == 7


def test_prepared_images_are_decoded_once():
    first, again = (datasets.load("digits", "train").images for _ in range(2))
    assert np.shares_memory(first, again)
    assert not first.flags.writeable


def test_images_that_are_binary_already_are_never_scaled(mnist_directory):
    source = datasets.load("binarized_mnist", "test[:50]", data_dir=str(mnist_directory))
    assert source.kind == "binary"
    options = {
        "dataset__name": "binarized_mnist",
        "dataset__data_dir": str(mnist_directory),
        "dataset__train_split": "train[:300]",
        "dataset__test_split": "test[:50]",
    }
    with pytest.raises(UserError, match=r"are 0 and 1 already.*set dataset.binarization=none, got"):
        splits.training_data(small_config(**options))
    config = small_config(**options, dataset__binarization="none")
    data, test = splits.training_data(config), splits.held_out(config, "test")
    x = recipes.prepare(jax.random.key(0), data.images, recipes.of(config, data.kind))
    assert set(np.unique(x)) == {0.0, 1.0}
    assert set(np.unique(test.x)) == {0, 1}
    assert (data.kind, test.kind, test.binarization) == ("binary", "binary", "none")
    np.testing.assert_array_equal(test.x, source.images)
    np.testing.assert_allclose(data.spec.mean, x.mean(axis=0), rtol=1e-5)
    splits.check_likelihood(config, data.kind, wanted="binary")


def test_a_bernoulli_likelihood_needs_binary_x():
    config = small_config(dataset__binarization="none", model__likelihood="normal")
    splits.check_likelihood(config, "levels", wanted="real")
    for kind, words in (("levels", "grey levels"), ("real", "numbers between 0 and 1")):
        with pytest.raises(UserError, match=f"'none' gives {words}, .* needs 0 or 1"):
            splits.check_likelihood(config, kind, wanted="binary")
        splits.check_likelihood(small_config(), kind, wanted="binary")


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

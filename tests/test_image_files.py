"""Images from .npz and .npy files: their kind, their slices, and what is refused."""

import jax
import numpy as np
import pytest
from conftest import small_config
from image_arrays import BITS, LEVELS, file_config

from vaejax.data import recipes, slices, splits
from vaejax.data import sources as datasets
from vaejax.errors import UserError


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

"""One key domain per purpose: no two purposes ever use the same random numbers."""

import jax
import numpy as np
from conftest import small_config

from vaejax import keys
from vaejax.evaluation import per_example
from vaejax.training import step as training

COUNT = 2000


def _rows(key):
    """The key itself, and those of its first positions: fold_in and split give the same ones."""
    positions = jax.vmap(lambda index: jax.random.fold_in(key, index))(np.arange(COUNT))
    return [bytes(row) for row in np.asarray(jax.random.key_data(positions))] + [
        bytes(np.asarray(jax.random.key_data(key)))
    ]


def test_training_and_evaluation_share_no_key_at_equal_seeds():
    """In the first edition the first examples were evaluated with a run's init and shuffle keys."""
    training_keys = training.make_keys(small_config(seed=0))
    every = {name: _rows(key) for name, key in training_keys._asdict().items()}
    for split in ("train", "validation", "test"):
        every[split] = _rows(per_example.key_of(0, split))
    every["seed itself"] = _rows(jax.random.key(0))
    for purpose in ("evaluation/activity", "evidence/annealed/pilot", "evidence/annealed/scored"):
        every[purpose] = _rows(keys.domain(0, purpose))
    found = [row for rows in every.values() for row in rows]
    assert len(found) == len({*found})


def test_another_seed_is_another_key():
    """Also where the seed is traced, as it is in a sweep."""
    traced = jax.jit(lambda seed: jax.random.key_data(keys.domain(seed, "a")))
    data = [np.asarray(traced(seed)) for seed in (0, 1)]
    assert (data[0] != data[1]).any()
    np.testing.assert_array_equal(data[1], jax.random.key_data(keys.domain(1, "a")))


def test_activity_of_an_example_uses_none_of_its_samples_keys():
    """Samples 0, 1, .. of an example are folded into its key; its activity has a key within."""
    example = jax.random.fold_in(per_example.key_of(0, "test"), 3)
    samples = _rows(example)
    activity = _rows(keys.within(example, "evaluation/activity"))
    assert not {*samples} & {*activity}

"""Runs, settings and spoiled values made by hand, for tests of comparisons."""

import csv
import math
import zlib

import numpy as np

from vaejax.comparison.statistics import Run, Setting

NUM_EXAMPLES = 40
DATASET_KEYS = ("num_validation", "train_split", "name", "binarization", "binarization_seed")


def make_run(name="a", *, shift=0.0, noise=0.0, seed=0, rate=0.1, **stamp):
    """A run whose ELBO of example i is h_i + shift + noise_i, and whose L_20 is 1 higher."""
    hard = 10.0 * np.random.default_rng(0).normal(size=NUM_EXAMPLES)
    own = noise * np.random.default_rng(1000 * seed + zlib.crc32(name.encode()) % 997).normal(
        size=NUM_EXAMPLES
    )
    elbo = -30.0 + hard + shift + own
    values = {"elbo": elbo, "kl": elbo, "iwae_1": elbo, "iwae_5": elbo + 0.5, "iwae_20": elbo + 1.0}
    variances = {key: np.full(NUM_EXAMPLES, 0.01) for key in values}
    stamp = {
        "dataset": "digits",
        "split": "test",
        "num_examples": NUM_EXAMPLES,
        "binarization": "fixed (seed 0)",
        "data_sha256": "abc",
        "num_samples": 20,
        "seed": 0,
        "dtype": "float32",
    } | stamp
    config = {
        "seed": seed,
        "dataset": dict.fromkeys(DATASET_KEYS, 0),
        "optimizer": {"learning_rate": rate},
        "training": {"batch_size": 10, "validation_samples": 7},
        "objective": {"num_samples": 2},
    }
    estimates = {key: {"value": float(value.mean())} for key, value in values.items()}
    result = {"protocol": stamp, "estimates": estimates}
    metrics = [
        {"step": step, "epoch": step / 2, "seconds": step * 0.5, "validation/iwae": -9.0 + step}
        for step in (1, 2, 3)
    ]
    return Run(name, config, result, values, variances, metrics)


def make_setting(name, shifts, **options):
    """A setting of one run per shift; seed i has the i-th one."""
    runs = [make_run(f"{name},seed={i}", shift=s, seed=i, **options) for i, s in enumerate(shifts)]
    return Setting(name, runs)


def spoiled(run, bound="elbo", value=math.nan):
    """The run with its first two values of a bound replaced."""
    values = run.values[bound].copy()
    values[:2] = value
    return run._replace(values={**run.values, bound: values})


def read_csv(text):
    return list(csv.DictReader(text.splitlines()))

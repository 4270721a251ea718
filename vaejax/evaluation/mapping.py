"""The one map over examples: padded, spread over the devices, in fixed memory.

Validation, evaluation, every estimator of log p(x) and the inference gaps are functions of one
example, `(params, key, x) -> results`, where example i has the key fold_in(key, i): no result
depends on batches, memory or devices beyond float32 rounding.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Num, PRNGKeyArray, PyTree

from vaejax import meshes

ExampleFunction = Callable[[PyTree, PRNGKeyArray, Float[jax.Array, "..."]], PyTree]
PRECISION = "highest"
"""Of float32 matrix products in every measurement: TF32 would cost up to nats."""
_WORK_PER_CALL = 2**20


class Budget(NamedTuple):
    """What one example costs.

    Attributes:
      rows: latent samples of it that are held in memory at once.
      max_rows: rows of all examples that may be held on one device at once.
      work: decoder evaluations it takes; a call of the program does about a million.
    """

    rows: int
    max_rows: int
    work: int


class ExampleMap(NamedTuple):
    """A compiled per-example function over many examples.

    Attributes:
      run: `(params, key, indices [E], x [E, ...]) -> results [E, ...]`.
      examples_per_call: E.
      mesh: the devices they are spread over.
      over_members: whether params have a leading axis, spread over the mesh's members.
    """

    run: Callable[..., PyTree]
    examples_per_call: int
    mesh: Mesh
    over_members: bool


def make(
    function: ExampleFunction,
    *,
    num_examples: int,
    budget: Budget,
    mesh: Mesh | None = None,
    prepare: Callable[[PyTree], PyTree] = lambda params: params,
    over_members: bool = False,
) -> ExampleMap:
    """Compiles `function` for a set of `num_examples`.

    Examples are spread over the data axis of the mesh (None: all devices); each device holds
    at most `max_rows` rows at a time. What `prepare` makes of params, once per call, is what
    `function` gets. With `over_members` params have a leading axis [M], spread over the other
    axis of the mesh, and results follow as [E, M, ...].
    """
    mesh = meshes.everywhere() if mesh is None else mesh
    num_shares = mesh.shape[meshes.DATA]
    share = math.ceil(num_examples / num_shares)
    batch = min(max(1, budget.max_rows // budget.rows), share)
    batches = min(math.ceil(share / batch), max(1, _WORK_PER_CALL // (batch * budget.work)))
    batch = math.ceil(share / (batches * math.ceil(share / (batch * batches))))
    one = jax.vmap(function, (0, None, None)) if over_members else function
    ready = jax.vmap(prepare) if over_members else prepare

    def shard(params, key_data, indices, x):
        key, params = jax.random.wrap_key_data(key_data), ready(params)

        def example(row):
            index, x = row
            return one(params, jax.random.fold_in(key, index), x)

        if batches == 1:
            return jax.vmap(example)((indices, x))
        return jax.lax.map(example, (indices, x), batch_size=batch if batch > 1 else None)

    split, whole = PartitionSpec(meshes.DATA), PartitionSpec()
    mapped = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(PartitionSpec(meshes.MEMBERS) if over_members else whole, whole, split, split),
        out_specs=PartitionSpec(meshes.DATA, meshes.MEMBERS) if over_members else split,
        check_vma=False,
    )
    compiled = jax.jit(mapped)

    def run(params, key, indices, x):
        with jax.default_matmul_precision(PRECISION):
            return compiled(params, jax.random.key_data(key), indices, x)

    return ExampleMap(run, batch * batches * num_shares, mesh, over_members)


def start(
    example_map: ExampleMap, params: PyTree, key: PRNGKeyArray, x: Num[np.ndarray, "N ..."]
) -> Iterator[Callable[[], PyTree]]:
    """Starts one call after another; each comes back as a function that waits for its results,
    for consecutive rows of x, on the host. Padding never comes out.
    """
    size = example_map.examples_per_call
    if not example_map.over_members:
        params = meshes.put(params, meshes.spread(example_map.mesh))
    split = meshes.spread(example_map.mesh, meshes.DATA)
    for first in range(0, len(x), size):
        rows = as_float(x[first : first + size])
        indices = np.arange(first, first + size, dtype=np.int32)
        # The last row again: a row of zeros may be no legal example.
        padded = np.pad(rows, ((0, size - len(rows)), *[(0, 0)] * (x.ndim - 1)), mode="edge")
        results = example_map.run(params, key, *meshes.put((indices, padded), split))
        yield functools.partial(_read, results, len(rows))


def _read(results: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:count], meshes.fetch(results))


def batches(
    example_map: ExampleMap, params: PyTree, key: PRNGKeyArray, x: Num[np.ndarray, "N ..."]
) -> Iterator[PyTree]:
    """Yields host results for consecutive rows of x; the next call runs while one is read."""
    waiting: list[Callable[[], PyTree]] = []
    for read in start(example_map, params, key, x):
        waiting.append(read)
        if len(waiting) > 1:
            yield waiting.pop(0)()
    for read in waiting:
        yield read()


def as_float(x: Num[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """x as a program takes it: whole numbers in JAX's default float, floats as they are."""
    x = np.asarray(x)
    return x if x.dtype.kind == "f" else x.astype(jax.dtypes.canonicalize_dtype(np.float64))


def concatenate(parts: list[Any]) -> PyTree:
    """Puts the parts of consecutive rows together."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def over_examples(
    example_map: ExampleMap,
    params: PyTree,
    key: PRNGKeyArray,
    x: Num[np.ndarray, "N ..."],
    *,
    done: Callable[[int], None] = lambda count: None,
) -> PyTree:
    """Results for all rows of x, [N, ...] each, on the host; `done` hears of every call."""
    parts, count = [], 0
    for part in batches(example_map, params, key, x):
        parts.append(part)
        count = min(len(x), count + example_map.examples_per_call)
        done(count)
    return concatenate(parts)

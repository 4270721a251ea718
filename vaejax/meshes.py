"""The one mesh of devices, ("members", "data"), and who lies where on it.

Runs of one program are spread over `members`, the examples of a batch over `data`. Results do
not depend on the shape of the mesh beyond float32 rounding.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from vaejax import hosts
from vaejax.errors import UserError, shown, unknown

MEMBERS, DATA = "members", "data"
_LARGEST = 2**20


class Layout(NamedTuple):
    """A mesh as somebody asked for it; None: found by itself."""

    members: int | None = None
    data: int | None = None

    @property
    def num_devices(self) -> int:
        """How many devices it needs at least."""
        return (self.members or 1) * (self.data or 1)


BY_ITSELF = Layout()


def parse(text: str) -> Layout:
    """The layout that "members:2,data:4" describes; either may be left out.

    Raises:
      UserError: an axis that does not exist, or is given twice, or a size below 1.
    """
    sizes: dict[str, int] = {}
    for item in text.split(","):
        axis, _, size = item.strip().partition(":")
        if axis not in (MEMBERS, DATA):
            raise unknown("--mesh", axis, (MEMBERS, DATA))
        legal = size.isascii() and size.isdecimal() and len(size) < 8
        if axis in sizes or not legal or not 1 <= int(size) <= _LARGEST:
            raise UserError(f"--mesh: needs {axis}:N once, N from 1 on, got {shown(text)}")
        sizes[axis] = int(size)
    return Layout(**sizes)


def make(members: int, data: int) -> Mesh:
    """The first members * data devices as a mesh; of several hosts, as many of each one."""
    by_host: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        by_host.setdefault(device.process_index, []).append(device)
    share = members * data // len(by_host)
    devices = [device for own in by_host.values() for device in own[:share]]
    return jax.make_mesh((members, data), (MEMBERS, DATA), (AxisType.Auto,) * 2, devices=devices)


def everywhere() -> Mesh:
    """All devices along `data`: where examples are evaluated."""
    return make(1, jax.device_count())


def choose(layout: Layout, *, num_members: int, batch_size: int) -> Mesh:
    """The mesh for runs trained together.

    Members come first, because they need not speak to each other; what is left of the devices
    shares the batches, as far as they divide. A number of members that does not divide is
    padded. On CPU devices of one host, which are its cores, a run alone keeps to one device,
    whose products use all cores, unless `layout` says otherwise. Of several hosts each takes
    part with as many devices as the others.

    Raises:
      UserError: `layout` wants more devices than there are, or does not divide the batch, or
        the hosts cannot share the work evenly.
    """
    count, num_hosts = jax.device_count(), jax.process_count()
    if (layout.members or 1) * (layout.data or 1) > count:
        raise UserError(
            f"--mesh: needs {layout.members or 1} x {layout.data or 1} devices, there "
            f"{'is' if count == 1 else 'are'} {count}; choose at most {count} in all"
        )
    if batch_size % (layout.data or 1):
        nearest = max(d for d in range(1, layout.data) if batch_size % d == 0)
        raise UserError(
            f"--mesh: data:{layout.data} does not divide training.batch_size={batch_size}; the "
            f"nearest below that does is data:{nearest}"
        )
    on_cores = jax.default_backend() == "cpu" and num_hosts == 1
    shares = [layout.data] if layout.data else range(1, 2 if on_cores else count + 1)
    most = min(layout.members or count, num_members)
    possible = [
        (members, data)
        for members in range(most if layout.members else 1, most + 1)
        for data in shares
        if members * data <= count and batch_size % data == 0 and members * data % num_hosts == 0
    ]
    if not possible:
        raise _uneven(layout, num_hosts, batch_size)
    # Rows of the busiest device first; then as little to say to each other as possible.
    return make(*min(possible, key=lambda p: (-(-num_members // p[0]) / p[1], -p[0])))


def _uneven(layout: Layout, num_hosts: int, batch_size: int) -> UserError:
    if layout != BY_ITSELF:
        sizes = f"{layout.members or 1} x {layout.data or 1}"
        return UserError(
            f"--mesh: {sizes} devices cannot be shared evenly by {num_hosts} hosts; choose a "
            f"multiple of {num_hosts}, or leave --mesh out"
        )
    below = max(1, batch_size // num_hosts) * num_hosts
    return UserError(
        f"config.training.batch_size={batch_size} cannot be shared evenly by {num_hosts} hosts; "
        f"the nearest that can is {below if below <= batch_size else num_hosts}"
    )


def spread(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Leading dimensions over `axes`; none: whole on every device."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Arrays, of which every host has the whole, on the devices of `sharding`."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        # device_put would compare what all hosts have first, of every array of every call.
        host = np.asarray(leaf)
        host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def fetch(tree: PyTree) -> PyTree:
    """Arrays of the mesh on the host, whole, on every host; all hosts must ask together."""
    if not hosts.several():
        return jax.device_get(tree)

    def whole(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)

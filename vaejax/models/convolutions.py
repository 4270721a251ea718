"""Convolutions of one image, and their transposes, as fast on CPUs as matrix products allow.

XLA runs its own convolution 12 to 25 times slower on CPUs where it stands inside a loop, as every
training step does. There it is written as shifted views of the image, side by side, times one
matrix; `vmap` over examples makes one large matrix product of it. Accelerators get theirs.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _margins(kernel_size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after each side with which a side of n gives n / stride values."""
    total = max(kernel_size - stride, 0)
    return total // 2, total - total // 2


def _views(image: Float[Array, "H W C"], *, size: int, stride: int) -> Float[Array, "h w V"]:
    """What each place of the output sees, [h, w, size * size * C], in the kernel's order.

    Rows are numbered as (cell, row within a cell of `stride` rows), so that a view is a plain
    slice: slices with steps, and their gradients, are slower.
    """
    height, width, channels = image.shape
    rows, columns = height // stride, width // stride
    before, _ = _margins(size, stride)
    extra = -(-size // stride) - 1
    after = stride * extra - before
    cells = lax.pad(image, jnp.zeros((), image.dtype), [(before, after, 0)] * 2 + [(0, 0, 0)])
    cells = cells.reshape(rows + extra, stride, columns + extra, stride, channels)
    views = []
    for i in range(size):
        for j in range(size):
            top, left = i // stride, j // stride
            views.append(cells[top : top + rows, i % stride, left : left + columns, j % stride])
    return jnp.concatenate(views, axis=-1)


def _by_views(image, kernel, *, stride):
    size, _, _, outputs = kernel.shape
    views = _views(image, size=size, stride=stride)
    return views @ kernel.reshape(-1, outputs)


def _by_platform(image, kernel, *, stride):
    size = kernel.shape[0]
    padding = [_margins(size, stride)] * 2
    return lax.conv_general_dilated(
        image[None], kernel, (stride, stride), padding, dimension_numbers=_LAYOUT
    )[0]


def convolve(
    image: Float[Array, "H W C"], kernel: Float[Array, "K K C O"], *, stride: int = 1
) -> Float[Array, "h w O"]:
    """The cross-correlation of an image with a kernel, zeros around it, h = H / stride.

    out[p, q] = sum_ij image[stride p + i - m, stride q + j - m] kernel[i, j], with the margin
    m = floor(max(K - stride, 0) / 2): the padding that other libraries call SAME. `stride`
    divides H and W.
    """
    return lax.platform_dependent(
        image,
        kernel,
        cpu=functools.partial(_by_views, stride=stride),
        default=functools.partial(_by_platform, stride=stride),
    )


def _transposed_by_views(features, kernel, *, stride):
    height, width, inputs = features.shape
    size, _, _, outputs = kernel.shape
    like = jax.ShapeDtypeStruct((stride * height, stride * width, outputs), features.dtype)
    views = functools.partial(_views, size=size, stride=stride)
    matrix = kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
    return jax.linear_transpose(views, like)(features @ matrix)[0]


def _transposed_by_platform(features, kernel, *, stride):
    size = kernel.shape[0]
    before, _ = _margins(size, stride)
    padding = [(size - 1 - before, stride - 1 + before)] * 2
    return lax.conv_general_dilated(
        features[None],
        kernel[::-1, ::-1],
        (1, 1),
        padding,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )[0]


def convolve_transposed(
    features: Float[Array, "h w C"], kernel: Float[Array, "K K C O"], *, stride: int = 1
) -> Float[Array, "H W O"]:
    """The transpose of `convolve` as a linear map of the image, H = stride h.

    out[stride p + i - m, stride q + j - m] += features[p, q] kernel[i, j]: each input place
    adds a stamp to the output.
    """
    return lax.platform_dependent(
        features,
        kernel,
        cpu=functools.partial(_transposed_by_views, stride=stride),
        default=functools.partial(_transposed_by_platform, stride=stride),
    )

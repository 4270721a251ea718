"""Convolutions as matrix products against XLA's own, forward and backward."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.models import convolutions


def _normal(*shape):
    return jnp.asarray(np.random.default_rng(math.prod(shape)).normal(size=shape), jnp.float32)


def _xla(image, kernel, *, stride):
    layout = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(
        image[None], kernel, strides, "SAME", dimension_numbers=layout
    )[0]


def _xla_transposed(features, kernel, *, stride):
    """By the definition: what the convolution's derivative does to a cotangent."""
    height, width, _ = features.shape
    like = jnp.zeros((stride * height, stride * width, kernel.shape[-1]))
    forward = lambda image: _xla(image, kernel.swapaxes(2, 3), stride=stride)
    return jax.vjp(forward, like)[1](features)[0]


def _values_and_gradients(function, stride):
    """`function` of two arrays, and the gradients of a sum that weighs its values."""

    def loss(first, second):
        out = function(first, second, stride=stride)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def _assert_close(actual, expected, tolerance=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


CASES = [(3, 1, (5, 4)), (3, 2, (6, 4)), (4, 2, (2, 8)), (1, 2, (4, 4))]


@pytest.mark.parametrize(("size", "stride", "sides"), CASES)
def test_convolutions_are_xlas_on_every_platform(size, stride, sides):
    """Both ways of both directions: values, and gradients in the image and the kernel."""
    kernel, image = _normal(size, size, 3, 2), _normal(*sides, 3)
    expected = _values_and_gradients(_xla, stride)(image, kernel)
    for function in (convolutions.convolve, convolutions._by_platform):
        _assert_close(_values_and_gradients(function, stride)(image, kernel), expected)
    small = _normal(sides[0] // stride, sides[1] // stride, 3)
    expected = _values_and_gradients(_xla_transposed, stride)(small, kernel)
    for function in (convolutions.convolve_transposed, convolutions._transposed_by_platform):
        _assert_close(_values_and_gradients(function, stride)(small, kernel), expected)


@pytest.mark.parametrize("direction", ["convolve", "convolve_transposed"])
def test_a_batch_of_samples_is_one_matrix_product(direction):
    """Compiled for this CPU, forward and backward: no convolution, and B * K * h * w rows."""
    function = functools.partial(getattr(convolutions, direction), stride=2)
    over_all = jax.vmap(jax.vmap(function, (0, None)), (0, None))
    images, kernel = jnp.zeros((5, 7, 4, 4, 3)), jnp.zeros((3, 3, 3, 2))
    text = jax.jit(over_all).lower(images, kernel).as_text()
    assert "convolution" not in text
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 1
    assert "batching_dims" not in products[0]
    gradient = jax.jit(jax.grad(lambda *a: jnp.sum(over_all(*a) ** 2), argnums=(0, 1)))
    text = gradient.lower(images, kernel).as_text()
    assert "convolution" not in text
    assert text.count("dot_general") == 3

"""Networks: contracts of the registry, the mirror, where decoders start, what is refused."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import model_config, small_config

from vaejax import parts
from vaejax.errors import UserError
from vaejax.models import image_networks, latent_variable
from vaejax.models.networks import NETWORKS
from vaejax.models.sites import Site
from vaejax.types import DataSpec

IMAGE = (4, 8, 2)
SMALL = {
    "mlp": "mlp(hidden_dims=(5, 3))",
    "gated_mlp": "gated_mlp(hidden_dims=(5, 3))",
    "conv": "conv(channels=(3,), kernel_size=2, hidden_dims=(5,))",
    "resnet": "resnet(channels=(3,), kernel_size=2, norm='group')",
    "linear": "linear",
}
"""Every network of the registry at a size for tests."""


def _network(text, site):
    return parts.bind(parts.parse(text, NETWORKS, path="test"), NETWORKS)(site)


def _size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _random_params(network):
    like = jax.eval_shape(network.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: 0.3 * _normal(*leaf.shape), like)


def _normal(*shape):
    return jnp.asarray(np.random.default_rng(math.prod(shape)).normal(size=shape), jnp.float32)


def _assert_close(actual, expected, tolerance=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


def test_gated_mlp_is_its_formula():
    network = _network("gated_mlp(hidden_dims=(4, 3))", Site((5,), (2,)))
    params, x = _random_params(network), _normal(5)
    layer = lambda name, h: h @ params["params"][name]["kernel"] + params["params"][name]["bias"]
    hidden = x
    for index in range(2):
        gate = 1 / (1 + np.exp(-np.asarray(layer(f"gate_{index}", hidden))))
        hidden = layer(f"value_{index}", hidden) * gate
    _assert_close(network.apply(params, x), layer("output", hidden))


def test_group_norm_is_its_formula():
    features = 3.0 * _normal(2, 3, 16) + 1.0
    module = image_networks.GroupNorm()
    scale, offset = _normal(16), _normal(4, 4).reshape(16)
    groups = np.split(np.asarray(features), 4, axis=-1)
    normal = np.concatenate([(g - g.mean()) / np.sqrt(g.var() + 1e-5) for g in groups], axis=-1)
    expected = normal * np.asarray(scale) + np.asarray(offset)
    _assert_close(module.apply({"params": {"scale": scale, "offset": offset}}, features), expected)


def test_residual_blocks_start_as_the_identity():
    """Then conv and resnet are one function, of parameters of the same names."""
    site = Site(IMAGE, (3,))
    resnet = _network("resnet(channels=(3, 4), kernel_size=2, activation='relu')", site)
    conv = _network("conv(channels=(3, 4), kernel_size=2)", site)
    params = jax.jit(resnet.init)(jax.random.key(0))["params"]
    plain = {name: leaf for name, leaf in params.items() if not name.startswith("Residual")}
    x, apply = _normal(*IMAGE), jax.jit(resnet.apply)
    expected = jax.jit(conv.apply)({"params": plain}, x)
    _assert_close(apply({"params": params}, x), expected)
    blocks = _random_params(resnet)["params"]
    assert not np.allclose(apply({"params": blocks | plain}, x), expected, atol=1e-2)


def _convolution(size, *widths):
    return sum((size * size * i + 1) * o for i, o in itertools.pairwise(widths))


def test_parameter_counts():
    """28-28-1, 14-14-32, 7-7-64, 256, 100 and back from 50; a bias for each output pixel."""
    config = model_config(latent_dims=(50,), encoder="conv(hidden_dims=(256,))")
    model = latent_variable.build(config, DataSpec((28, 28, 1), None))
    params = jax.eval_shape(model.init, jax.random.key(0))
    dense = lambda *widths: sum((i + 1) * o for i, o in itertools.pairwise(widths))
    up = _convolution(3, 1, 32, 64) + dense(7 * 7 * 64, 256, 100)
    assert _size(params["inference"]) == up
    down = dense(50, 256, 7 * 7 * 64) + _convolution(3, 64, 32) + 9 * 32 + 28 * 28
    assert _size(params["generative"]) == down


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ("", 2 * _convolution(3, 3, 3) + 2 * _convolution(3, 4, 4) + 2),
        ("num_blocks=2", 4 * _convolution(3, 3, 3) + 4 * _convolution(3, 4, 4) + 4),
        ("norm='group'", 2 * _convolution(3, 3, 3) + 2 * _convolution(3, 4, 4) + 2 + 6 * 3 + 6 * 4),
    ],
)
def test_residual_blocks_add_their_parameters(options, more):
    site = Site(IMAGE, (3,))
    size = lambda text: _size(jax.eval_shape(_network(text, site).init, jax.random.key(0)))
    resnet = f"resnet(channels=(3, 4), {options})"
    assert size(resnet) == size("conv(channels=(3, 4))") + more


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("top", [(3,), (2, 4, 3)])
def test_contracts(name, decoder, top):
    """Shape, finiteness, and a batch is its members, one by one in a scan, gradients too."""
    assert set(SMALL) == set(NETWORKS)
    text = SMALL[name] if len(top) == 1 else SMALL[name].replace(", hidden_dims=(5,)", "")
    site = Site(top, IMAGE, decoder=True) if decoder else Site(IMAGE, top)
    network = _network(text, site)
    params, inputs = _random_params(network), _normal(2, *site.inputs)

    def value_and_gradient(x):
        loss = lambda params: (jnp.sum(jnp.sin(out := network.apply(params, x))), out)
        return jax.grad(loss, has_aux=True)(params)

    @jax.jit
    def results():
        scanned = jax.lax.scan(lambda _, x: (None, value_and_gradient(x)), None, inputs)[1]
        return scanned, jax.vmap(value_and_gradient)(inputs)

    (gradients, values), batched = results()
    assert values.shape == (2, *site.outputs)
    assert np.all(np.isfinite(values))
    _assert_close(batched, (gradients, values), 1e-4)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv", "resnet"])
@pytest.mark.parametrize("top", [(4, 8, 3), (2, 4, 3), (1, 2, 3)])
def test_the_sides_of_a_feature_map_say_how_often_to_halve(name, top):
    """The encoder halves next to the data, the decoder doubles there, with the same kernels."""
    text = f"{name}(channels=(3, 5))"
    like = lambda site: jax.eval_shape(_network(text, site).init, jax.random.key(0))["params"]
    up, down = like(Site(IMAGE, top)), like(Site(top, IMAGE, decoder=True))
    shapes = lambda params: [params[f"Convolution_{index}"]["kernel"].shape for index in range(3)]
    assert shapes(up) == [(3, 3, 2, 3), (3, 3, 3, 5), (3, 3, 5, 3)]
    assert shapes(down) == [(3, 3, 3, 5), (3, 3, 5, 3), (3, 3, 3, 2)]
    assert down["bias"].shape == IMAGE
    shape = jax.eval_shape(_network(text, Site(IMAGE, top)).apply, {"params": up}, _normal(*IMAGE))
    assert shape.shape == top


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_decoders_start_at_the_mean(name):
    """At the prior's mean z = 0 exactly, and on average over the networks that init draws."""
    mean = np.linspace(0.1, 0.9, 16).reshape(4, 4, 1)
    site = Site((2,), mean.shape, decoder=True, output_bias=mean.astype(np.float32))
    network = _network(SMALL[name].replace("channels=(3,)", "channels=(3, 4)"), site)

    @jax.jit
    def results(keys):
        def draw(key):
            params = network.init(key)
            ends = jnp.stack([jnp.zeros(2), jax.random.normal(key, (2,))])
            return jax.vmap(network.apply, (None, 0))(params, ends)

        return jax.vmap(draw, out_axes=1)(keys)

    start, draws = results(jax.random.split(jax.random.key(1), 500))
    np.testing.assert_allclose(start[0], mean, rtol=1e-6)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    np.testing.assert_array_less(abs(draws.mean(axis=0) - mean), 5 * error)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gain_multiplies_how_far_outputs_start_from_their_bias(name):
    bias = np.linspace(0.1, 0.9, 16, dtype=np.float32).reshape(4, 4, 1)
    site = Site((2,), bias.shape, decoder=True, output_bias=bias)

    def distance(gain):
        network = _network(SMALL[name], site._replace(output_gain=gain))
        run = jax.vmap(lambda key: network.apply(network.init(key), _normal(2)))
        return np.asarray(jax.jit(run)(keys)) - bias

    keys = jax.random.split(jax.random.key(0), 5)  # a few: small networks may start dead
    far = distance(1.0)
    np.testing.assert_allclose(distance(0.25), 0.25 * far, atol=1e-6)
    assert np.abs(far).max() > 0.01


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_he_normal_keeps_the_variance_behind_relu(stride, transposed):
    """E[h^2] of relu(noise) is 1/2, and the variance behind it 1, in both directions."""
    module = image_networks.Convolution(
        8, 4, "he_normal", stride=stride, transposed=transposed, use_bias=False
    )
    noise = jax.nn.relu(jax.random.normal(jax.random.key(0), (16, 16, 64)))

    def variance(key):
        out = module.apply(module.init(key, noise), noise)
        inner = out[2:-2, 2:-2]  # zeros stand around the image
        return jnp.mean(jnp.square(inner))

    values = jax.jit(jax.vmap(variance))(jax.random.split(jax.random.key(1), 30))
    error = values.std() / np.sqrt(30)
    assert abs(values.mean() - 1.0) < 5 * error + 0.02


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_what_doubles_an_image_starts_without_a_grid(size):
    """Equal places give equal values: none sees more of the kernel than others."""
    module = image_networks.Convolution(5, size, "he_normal", stride=2, transposed=True)
    equal = jnp.broadcast_to(_normal(8), (6, 6, 8))
    out = np.asarray(module.apply(module.init(jax.random.key(0), equal), equal))[2:-2, 2:-2]
    np.testing.assert_allclose(out, np.broadcast_to(out[0, 0], out.shape), rtol=1e-5)
    assert out.std() > 0.1


@pytest.mark.parametrize(
    ("text", "site", "message"),
    [
        (
            "conv(channels=(8, 8, 8))",
            Site((28, 28, 1), (2,)),
            r"multiples of 8; 28 x 28 can be halved 2 times: use channels=\(8, 8\)",
        ),
        (
            "resnet(channels=(8,))",
            Site((2,), (27, 28, 1), decoder=True),
            "27 x 28 can be halved 0 times: use mlp or gated_mlp",
        ),
        ("conv", Site((5,), (2,)), r"conv: works on images .* got shape \(5,\); use mlp"),
        ("conv", Site((2,), (5,), decoder=True), r"works on images .* got shape \(5,\)"),
        ("conv", Site((8, 8, 1), (3, 4, 1)), "one of 8 x 8, 4 x 4, 2 x 2, got .* 3 x 4"),
        ("conv(channels=(4,))", Site((8, 8, 1), (2, 2, 1)), "8 x 8 to one of 8 x 8, 4 x 4, got"),
        ("conv(hidden_dims=(4,))", Site((8, 8, 1), (2, 2, 1)), "hidden_dims has no place"),
        ("conv(channels=())", Site((8, 8, 1), (2,)), "channels needs at least one level"),
        ("conv(channels=(0,))", Site((8, 8, 1), (2,)), "channels: every width must be in"),
        ("conv(kernel_size=0)", Site((8, 8, 1), (2,)), r"kernel_size must be in 1..31, got 0"),
        ("conv(activation='rely')", Site((8, 8, 1), (2,)), "did you mean 'relu'"),
        ("resnet(norm='batch')", Site((8, 8, 1), (2,)), r"norm: unknown 'batch'.*none, group"),
        ("resnet(num_blocks=0)", Site((8, 8, 1), (2,)), r"num_blocks must be in 1..100, got 0"),
        ("gated_mlp(hidden_dims=(0,))", Site((5,), (2,)), "hidden_dims: every width"),
        ("gated_mlp(kernel_init='he')", Site((5,), (2,)), "kernel_init: unknown 'he'"),
    ],
)
def test_what_does_not_fit_is_refused(text, site, message):
    with pytest.raises(UserError, match=message):
        _network(text, site)


def test_a_second_layer_of_convolutions_is_refused_with_the_config():
    with pytest.raises(UserError, match="model: conv: works on images"):
        small_config(model__latent_dims=(3, 2), model__encoder="conv, conv")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("gated_mlp", "kernel_init", "'he_normal'"),
        ("conv", "activation", "'tanh'"),
        ("conv", "kernel_init", "'glorot_uniform'"),
        ("resnet", "activation", "'tanh'"),
        ("resnet", "kernel_init", "'lecun_normal'"),
    ],
)
def test_options_have_an_effect(name, option, value):
    """Those that the counts of parameters do not see."""
    site = Site((4, 4, 1), (3,))
    levels = "channels=(2,), kernel_size=1, " if name != "gated_mlp" else ""

    def output(text):
        network = _network(text, site)
        run = lambda key: network.apply(network.init(key), _normal(4, 4, 1))
        return jax.jit(run)(jax.random.key(0))

    assert not np.allclose(output(f"{name}({levels}{option}={value})"), output(f"{name}({levels})"))

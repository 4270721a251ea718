"""Flows, splines and mixtures: inverses, Jacobians, normalisation, and other libraries."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import perturbed
from jax.flatten_util import ravel_pytree
from numpyro.distributions import flows as numpyro_flows
from numpyro.distributions import transforms as numpyro_transforms

from vaejax.errors import UserError
from vaejax.models import distributions, flows, mixtures, posteriors, priors, splines
from vaejax.models.mixtures import NormalMixture
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(200)
SPEC = DataSpec((2, 2), np.full((2, 2), 0.3))
SMALL = {
    "hidden_dims": (4,),
    "num_layers": 2,
    "num_bins": 3,
    "num_components": 3,
    "context_dims": 2,
    "noise": 1.0,
}


def _variants(registry):
    """Each entry with small options, and each of its kinds."""
    for name, function in registry.items():
        options = function.__kwdefaults__ or {}
        own = {key: value for key, value in SMALL.items() if key in options}
        for kind in flows.ELEMENTWISE if "kind" in options else (None,):
            yield name, own | ({} if kind is None else {"kind": kind})


QUICK = ("mixture-", "vamp-", "iaf-")  # in two dimensions


DISCRETE = ("bernoulli", "categorical", "autoregressive_bernoulli")  # tests/test_discrete.py


def _cases(registry):
    """Every part with a density in one and in two dimensions."""
    for name, options in _variants(registry):
        if name in DISCRETE:
            continue
        kind = f"{name}-{options.get('kind', '')}"
        for size in (1, 2):
            slow = () if size == 2 and kind in QUICK else pytest.mark.slow
            yield pytest.param(name, options, size, id=f"{kind}-{size}", marks=slow)


def _posterior(name, options, size):
    """`(flat) -> q`, and the flat parameters: the family's own and its network's output."""
    family = posteriors.POSTERIORS[name](size, **options)
    both = (family.init(jax.random.key(0)), jnp.zeros(family.outputs))
    flat, unravel = ravel_pytree(perturbed(both, jax.random.key(1), 0.3))
    return lambda flat: family.distribution(*unravel(flat)), flat.astype(float)


def _prior(name, options, size):
    """As `_posterior`, with pseudo-inputs encoded by a fixed network."""
    prior = priors.PRIORS[name](size, SPEC, **options)
    matrix = jax.random.normal(jax.random.key(2), (2 * size, 4))

    def encode(x):
        loc, log_scale = jnp.split(2.0 * matrix @ x.reshape(-1), 2)
        return dist.Normal(loc, jnp.exp(0.3 * log_scale)).to_event(1)

    flat, unravel = ravel_pytree(perturbed(prior.init(jax.random.key(0)), jax.random.key(1), 0.3))
    return lambda flat: prior.distribution(unravel(flat), encode), flat.astype(float)


def _grid(size, span=14.0):
    """Nodes [N, size] and weights [N] on a cube; enough pieces for splines' kinks."""
    pieces = np.linspace(-span, span, 15)
    middle, half = (pieces[1:] + pieces[:-1]) / 2, (pieces[1:] - pieces[:-1]) / 2
    count = 60 if size == 2 else 200
    nodes, weights = np.polynomial.legendre.leggauss(count if size == 1 else 24)
    line = (middle[:, None] + half[:, None] * nodes).ravel()
    mass = (half[:, None] * weights).ravel()
    points = np.array(list(itertools.product(line, repeat=size)))
    return jnp.asarray(points), jnp.asarray(np.prod(list(itertools.product(mass, repeat=size)), 1))


def _test_function(z):
    return jnp.sum(jnp.sin(z + 0.3)) + jnp.tanh(z[0]) * jnp.cos(z[-1])


def _assert_density_of_samples(make, flat, size, *, differentiable):
    """It integrates to 1 and has the moments of its samples; E[f(z)] has the gradient of its
    samples, in every parameter."""
    points, mass = _grid(size)

    def expected(flat):
        density = jnp.exp(jax.vmap(make(flat).log_prob)(points))
        return (mass * density) @ jax.vmap(_test_function)(points), density

    def draw(flat, key):
        z, log_prob = distributions.sample_and_log_prob(make(flat), key)
        return _test_function(z), (z, log_prob)

    @jax.jit
    def everything(flat, keys):
        (_, density), exact = jax.value_and_grad(expected, has_aux=True)(flat)
        gradient = jax.value_and_grad(draw, has_aux=True) if differentiable else draw
        drawn, other = jax.vmap(lambda key: gradient(flat, key))(keys)
        (z, log_prob), draws = (drawn[1], other) if differentiable else (other, None)
        at_z = jax.vmap(make(flat).log_prob)(z)
        return density, z, jax.vmap(make(flat).sample)(keys), log_prob - at_z, exact, draws

    keys = jax.random.split(jax.random.key(3), 20_000)
    density, z, again, difference, exact, draws = everything(flat, keys)
    np.testing.assert_allclose(z, again, rtol=1e-12)
    assert np.abs(difference).max() < 1e-6
    assert abs(mass @ density - 1) < 2e-4
    for moment in (jnp.tanh, jnp.square):
        values = moment(z)
        error = values.std(axis=0) / np.sqrt(len(z))
        known = (mass * density) @ moment(points)
        np.testing.assert_array_less(abs(values.mean(axis=0) - known), 4.5 * error)
    if hasattr(make(flat), "mean"):
        np.testing.assert_allclose(make(flat).mean, (mass * density) @ points, atol=1e-3)
    if differentiable:
        assert np.abs(exact).max() > 0.05
        error = draws.std(axis=0) / np.sqrt(len(draws))
        np.testing.assert_array_less(abs(draws.mean(axis=0) - exact), 4.5 * error + 2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "size"), _cases(posteriors.POSTERIORS))
def test_posteriors_are_the_densities_of_their_differentiable_samples(name, options, size):
    _assert_density_of_samples(*_posterior(name, options, size), size, differentiable=True)


@pytest.mark.parametrize(("name", "options", "size"), _cases(priors.PRIORS))
def test_priors_are_the_densities_of_their_samples(name, options, size):
    _assert_density_of_samples(*_prior(name, options, size), size, differentiable=False)


BIJECTIONS = {
    "affine": flows.coupling(5, kind="affine", num_layers=3, hidden_dims=(7,), num_bins=4),
    "spline": flows.coupling(5, kind="spline", num_layers=3, hidden_dims=(7,), num_bins=4),
    "one latent": flows.coupling(1, kind="spline", num_layers=2, hidden_dims=(7,), num_bins=4),
    "autoregressive": flows.autoregressive(5, num_layers=3, hidden_dims=(7, 9)),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "autoregressive" else ())
        for name in BIJECTIONS
    ],
)
def test_bijections_invert_and_know_their_jacobian(name):
    bijection = BIJECTIONS[name]
    params = perturbed(bijection.init(jax.random.key(0)), jax.random.key(1), 0.3)
    u = 1.5 * jax.random.normal(jax.random.key(2), (20, 1 if name == "one latent" else 5))

    @jax.jit
    def everything(u):
        forward = lambda u: bijection.forward(params, u, ())
        z, log_det = jax.vmap(forward)(u)
        back, inverse_log_det = jax.vmap(lambda z: bijection.inverse(params, z, ()))(z)
        jacobian = jax.vmap(jax.jacfwd(lambda u: forward(u)[0]))(u)
        return z, back, log_det, inverse_log_det, jnp.linalg.slogdet(jacobian)[1]

    z, back, log_det, inverse_log_det, slogdet = everything(u)
    assert np.abs(z - u).max() > 0.3
    np.testing.assert_allclose(back, u, atol=1e-8)
    np.testing.assert_allclose(log_det, slogdet, atol=1e-9)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-8)


@pytest.mark.parametrize("name", ["spline", "autoregressive"])
def test_inverses_are_backward_stable_in_float32(name):
    """Where a layer is nearly flat u is not determined by z to many digits: z = T(u) still is."""
    bijection = BIJECTIONS[name]
    params = perturbed(bijection.init(jax.random.key(0)), jax.random.key(1), 0.2)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    u = 1.5 * jax.random.normal(jax.random.key(2), (200, 5), jnp.float32)

    @jax.jit
    @jax.vmap
    def around(u):
        z, _ = bijection.forward(params, u, ())
        back, log_det = bijection.inverse(params, z, ())
        return z, bijection.forward(params, back, ())[0], log_det

    z, again, log_det = around(u)
    assert z.dtype == again.dtype == log_det.dtype == jnp.float32
    assert np.abs(again - z).max() < 1e-4


@pytest.mark.slow
def test_every_kind_starts_near_the_identity():
    for bijection in BIJECTIONS.values():
        size = 1 if bijection is BIJECTIONS["one latent"] else 5
        u = jax.random.normal(jax.random.key(2), (size,))
        z, log_det = bijection.forward(bijection.init(jax.random.key(0)), u, ())
        assert np.abs(jnp.sort(z) - jnp.sort(u)).max() < 0.6
        assert abs(log_det) < 1.0


def test_autoregressive_layers_see_only_what_came_before_and_the_context():
    size = 5
    bijection = flows.autoregressive(size, num_layers=1, hidden_dims=(8, 8), context_dims=2)
    params = perturbed(bijection.init(jax.random.key(0)), jax.random.key(1), 0.5)
    u, context = jnp.linspace(-1, 1, size), jnp.array([0.3, -0.4])
    forward = lambda u, context: bijection.forward(params, u, context)[0]
    of_u, of_context = jax.jacfwd(forward, (0, 1))(u, context)
    assert np.abs(np.triu(of_u, 1)).max() == 0
    assert (np.abs(np.tril(of_u))[np.tril_indices(size)] > 0).all()
    assert (np.abs(of_context) > 0).all()


def test_inverse_autoregressive_flow_is_numpyros():
    """The same masked network, given to numpyro's transform as a function."""
    size = 4
    bijection = flows.autoregressive(size, num_layers=1, hidden_dims=(8,))
    params = bijection.init(jax.random.key(0))
    u = jax.random.normal(jax.random.key(1), (size,))
    z, log_det = bijection.forward(params, u, ())

    def network(u):
        unit = lambda u: bijection.forward(params, u, ())[0]
        shift = jnp.stack([unit(u.at[i].set(0.0))[i] for i in range(size)])
        return shift, jnp.log(jnp.diag(jax.jacfwd(unit)(u)))

    theirs = numpyro_flows.InverseAutoregressiveTransform(network)
    np.testing.assert_allclose(z, theirs(u), rtol=1e-10)
    np.testing.assert_allclose(log_det, theirs.log_abs_det_jacobian(u, z), rtol=1e-10)


def test_flow_is_numpyros_transformed_distribution():
    family = posteriors.coupling(3, num_layers=1, hidden_dims=(4,), context_dims=1)
    zeros = jax.tree.map(jnp.zeros_like, family.init(jax.random.key(0)))
    output = jax.random.normal(jax.random.key(1), family.outputs)
    q = family.distribution(zeros, output)  # the layers are the identity: a diagonal normal
    transform = numpyro_transforms.AffineTransform(output[:3], jnp.exp(output[3:6]))
    theirs = dist.TransformedDistribution(dist.Normal(jnp.zeros(3), 1.0), [transform]).to_event(1)
    z = jnp.array([0.2, -1.0, 3.0])
    np.testing.assert_allclose(q.log_prob(z), theirs.log_prob(z), rtol=1e-10)


def test_spline_goes_through_its_knots_and_rises():
    numbers = 1.5 * jax.random.normal(jax.random.key(0), (splines.outputs(6),))
    x = jnp.linspace(-5.0, 5.0, 4001)
    y, log_slope = jax.vmap(lambda x: splines.forward(x, numbers))(x)
    assert (np.diff(y) > 0).all()
    np.testing.assert_array_equal(y[np.abs(x) >= splines.BOUND], x[np.abs(x) >= splines.BOUND])
    slope = jax.vmap(jax.grad(lambda x: splines.forward(x, numbers)[0]))(x)
    np.testing.assert_allclose(log_slope, np.log(slope), atol=1e-9)
    identity, zero = splines.forward(jnp.asarray(0.7), jnp.zeros(splines.outputs(6)))
    np.testing.assert_allclose((identity, zero), (0.7, 0.0), atol=1e-12)


def _mixture(num_components=7, size=3, scale=1.0, dtype=float):
    keys = jax.random.split(jax.random.key(5), 3)
    return NormalMixture(
        jax.nn.log_softmax(jax.random.normal(keys[0], (num_components,), dtype)),
        3.0 * jax.random.normal(keys[1], (num_components, size), dtype),
        scale * jnp.exp(0.5 * jax.random.normal(keys[2], (num_components, size), dtype)),
    )


@pytest.mark.slow
def test_mixture_of_normals_is_numpyros_in_value_and_gradient():
    ours = _mixture()

    def theirs(mixture, z):
        components = dist.Normal(mixture.loc, mixture.scale).to_event(1)
        return dist.MixtureSameFamily(
            dist.Categorical(logits=mixture.log_weights), components
        ).log_prob(z)

    z = 3.0 * jax.random.normal(jax.random.key(6), (50, 3))
    for each in z:
        np.testing.assert_allclose(ours.log_prob(each), theirs(ours, each), rtol=1e-10)
    normalized = lambda m: NormalMixture(jax.nn.log_softmax(m.log_weights), m.loc, m.scale)
    gradient = lambda density: jax.jit(jax.grad(lambda m, z: density(normalized(m), z), (0, 1)))(
        ours, z[0]
    )
    both = gradient(NormalMixture.log_prob), gradient(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), *both)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
def test_mixture_of_normals_keeps_its_digits_in_float32(scale):
    """z.z/s^2 is 10^6 at scale 0.01 with 50 latents: a plain matrix product would be off by 0.1."""
    exact = _mixture(500, 50, scale)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), exact)
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), single)
    z = jax.vmap(exact.sample)(jax.random.split(jax.random.key(7), 200)).astype(jnp.float32)
    ours = jax.vmap(single.log_prob)(z)
    truth = jax.vmap(double.log_prob)(z.astype(jnp.float64))
    assert ours.dtype == jnp.float32
    assert np.abs(ours - truth).max() < 1e-4


@pytest.mark.slow
def test_mixture_of_any_family_is_the_mean_of_its_densities():
    family = posteriors.full_normal(2)
    outputs = jax.random.normal(jax.random.key(8), (5, *family.outputs))
    mixture = mixtures.Mixture(jax.vmap(lambda output: family.distribution({}, output))(outputs))
    z = jnp.array([0.4, -0.2])
    densities = [jnp.exp(family.distribution({}, output).log_prob(z)) for output in outputs]
    np.testing.assert_allclose(mixture.log_prob(z), np.log(np.mean(densities)), rtol=1e-10)
    draws = jax.vmap(mixture.sample)(jax.random.split(jax.random.key(9), 20_000))
    error = draws.std(axis=0) / np.sqrt(len(draws))
    np.testing.assert_array_less(abs(draws.mean(axis=0) - outputs[:, :2].mean(axis=0)), 4 * error)


@pytest.mark.slow
def test_vamp_prior_is_the_mean_of_encoded_pseudo_inputs_whatever_the_family():
    prior = priors.vamp(2, SPEC, num_components=6, noise=0.3)
    params = prior.init(jax.random.key(0))
    start = params["pseudo_inputs"]
    assert ((start >= 0.01 - 1e-9) & (start <= 0.99 + 1e-9)).all()
    params = {"pseudo_inputs": start.at[0, 0, 0].set(-0.4).at[1, 1, 1].set(1.7)}
    u = jnp.clip(params["pseudo_inputs"], 0.0, 1.0)
    full = posteriors.full_normal(2)
    matrix = jax.random.normal(jax.random.key(1), (*full.outputs, 4))
    families = {
        "normal": lambda x: dist.Normal(
            matrix[:2] @ x.ravel(), jnp.exp(matrix[2:4] @ x.ravel())
        ).to_event(1),
        "full": lambda x: full.distribution({}, matrix @ x.ravel()),
    }
    z = jnp.array([0.5, -0.1])
    for encode in families.values():
        expected = np.log(np.mean([np.exp(encode(each).log_prob(z)) for each in u]))
        np.testing.assert_allclose(
            prior.distribution(params, encode).log_prob(z), expected, rtol=1e-8
        )


def test_unbounded_pseudo_inputs_are_the_parameters_themselves():
    spec = DataSpec((3,), np.array([-2.0, 0.0, 5.0]))
    with pytest.raises(UserError, match=r"vamp\(bounded=False\)"):
        priors.vamp(2, spec)
    prior = priors.vamp(2, spec, num_components=2000, noise=0.1, bounded=False)
    start = prior.init(jax.random.key(0))["pseudo_inputs"]
    np.testing.assert_allclose(start.mean(axis=0), spec.mean, atol=0.01)
    np.testing.assert_allclose(start.std(axis=0), 0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posteriors.coupling(2, kind="spine"), "kind.*spline"),
        (lambda: posteriors.coupling(2, num_layers=0), "num_layers"),
        (lambda: posteriors.coupling(2, num_bins=1), "num_bins"),
        (lambda: posteriors.iaf(2, hidden_dims=(0,)), "hidden_dims"),
        (lambda: posteriors.iaf(2, context_dims=-1), "context_dims"),
        (lambda: posteriors.mixture(2, num_components=0), "num_components"),
        (lambda: priors.mixture(2, SPEC, num_components=0), "num_components"),
        (lambda: priors.vamp(2, SPEC, num_components=0), "num_components"),
        (lambda: priors.vamp(2, SPEC, noise=-1.0), "noise"),
        (lambda: priors.autoregressive(2, SPEC, num_layers=0), "num_layers"),
    ],
)
def test_options_that_cannot_be_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()

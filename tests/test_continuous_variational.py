"""The energies of 2015 are the printed formulas, with their gradients; the free energy is a KL divergence."""

import math

import numpy as np
import pytest
from scipy.special import ndtri
from strategies import BACKENDS, backend

from dfm_ref import random
from dfm_ref.continuous.affine import Affine
from dfm_ref.continuous.flows import Composed
from dfm_ref.continuous.planar import Planar
from dfm_ref.continuous.variational import ENERGIES, annealing, free_energy, log_normalizer

POINTS = np.concatenate(
    [random.normal(random.key(1), (40, 2)) * 2.5, [[0.0, 0.0], [4.0, 1.0], [-5.5, 0.3], [30.0, -40.0]]]
)


def printed(name, x, math):
    """Table 1 of the paper, with the walls, on one point of any kind of numbers."""
    x_1, x_2 = x
    square = lambda a: a * a  # noqa: E731
    w_1 = math.sin(2 * math.pi * x_1 / 4)
    w_2 = 3 * math.exp(-square((x_1 - 1) / 0.6) / 2)
    w_3 = 3 / (1 + math.exp(-(x_1 - 1) / 0.3))
    wall = square(max(abs(x_1) - 4, 0) / 0.4) / 2
    if name == "ring":
        modes = math.exp(-square((x_1 - 2) / 0.6) / 2) + math.exp(-square((x_1 + 2) / 0.6) / 2)
        return square((math.sqrt(x_1**2 + x_2**2) - 2) / 0.4) / 2 - math.log(modes)
    if name == "wave":
        return square((x_2 - w_1) / 0.4) / 2 + wall
    s, v = (0.35, w_2) if name == "fork" else (0.4, w_3)
    return wall - math.log(math.exp(-square((x_2 - w_1) / s) / 2) + math.exp(-square((x_2 - w_1 + v) / 0.35) / 2))


@pytest.mark.parametrize("name", ENERGIES)
def test_an_energy_is_the_printed_formula(name):
    mp = pytest.importorskip("mpmath")
    energy, _ = ENERGIES[name](POINTS)
    with mp.workdps(2000):  # exp(-30000) within the sum
        exact = [float(printed(name, [mp.mpf(float(c)) for c in x], mp)) for x in POINTS]
    assert np.allclose(energy, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ENERGIES)
def test_the_slope_of_an_energy_is_its_gradient(name):
    torch = pytest.importorskip("torch")
    x = torch.asarray(POINTS[np.any(POINTS != 0, axis=1)], requires_grad=True)
    energy, slope = ENERGIES[name](x)
    (exact,) = torch.autograd.grad(energy.sum(), x)
    assert torch.allclose(slope, exact, rtol=1e-12, atol=1e-12)
    assert np.all(np.isfinite(ENERGIES[name](np.zeros(2))[1]))


@pytest.mark.parametrize("library", BACKENDS)
def test_energies_are_the_same_on_every_library(library):
    b = backend(library)
    for name, energy in ENERGIES.items():
        for ours, numpys in zip(energy(b.asarray(POINTS)), energy(POINTS), strict=True):
            assert np.allclose(b.to_numpy(ours), numpys, rtol=1e-12, atol=1e-12), name


@pytest.mark.parametrize("name", ENERGIES)
def test_the_normalizer_is_that_of_another_rule(name):
    """Gauss and Legendre's rule on panels that end where the walls begin."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(-8, 8, 33)
    at = (edges[:-1, None] + (nodes + 1) / 4).ravel()
    weights = np.tile(weights / 4, 32)
    p = np.exp(-ENERGIES[name](np.stack(np.meshgrid(at, at), axis=-1))[0])
    assert log_normalizer(ENERGIES[name]) == pytest.approx(math.log(weights @ p @ weights), abs=1e-9)


@pytest.mark.parametrize("name", ENERGIES)
def test_the_free_energy_is_the_divergence_less_the_normalizer(name):
    """The noise in 400 x 400 cells of equal mass, against the integral of q log(q / p) over the plane."""
    params = {"log_scale": np.log([0.7, 0.5]), "shift": np.asarray([0.8, -0.3])}
    levels = ndtri((np.arange(400) + 0.5) / 400)
    z = np.stack(np.meshgrid(levels, levels), axis=-1).reshape(-1, 2)
    free = float(free_energy(Affine(2), ENERGIES[name], params, z)[0])
    side = np.arange(-400, 401) / 40
    x = np.stack(np.meshgrid(side, side), axis=-1)
    log_q = -np.sum(((x - [0.8, -0.3]) / [0.7, 0.5]) ** 2, axis=-1) / 2 - math.log(2 * math.pi * 0.35)
    log_p = -ENERGIES[name](x)[0] - log_normalizer(ENERGIES[name])
    divergence = float(np.sum(np.exp(log_q) * (log_q - log_p))) / 40**2
    assert free + log_normalizer(ENERGIES[name]) == pytest.approx(divergence, rel=5e-3)
    assert divergence > 0.1


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ENERGIES)
def test_its_gradient_is_that_of_differences(name, beta):
    flow = Composed((Affine(2), Planar(2), Planar(2)))
    params = {
        n: p + 0.3 * random.normal(random.key(i), p.shape) for i, (n, p) in enumerate(flow.init(random.key(0)).items())
    }
    z = random.normal(random.key(9), (50, 2))
    _, grads = free_energy(flow, ENERGIES[name], params, z, beta=beta)
    along = {n: random.normal(random.key(100 + i), p.shape) for i, (n, p) in enumerate(params.items())}

    def value(step):
        moved = {n: p + step * along[n] for n, p in params.items()}
        return float(free_energy(flow, ENERGIES[name], moved, z, beta=beta)[0])

    h = 1e-3
    slope = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    assert sum(float(np.sum(grads[n] * along[n])) for n in params) == pytest.approx(slope, rel=1e-6)


def test_the_weight_of_the_energy_rises_to_one():
    weights = [annealing(step, 10) for step in range(20)]
    assert weights[0] == 0.01 and max(weights) == 1.0 == weights[-1] and weights == sorted(weights)

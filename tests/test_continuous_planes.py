"""The laws of the plane: their densities are those of their points, have mass 1, and their entropies are exact."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate
from strategies import follows

from dfm_ref import random
from dfm_ref.continuous.planes import Checkerboard, Moons, Pinwheel, entropy, sample

PLANES = [Checkerboard(), Moons(), Moons(noise=0.5), Pinwheel(), Pinwheel(arms=2, along=0.6, across=0.4, twist=-1.0)]


def cells(plane, size):
    """The mass of each cell of a grid of [-6, 6]^2, by Gauss and Legendre's rule within a cell."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(-6, 6, size + 1)
    width = edges[1] - edges[0]
    at = (edges[:-1, None] + (nodes + 1) * width / 2).ravel()
    p = np.exp(plane.log_density(np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1)))
    p = p * np.tile(weights, size)[:, None] * np.tile(weights, size) * (width / 2) ** 2
    return p.reshape(size, 12, size, 12).sum(axis=(1, 3))


@pytest.mark.parametrize("plane", PLANES, ids=str)
def test_the_points_follow_the_density(plane):
    """Sees a wrong arm, radius, twist, noise or a square of the wrong parity, in 40,000 points."""
    x = sample(plane, random.key(3), 40_000)
    law = cells(plane, 24)
    assert law.sum() == pytest.approx(1, abs=1e-9)
    where = np.floor((x + 6) * 2).astype(int)
    assert follows(where[:, 0] * 24 + where[:, 1], law.ravel() / law.sum())


def test_a_point_is_a_function_of_its_number():
    for plane in PLANES:
        whole = sample(plane, random.key(1), 7)
        assert np.array_equal(sample(plane, random.key(1), 4, first=3), whole[3:])
        assert sample(plane, random.key(1), 0).shape == (0, 2)


@pytest.mark.parametrize("plane", [Moons(), Moons(noise=0.1), Moons(noise=0.5)], ids=str)
def test_the_density_of_the_moons_is_the_integral_along_the_arcs(plane):
    for x in np.asarray([[-1.0, 1.5], [1.0, 0.5], [3.0, 0.4], [0.0, 0.0], [-3.2, -0.6]]):

        def density(angle, x=x):
            side = -1 if angle < math.pi else 1
            far = (x[0] - side - 2 * math.cos(angle)) ** 2 + (x[1] - side / 2 - 2 * math.sin(angle)) ** 2
            return (
                math.exp(-far / (2 * plane.noise**2)) / (2 * math.pi * plane.noise) ** 2 * 2 * math.pi / (2 * math.pi)
            )

        arcs = np.linspace(0, 2 * math.pi, 33)
        parts = (integrate.quad(density, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in pairwise(arcs))
        assert float(np.exp(plane.log_density(x))) == pytest.approx(sum(parts), rel=1e-9)


@pytest.mark.parametrize("plane", [Moons(noise=0.3), Pinwheel(arms=2, along=0.6, across=0.4, twist=-1.0)], ids=str)
def test_the_entropy_is_that_of_a_finer_rule(plane):
    centres = (np.arange(455) + 0.5) / 35 - 6.5
    grid = np.stack(np.meshgrid(centres, centres), axis=-1)
    log_p = np.concatenate([plane.log_density(rows) for rows in np.split(grid, 65)])
    assert entropy(plane) == pytest.approx(-float(np.sum(np.exp(log_p) * log_p)) / 35**2, abs=1e-9)


def test_entropies_that_are_known_without_a_rule():
    assert entropy(Checkerboard()) == pytest.approx(math.log(32), abs=1e-12)
    apart = Pinwheel(arms=5, along=0.1, across=0.1)  # blobs that do not touch: the entropy of one, and of the choice
    assert entropy(apart) == pytest.approx(math.log(2 * math.pi * math.e * 0.01) + math.log(5), abs=1e-9)
    x = sample(Pinwheel(), random.key(2), 100_000)
    log_p = Pinwheel().log_density(x)
    assert abs(entropy(Pinwheel()) + log_p.mean()) < 5 * log_p.std() / math.sqrt(len(x))  # a false alarm in 1.7 million


@pytest.mark.parametrize("noise", [0.3, 0.2, 0.05, 0.01])
def test_the_density_of_moons_keeps_its_digits_where_the_noise_is_small(noise):
    moons, x = Moons(noise), np.array([-1.0, 1.5])

    def density(angle):
        off = (x - moons._arc(np.asarray(angle))) / noise
        return math.exp(-off @ off / 2) / (2 * math.pi * noise) ** 2

    arcs = [(0, math.pi / 2), (math.pi / 2, math.pi), (math.pi, 3 * math.pi / 2), (3 * math.pi / 2, 2 * math.pi)]
    p = sum(integrate.quad(density, *arc, epsabs=0, epsrel=1e-12, limit=500)[0] for arc in arcs)
    assert float(moons.log_density(x)) == pytest.approx(math.log(p), abs=1e-10)
    with pytest.raises(ValueError, match="noise"):
        Moons(-noise)

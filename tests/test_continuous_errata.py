"""Formulas of continuous flows that are often printed wrongly: the printed form breaks a law, and ours keeps it.

The printed forms stand in a 2025 tutorial; the number in a test's name is the place of the formula in that article.
Those of Gaussian paths (11, 13, 15) are in test_continuous_gaussian_paths.
"""

import math

import numpy as np
import pytest

from dfm_ref.continuous import ode
from dfm_ref.continuous.affine import LU, factored
from dfm_ref.continuous.flows import expectation, log_prob, standard_normal_log_density

SIDE = np.arange(-2000, 2001)[:, None] / 100


def test_e1_with_one_letter_for_two_densities_the_law_does_not_move():
    """q(z') = q(z) |det df/dz|^-1, read with one q on both sides, asks the normal density to be its own image."""
    params = factored(np.asarray([[2.0]]))
    z = np.asarray([[0.3], [-1.2]])
    x, log_det, _ = LU(1).forward(params, z)
    image = standard_normal_log_density(z) - log_det
    assert np.allclose(log_prob(LU(1), params, x), image, rtol=0, atol=1e-12)
    assert np.all(np.abs(standard_normal_log_density(x) - image) > 0.1)


def test_e3_the_expectation_needs_no_accurate_choice_of_maps():
    """Nor an invertible one: E[h(f(z))] for f = z^2 is the mean of h under the law of one degree of freedom."""

    class Square:
        dim = 1

        def forward(self, params, z):
            return z * z, np.zeros(z.shape[:-1]), None

    weights = np.exp(standard_normal_log_density(SIDE)) / 100
    mean = expectation(Square(), {}, lambda x: x[..., 0] ** 2, SIDE, weights=weights)
    assert float(mean) == pytest.approx(3, rel=1e-10)


def test_e6_without_its_start_an_equation_has_many_flows_and_with_it_one():
    """phi_t = e^t x + c e^t solves d phi/dt = phi for every c; phi_0(x) = x leaves c = 0."""
    x = np.asarray([[1.0], [-0.5]])
    for c in (0.0, 0.7):
        h, t = 1e-6, 0.4
        rate = (math.exp(t + h) - math.exp(t - h)) / (2 * h) * (x + c)
        assert np.allclose(rate, math.exp(t) * (x + c), rtol=1e-8)
    assert np.array_equal(ode.dormand_prince(lambda y, t: y, x, 0.0, 0.0).y, x)
    phi = ode.dormand_prince(lambda y, t: y, x, 0.0, 0.4, rtol=1e-12, atol=1e-12).y
    assert np.allclose(phi, math.exp(0.4) * x, rtol=1e-10)
    frames = ode.solve(ode.rk4, lambda y, t: y, x, [0.0, 0.5, 1.0], frames=True)
    assert np.array_equal(frames[0], x)


def test_e8_without_bars_a_reflection_has_total_mass_minus_one():
    """f = -2 z: the signed determinant of its inverse is -1/2, and the density is negative everywhere."""
    params = factored(np.asarray([[-2.0]]))
    z, _ = LU(1).inverse(params, SIDE)
    printed = np.exp(standard_normal_log_density(z)) * -0.5
    ours = np.exp(log_prob(LU(1), params, SIDE))
    assert float(np.sum(printed)) / 100 == pytest.approx(-1, abs=1e-12)
    assert float(np.sum(ours)) / 100 == pytest.approx(1, abs=1e-12)
    assert np.allclose(ours, -printed, rtol=1e-12)

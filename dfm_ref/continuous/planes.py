"""Laws of the plane to learn, with their exact densities: a checkerboard, two moons, a pinwheel.

Points are float64[..., 2] on the host. A draw is a function of a key and of the number of the point, so that a batch
is the same whatever it is a part of. Densities are per unit of area, entropies in nats.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from .. import random
from ..arrays import logsumexp
from ..protocols import Key

__all__ = ["Checkerboard", "Moons", "Pinwheel", "Plane", "entropy", "sample"]

Points: TypeAlias = np.ndarray[Any, Any]


class Plane(Protocol):
    """A law of the plane: points from uniforms and normal numbers, and log p."""

    def points(self, u: Points, noise: Points) -> Points:
        """Points float64[B, 2] from uniforms float64[B, 2] and normal numbers float64[B, 2]."""

    def log_density(self, x: Points) -> Points:
        """log p(x), float64[..., 2] -> float64[...]."""


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on the eight squares of side 2 in [-4, 4]^2 whose row and column have one parity.

    >>> Checkerboard().log_density(np.array([[1.0, 1.0], [1.0, -1.0]]))
    array([-3.4657359,       -inf])
    """

    def points(self, u: Points, noise: Points) -> Points:
        """The squares are numbered along the first coordinate, and shifted up in every second column."""
        column, within = np.divmod(4 * u[:, 0], 1.0)
        row, height = np.divmod(2 * u[:, 1], 1.0)
        return 2 * np.stack([column + within, 2 * row + column % 2 + height], axis=-1) - 4

    def log_density(self, x: Points) -> Points:
        """-log 32 on the squares, -inf elsewhere."""
        column, row = np.floor(x[..., 0] / 2), np.floor(x[..., 1] / 2)
        inside = (np.abs(column + 0.5) < 2) & (np.abs(row + 0.5) < 2) & ((column + row) % 2 == 0)
        return np.where(inside, -math.log(32), -np.inf)


@dataclass(frozen=True)
class Moons:
    """Two half circles of radius 2, one upside down and between the ends of the other, and normal noise.

    >>> round(float(np.exp(Moons().log_density(np.array([-1.0, 1.5])))), 4)
    0.1589
    """

    noise: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.noise < math.inf:
            raise ValueError(f"noise: expected a deviation > 0, got {self.noise}")

    def points(self, u: Points, noise: Points) -> Points:
        """The angle is uniform on both arcs together."""
        return self._arc(2 * math.pi * u[:, 0]) + self.noise * noise

    def log_density(self, x: Points) -> Points:
        """The mean of the normal densities around the arcs, by Gauss and Legendre's rule on parts of each."""
        nodes, weights = np.polynomial.legendre.leggauss(128)
        # parts of both arcs together: the rule has digits where a part is not long beside the noise
        parts = 2 * math.ceil(0.2 / self.noise)
        angles = ((nodes + 1) / 2 + np.arange(parts)[:, None]).ravel() * (2 * math.pi / parts)
        log_weights = np.log(np.tile(weights, parts) / (2 * parts))
        far = np.sum(((x[..., None, :] - self._arc(angles)) / self.noise) ** 2, axis=-1)
        return np.asarray(logsumexp(log_weights - far / 2)) - math.log(2 * math.pi * self.noise**2)

    def _arc(self, angle: Points) -> Points:
        """The point of an angle: the upper half of the circle around (-1, -1/2), the lower of that around (1, 1/2)."""
        side = np.where(angle < math.pi, -1.0, 1.0)
        return np.stack([side + 2 * np.cos(angle), side / 2 + 2 * np.sin(angle)], axis=-1)


@dataclass(frozen=True)
class Pinwheel:
    """Normal blobs around a circle, twisted by an angle in proportion to the radius, which keeps areas.

    >>> round(float(np.exp(Pinwheel().log_density(np.array([0.0, 0.0])))), 6)
    0.005127
    """

    arms: int = 5
    along: float = 0.6
    across: float = 0.2
    twist: float = 0.6
    """Radians per unit of the radius."""

    def points(self, u: Points, noise: Points) -> Points:
        """A blob of an arm along the first axis, turned to its arm and twisted."""
        arm = np.floor(self.arms * u[:, 0])
        x = noise * [self.along, self.across] + [2.0, 0.0]
        return _turned(x, 2 * math.pi / self.arms * arm + self.twist * _radius(x))

    def log_density(self, x: Points) -> Points:
        """The mixture of the blobs at the point that the twist takes here: a twist has determinant 1."""
        turns = 2 * math.pi / self.arms * np.arange(self.arms) + self.twist * _radius(x)[..., None]
        noise = (_turned(x[..., None, :], -turns) - [2.0, 0.0]) / [self.along, self.across]
        scale = math.log(2 * math.pi * self.along * self.across * self.arms)
        return np.asarray(logsumexp(-np.sum(noise**2, axis=-1) / 2)) - scale


def sample(plane: Plane, key: Key, num: int, *, first: int = 0) -> Points:
    """Points of a law, float64[num, 2], numbered from `first`.

    >>> bool(np.all(np.isfinite(Checkerboard().log_density(sample(Checkerboard(), random.key(0), 100)))))
    True
    """
    sites = random.sites((num, 2), first=2 * first)
    uniform_key, normal_key = random.split(key)
    return plane.points(random.uniform_at(uniform_key, sites), random.normal(normal_key, (num, 2), first=2 * first))


def entropy(plane: Plane) -> float:
    """-E log p(x) in nats: what the mean of -log q(x) over data cannot fall below, whatever q.

    By the midpoint rule on [-6, 6]^2, which errs by less than 1e-9 on smooth laws that are nothing beyond; of the
    checkerboard it is exact.

    >>> round(entropy(Checkerboard()) - math.log(32), 9)
    0.0
    """
    centres = (np.arange(240) + 0.5) / 20 - 6
    total = 0.0
    for row in centres:  # a row at a time, so that little memory is needed
        log_p = plane.log_density(np.stack([centres, np.full_like(centres, row)], axis=-1))
        p = np.exp(log_p)
        total -= float(np.sum(p * np.where(p > 0, log_p, 0.0))) / 20**2
    return total


def _radius(x: Points) -> Points:
    return np.asarray(np.sqrt(np.sum(x * x, axis=-1)))


def _turned(x: Points, angle: Points) -> Points:
    """The points turned around the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]], axis=-1)

"""The flow of the page verify.md, section 9, with a mistake, and corrected."""

import numpy as np


class Coupling:
    """x_1 = z_1, x_2 = z_2 exp(tanh z_1) + z_1^2."""

    dim = 2

    def flow(self, z):
        a, b = z.T
        s = np.tanh(a)
        return np.stack([a, b * np.exp(s) + a**2], axis=1), s

    def inverse(self, x):
        a, c = x.T
        return np.stack([a, (c - a**2) * np.exp(-np.tanh(a))], axis=1)

    def log_prob(self, x):
        z = self.inverse(x)
        base = -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1)
        return base + self.flow(z)[1]


def build(case):
    return Coupling()


class Corrected(Coupling):
    """The same with the sign of its log-determinant."""

    def log_prob(self, x):
        z = self.inverse(x)
        base = -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1)
        return base - self.flow(z)[1]


def corrected(case):
    return Corrected()

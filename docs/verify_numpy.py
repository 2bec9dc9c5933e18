"""A small implementation as one writes it for a project, with three mistakes and no checks; then without them.

dfm-ref verify verify_numpy:build --quick
dfm-ref verify verify_numpy:corrected --quick
"""

from itertools import pairwise

import numpy as np


class Flow:
    """Linear and quadratic schedules, any source; samples by Euler's rule."""

    def __init__(self, case):
        if case.schedule not in ("linear", "quadratic"):
            raise NotImplementedError("linear and quadratic schedules alone")
        self.vocab_size = case.vocab_size
        self.power = 1 if case.schedule == "linear" else 2

    def kappa(self, t):
        return t**self.power

    def kappa_dot(self, t):
        return self.power * t ** (self.power - 1)

    def sample_path(self, x_0, x_1, t, seed):
        coins = np.random.default_rng(seed).random((len(t), 1))
        return np.where(coins < self.kappa(t)[:, None], x_1, x_0)

    def velocity(self, probs_1, x_t, t):
        rate = self.kappa_dot(t) / (1 - self.kappa(t))
        return rate[:, None, None] * (probs_1 - np.eye(self.vocab_size)[x_t])

    def cross_entropy(self, logits, x_1, x_t, t):
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probs = weights / weights.sum(axis=-1, keepdims=True)
        return -np.log(np.take_along_axis(probs, x_1[..., None], axis=-1))[..., 0]

    def sample(self, model, x_0, times, seed):
        rng = np.random.default_rng(seed)
        step = 1 / (len(times) - 1)
        frames = [x_0]
        for t in times[:-1]:
            frames.append(self.euler(rng, model, frames[-1], t, step))
        return np.stack(frames)

    def euler(self, rng, model, x_t, t, step):
        t = np.full(len(x_t), t)
        u = self.velocity(model(x_t, t), x_t, t)
        probs = np.maximum(np.eye(self.vocab_size)[x_t] + step * u, 0)
        up_to = probs.cumsum(axis=-1)
        level = rng.random((*x_t.shape, 1)) * up_to[..., -1:]
        return (up_to <= level).sum(axis=-1)


def build(case):
    return Flow(case)


class Corrected(Flow):
    """The three mistakes mended, and what must raise raises."""

    def kappa(self, t):
        expect(np.all((t >= 0) & (t <= 1)), "times in [0, 1]")  # NaN is not
        return super().kappa(t)

    def kappa_dot(self, t):
        expect(np.all((t >= 0) & (t <= 1)), "times in [0, 1]")
        return super().kappa_dot(t)

    def sample_path(self, x_0, x_1, t, seed):
        self.check(t, x_0, x_1)
        coins = np.random.default_rng(seed).random(x_0.shape)  # one a token
        return np.where(coins < self.kappa(t)[:, None], x_1, x_0)

    def velocity(self, probs_1, x_t, t):
        self.check(t, x_t)
        expect(probs_1.shape == (*x_t.shape, self.vocab_size), "probs_1[B, N, V]")
        expect(np.all(probs_1 >= -1e-6), "probabilities that are not negative")
        expect(np.all(np.abs(probs_1.sum(axis=-1) - 1) <= 1e-4), "probabilities that sum to 1")
        return super().velocity(probs_1, x_t, t)

    def cross_entropy(self, logits, x_1, x_t, t):
        self.check(t, x_t, x_1)
        expect(logits.shape == (*x_t.shape, self.vocab_size), "logits[B, N, V]")
        shifted = logits - logits.max(axis=-1, keepdims=True)  # stays a logarithm
        log_sum = np.log(np.exp(shifted).sum(axis=-1))
        return log_sum - np.take_along_axis(shifted, x_1[..., None], axis=-1)[..., 0]

    def sample(self, model, x_0, times, seed):
        self.check(np.zeros(len(x_0)), x_0)
        expect(np.all((times >= 0) & (times <= 1)) and np.all(np.diff(times) > 0), "increasing times in [0, 1]")
        rng = np.random.default_rng(seed)
        frames = [x_0]
        for t, s in pairwise(times):
            frames.append(self.euler(rng, model, frames[-1], t, s - t))  # the step that the grid has
        return np.stack(frames)

    def check(self, t, *tokens):
        for x in tokens:
            expect(x.ndim == 2 and x.shape == tokens[0].shape, "tokens[B, N], all of one shape")
            expect(np.all((x >= 0) & (x < self.vocab_size)), f"tokens in [0, {self.vocab_size})")
        expect(t.shape == tokens[0].shape[:1], "a time a row")
        expect(np.all((t >= 0) & (t <= 1)), "times in [0, 1]")


def expect(holds, what):
    if not holds:
        raise ValueError(f"expected {what}")


def corrected(case):
    return Corrected(case)

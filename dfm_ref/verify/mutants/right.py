"""A complete right implementation in plain NumPy, one statement a line, so that each common mistake is one line of it.

It shares no code with the rest of the library; everything is computed in float64. Grids of times must increase, and
anything else raises. Source: Gat et al. 2024; the loss is that of Shaul et al. 2024.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Implementation", "build"]

Array: TypeAlias = np.ndarray[Any, Any]

KAPPA: dict[str, Callable[[Array], Array]] = {
    "linear": lambda t: 1.0 * t,
    "quadratic": lambda t: t * t,
    "cubic": lambda t: t * t * t,
    "cosine": lambda t: np.sin(np.pi / 2 * t) ** 2,
}

KAPPA_DOT: dict[str, Callable[[Array], Array]] = {
    "linear": lambda t: np.ones_like(t),
    "quadratic": lambda t: 2.0 * t,
    "cubic": lambda t: 3.0 * t * t,
    "cosine": lambda t: np.pi * np.sin(np.pi / 2 * t) * np.sin(np.pi / 2 * (1 - t)),
}

ONE_MINUS_KAPPA: dict[str, Callable[[Array], Array]] = {
    "linear": lambda t: 1 - t,
    "quadratic": lambda t: (1 - t) * (1 + t),
    "cubic": lambda t: (1 - t) * (1 + t + t * t),
    "cosine": lambda t: np.sin(np.pi / 2 * (1 - t)) ** 2,
}

KAPPA_INVERSE: dict[str, Callable[[Array], Array]] = {
    "linear": lambda k: 1.0 * k,
    "quadratic": lambda k: np.sqrt(k),
    "cubic": lambda k: np.cbrt(k),
    "cosine": lambda k: 2 / np.pi * np.arctan2(np.sqrt(k), np.sqrt(1 - k)),
}


class Implementation:
    """Everything that a kit may ask of one case; samples by the finite step, exact given the pair."""

    sampler = "grid"
    real: Any = np.float64

    def __init__(self, case: Any) -> None:
        self.vocab_size = case.vocab_size
        self.length = case.length
        self.schedule = case.schedule
        self.masked = case.source == "mask"
        uniform = np.full(self.vocab_size, 1 / self.vocab_size)
        mask_only = np.eye(self.vocab_size)[self.vocab_size - 1]
        source_pmf = mask_only if self.masked else uniform
        self.source_pmf: Array = source_pmf.astype(self.real)

    # Schedules

    def kappa(self, t: Array) -> Array:
        """kappa_t, the weight of the data: float[B] -> float[B]."""
        t = self._unit_interval(t, "t")
        return KAPPA[self.schedule](t)

    def kappa_dot(self, t: Array) -> Array:
        """The derivative of kappa_t: float[B] -> float[B]."""
        t = self._unit_interval(t, "t")
        return KAPPA_DOT[self.schedule](t)

    def kappa_inverse(self, k: Array) -> Array:
        """The time at which kappa_t is k: float[B] -> float[B]."""
        k = self._unit_interval(k, "k")
        return KAPPA_INVERSE[self.schedule](k)

    def _one_minus_kappa(self, t: Array) -> Array:
        """1 - kappa_t with all its digits, 0 at t = 1 alone."""
        return ONE_MINUS_KAPPA[self.schedule](t)

    def _forward_rate(self, t: Array) -> Array:
        """kappa_dot / (1 - kappa), the intensity of events, for t < 1."""
        if np.any(t == 1):
            raise ValueError("t must be below 1: the rate is infinite there")
        remaining = self._one_minus_kappa(t)
        return np.asarray(self.kappa_dot(t) / remaining)

    def _backward_rate(self, t: Array) -> Array:
        """kappa_dot / kappa, the intensity of events of the process run backwards, for t > 0."""
        if np.any(t == 0):
            raise ValueError("t must be above 0: the rate is infinite there")
        gained = self.kappa(t)
        return np.asarray(self.kappa_dot(t) / gained)

    # Paths

    def sample_path(self, x_0: Array, x_1: Array, t: Array, seed: int) -> Array:
        """x_t given the pair: each token is x_1's with probability kappa_t, and x_0's else; int[B, N]."""
        x_0 = self._tokens(x_0, "x_0")
        x_1 = self._tokens(x_1, "x_1", like=x_0)
        t = self._times(t, x_0)
        kappa = self.kappa(t)[:, None]
        uniforms = np.random.default_rng(seed).random(x_0.shape, dtype=self.real)
        arrived = uniforms < kappa
        return np.where(arrived, x_1, x_0)

    # Velocities

    def velocity(self, probs_1: Array, x_t: Array, t: Array) -> Array:
        """kappa_dot / (1 - kappa) [p_{1|t} - delta_{x_t}], float[B, N, V]."""
        x_t = self._tokens(x_t, "x_t")
        t = self._times(t, x_t)
        probs_1 = self._pmfs(probs_1, x_t)
        rate = self._forward_rate(t)[:, None, None]
        return self._balance(rate * probs_1, x_t)

    def corrector_velocity(self, probs_1: Array, x_t: Array, t: Array, strength: float) -> Array:
        """(1 + strength) times the forward velocity, less strength times the backward one, float[B, N, V]."""
        x_t = self._tokens(x_t, "x_t")
        t = self._times(t, x_t)
        probs_1 = self._pmfs(probs_1, x_t)
        if not 0 <= strength < np.inf:
            raise ValueError(f"strength must be finite and not negative, got {strength}")
        alpha, beta = 1 + float(strength), float(strength)
        forward = self._forward_rate(t)[:, None, None] * probs_1
        backward = self._backward_rate(t)[:, None, None] * self._noise_posterior(probs_1, x_t, t)
        return self._balance(alpha * forward + beta * backward, x_t)

    def _noise_posterior(self, probs_1: Array, x_t: Array, t: Array) -> Array:
        """p_{0|t} of an independent coupling, from p_{1|t}."""
        kappa = self.kappa(t)[:, None, None]
        remaining = self._one_minus_kappa(t)[:, None, None]
        here = self._one_hot(x_t)
        q = self._at(probs_1, x_t)[..., None]
        evidence = remaining * self.source_pmf[x_t][..., None] + kappa
        likelihood = remaining * here + kappa
        noise_if_arrived = self.source_pmf * likelihood / evidence
        return np.asarray((1 - q) * here + q * noise_if_arrived)

    def _balance(self, u: Array, x_t: Array) -> Array:
        """The rates off the diagonal as they are, and on it minus their sum."""
        here = self._one_hot(x_t)
        leaving = np.where(here, 0.0, np.maximum(u, 0.0))
        total = leaving.sum(axis=-1, keepdims=True)
        return np.where(here, 0.0 - total, leaving)

    # Losses

    def cross_entropy(self, logits: Array, x_1: Array, x_t: Array, t: Array) -> Array:
        """-log p_{1|t}(x_1^i | x_t) of every token, in nats, float[B, N]."""
        x_t = self._tokens(x_t, "x_t")
        x_1 = self._tokens(x_1, "x_1", like=x_t)
        self._times(t, x_t)
        log_probs = self._log_softmax(logits, x_t)
        return -self._at(log_probs, x_1)

    def generalized_kl(self, logits: Array, x_1: Array, x_t: Array, t: Array) -> Array:
        """The path divergence of every token, in nats per unit of t, for t < 1, float[B, N]; 0 where its rate is 0."""
        x_t = self._tokens(x_t, "x_t")
        x_1 = self._tokens(x_1, "x_1", like=x_t)
        t = self._times(t, x_t)
        log_probs = self._log_softmax(logits, x_t)
        log_target = self._at(log_probs, x_1)
        log_here = self._at(log_probs, x_t)
        rate = self._forward_rate(t)[:, None]
        if_arrived = -np.expm1(log_here)
        if_on_the_way = -log_target - np.exp(log_here)
        nats = np.where(x_t == x_1, if_arrived, if_on_the_way)
        loss = np.zeros_like(nats)
        return np.asarray(np.multiply(rate, nats, out=loss, where=rate > 0))

    def _log_softmax(self, logits: Array, x_t: Array) -> Array:
        logits = self._logits(logits, x_t)
        top = logits.max(axis=-1, keepdims=True)
        shifted = logits - top
        normaliser = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return np.asarray(shifted - normaliser)

    # Samplers

    def sample(self, model: Callable[[Array, Array], Any], x_0: Array, times: Array, seed: int) -> Array:
        """One frame at each of the increasing times, the first of them x_0: int[len(times), B, N]."""
        x_t = self._tokens(x_0, "x_0")
        times = self._grid(times)
        rng = np.random.default_rng(seed)
        steps = len(times) - 1
        frames = [x_t]
        for k in range(steps):
            t, s = times[k], times[k + 1]
            x_t = self._step(model, rng, x_t, t, s)
            frames.append(x_t)
        return np.stack(frames)

    def _step(self, model: Any, rng: np.random.Generator, x_t: Array, t: Any, s: Any) -> Array:
        """x_s: tokens that have an event between t and s are redrawn from the posterior."""
        probs_1 = self._ask(model, x_t, t)
        stay = self._stay(t, s)
        coins = rng.random(x_t.shape, dtype=self.real)
        events = coins >= stay
        values = self._categorical(rng, probs_1)
        return np.where(events, values, x_t)

    def _stay(self, t: Any, s: Any) -> Any:
        """The probability of no event between t and s."""
        return self._one_minus_kappa(s) / self._one_minus_kappa(t)

    def _ask(self, model: Any, x_t: Array, t: Any) -> Array:
        """The posteriors at a time, one for all rows or one a row."""
        rows = np.full(len(x_t), t)
        answer = model(x_t.copy(), rows)
        return self._pmfs(answer, x_t)

    def _categorical(self, rng: np.random.Generator, probs: Array) -> Array:
        """One value of each PMF: the first whose cumulative weight exceeds a uniform number of the whole."""
        weights = np.maximum(probs, 0.0)
        cumulative = weights.cumsum(axis=-1)
        whole = cumulative[..., -1:]
        threshold = rng.random(whole.shape, dtype=self.real) * whole
        return np.asarray(np.sum(cumulative <= threshold, axis=-1))

    def _at(self, table: Array, tokens: Array) -> Array:
        """The entry at each token: [B, N, V], int[B, N] -> [B, N]."""
        return np.asarray(np.take_along_axis(table, tokens[..., None], axis=-1)[..., 0])

    # Inputs

    def _one_hot(self, tokens: Array) -> Array:
        """Where each value is the token's: bool[..., V]."""
        return np.asarray(tokens[..., None] == np.arange(self.vocab_size))

    def _unit_interval(self, values: Any, name: str) -> Array:
        numbers = np.asarray(values, dtype=np.float64)
        inside = (numbers >= 0) & (numbers <= 1)
        if not np.all(inside):
            raise ValueError(f"{name} must be in [0, 1], got {numbers}")
        return numbers.astype(self.real)

    def _times(self, t: Any, x_t: Array) -> Array:
        times = self._unit_interval(t, "t")
        if times.shape != (len(x_t),):
            raise ValueError(f"t must have shape {(len(x_t),)}, got {times.shape}")
        return times

    def _grid(self, times: Any) -> Array:
        grid = self._unit_interval(times, "times")
        if grid.ndim != 1 or len(grid) < 2:
            raise ValueError(f"times must be a row of two or more, got shape {grid.shape}")
        gaps = np.diff(np.asarray(times, dtype=np.float64))
        if not np.all(gaps > 0):
            raise ValueError(f"times must increase, got {times}")
        return grid

    def _tokens(self, x: Any, name: str, *, like: Array | None = None) -> Array:
        tokens: Array = np.asarray(x)
        if tokens.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, got {tokens.dtype}")
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise ValueError(f"{name} must have shape (B, {self.length}), got {tokens.shape}")
        if like is not None and tokens.shape != like.shape:
            raise ValueError(f"{name} must have shape {like.shape}, got {tokens.shape}")
        valid = (tokens >= 0) & (tokens < self.vocab_size)
        if not np.all(valid):
            raise ValueError(f"{name} must be in [0, {self.vocab_size}), got {tokens[~valid]}")
        return tokens.astype(np.int64, copy=False)

    def _pmfs(self, probs_1: Any, x_t: Array) -> Array:
        probs: Array = np.asarray(probs_1, dtype=self.real)
        if probs.shape != (*x_t.shape, self.vocab_size):
            raise ValueError(f"probs_1 must have shape {(*x_t.shape, self.vocab_size)}, got {probs.shape}")
        if not np.all(probs >= -1e-3):
            raise ValueError("probs_1 must not be negative")
        excess = np.abs(probs.sum(axis=-1) - 1)
        if not np.all(excess <= 1e-3):
            raise ValueError("probs_1 must sum to 1 over the vocabulary, the last axis")
        return probs

    def _logits(self, logits: Any, x_t: Array) -> Array:
        scores: Array = np.asarray(logits, dtype=self.real)
        if scores.shape != (*x_t.shape, self.vocab_size):
            raise ValueError(f"logits must have shape {(*x_t.shape, self.vocab_size)}, got {scores.shape}")
        largest = scores.max(axis=-1)
        if not np.all(np.isfinite(largest)):
            raise ValueError("logits must not be NaN or +inf, nor -inf in a whole row")
        return scores


def build(case: Any) -> Implementation:
    """The implementation of a case.

    >>> from dfm_ref.verify import Case
    >>> right = build(Case(vocab_size=3, length=1, schedule="linear", source="mask"))
    >>> right.velocity(np.array([[[0.25, 0.75, 0.0]]]), np.array([[2]]), np.array([0.5])).tolist()
    [[[0.5, 1.5, -2.0]]]
    """
    return Implementation(case)

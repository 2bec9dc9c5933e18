"""dfm_ref itself, on any backend: NumPy in and out, every value checked, by the library's public functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ... import checks, exact, losses, paths, random, samplers, velocities
from ...arrays import log
from ...paths import Mixture
from ...protocols import Array, Backend, Key
from ...schedules import Cosine, Linear, Monotone, Polynomial
from ...sources import Masked, Source, Uniform
from ..cases import Case

__all__ = ["SCHEDULES", "WALKS", "Ours", "Walk", "on"]

Table: TypeAlias = np.ndarray[Any, Any]

SCHEDULES: dict[str, Monotone] = {
    "linear": Linear(),
    "quadratic": Polynomial(2.0),
    "cubic": Polynomial(3.0),
    "cosine": Cosine(),
}
"""The schedules of a case by name, as this library has them."""


class Walk(NamedTuple):
    """A way from x_0 to the frames at all times: its kind in the words of the contract, and the function."""

    sampler: str
    frames: Callable[..., Array]
    """frames(path, model, key, x_0, times) -> int[len(times), B, N]"""


def _by_steps(step: Callable[..., Array]) -> Callable[..., Array]:
    """The frames of a step, one for each interval."""

    def frames(path: Mixture, model: Any, key: Key, x_0: Array, times: Sequence[float]) -> Array:
        return samplers.simulate(partial(step, path, model), key, x_0, times, frames=True)

    return frames


WALKS = {
    "finite": Walk("grid", partial(samplers.sample, frames=True)),
    "euler": Walk("grid", _by_steps(samplers.euler_step)),
    "exponential": Walk("grid", _by_steps(samplers.exponential_step)),
    "flow_matching": Walk("grid", _by_steps(samplers.flow_matching_step)),
    "trapezoidal": Walk("multistage", _by_steps(samplers.trapezoidal_step)),
    "exact": Walk("exact", partial(exact.finished, frames=True)),
}
"""The samplers of the library by name."""


@dataclass(frozen=True)
class Ours:
    """The library on a backend, for one case; every method raises ValueError or TypeError on illegal input."""

    case: Case
    backend: Backend
    walk: str = "finite"

    def __post_init__(self) -> None:
        if self.case.schedule not in SCHEDULES or self.case.source not in ("mask", "uniform"):
            raise NotImplementedError(f"no such schedule or source: {self.case}")

    @property
    def sampler(self) -> str:
        """What kind of sampler `sample` is: grid, multistage or exact."""
        return WALKS[self.walk].sampler

    @cached_property
    def schedule(self) -> Monotone:
        """kappa."""
        return SCHEDULES[self.case.schedule]

    @cached_property
    def source(self) -> Source:
        """The law of x_0."""
        return (Masked if self.case.source == "mask" else Uniform)(self.case.vocab_size)

    @cached_property
    def path(self) -> Mixture:
        """The mixture path between X0 and X1."""
        return Mixture(self.schedule, mask=self.case.vocab_size - 1 if self.case.source == "mask" else None)

    def kappa(self, t: Table) -> Table:
        """kappa_t, float[B] -> float[B]."""
        return self._numpy(self.schedule.kappa(*self._checked(t=t)))

    def kappa_dot(self, t: Table) -> Table:
        """The derivative of kappa_t, float[B] -> float[B]."""
        return self._numpy(self.schedule.kappa_dot(*self._checked(t=t)))

    def kappa_inverse(self, k: Table) -> Table:
        """The time at which kappa_t = k, float[B] -> float[B]."""
        return self._numpy(self.schedule.inverse(*self._checked(k=k)))

    def sample_path(self, x_0: Table, x_1: Table, t: Table, seed: int) -> Table:
        """x_t given the pair, int[B, N]."""
        return self._numpy(paths.sample(self.path, random.key(seed), *self._checked(x_0=x_0, x_1=x_1, t=t)))

    def velocity(self, probs_1: Table, x_t: Table, t: Table) -> Table:
        """The forward velocity, float[B, N, V]."""
        return self._numpy(velocities.forward(self.path, *self._checked(probs_1=probs_1, x_t=x_t, t=t)))

    def corrector_velocity(self, probs_1: Table, x_t: Table, t: Table, strength: float) -> Table:
        """(1 + strength) u_forward - strength u_backward, float[B, N, V]."""
        probs_1, x_t, t = self._checked(probs_1=probs_1, x_t=x_t, t=t)
        pmf = self.backend.asarray(self.source.pmf())
        posteriors = velocities.noise_posterior(self.schedule, pmf, probs_1, x_t, t), probs_1
        return self._numpy(velocities.corrected(self.path, posteriors, x_t, t, alpha=1 + strength, beta=strength))

    def cross_entropy(self, logits: Table, x_1: Table, x_t: Table, t: Table) -> Table:
        """-log p(x_1) in nats, float[B, N]."""
        logits, x_1, _, _ = self._checked(logits=logits, x_1=x_1, x_t=x_t, t=t)
        return self._numpy(losses.cross_entropy(logits, x_1))

    def generalized_kl(self, logits: Table, x_1: Table, x_t: Table, t: Table) -> Table:
        """The generalized KL divergence in nats per unit of t, float[B, N]."""
        arguments = self._checked(logits=logits, x_1=x_1, x_t=x_t, t=t)
        return self._numpy(losses.generalized_kl(self.schedule, *arguments))

    def sample(self, model: Callable[[Table, Table], Table], x_0: Table, times: Sequence[float], seed: int) -> Table:
        """The frames at all times, int[len(times), B, N]; the model gives probabilities."""
        (start,) = self._checked(x_0=x_0)

        def logits(x_t: Array, t: Array) -> Array:
            x_t, t = self._numpy(x_t), self._numpy(t)
            probs_1 = np.asarray(model(x_t, t))
            self._checked(x_t=x_t, probs_1=probs_1)
            return self.backend.asarray(log(probs_1.astype(np.float64)))

        grid = np.asarray(times, dtype=np.float64).tolist()
        return self._numpy(WALKS[self.walk].frames(self.path, logits, random.key(seed), start, grid))

    def _numpy(self, x: Array) -> Table:
        return np.asarray(self.backend.to_numpy(x))

    def _checked(self, **arguments: Table) -> tuple[Array, ...]:
        """The arguments as arrays of the backend; their names tell their shapes and domains, the first their number."""
        length, vocab_size = self.case.length, self.case.vocab_size
        tails = {"t": (), "k": (), "probs_1": (length, vocab_size), "logits": (length, vocab_size)}
        arrays = {name: np.asarray(value) for name, value in arguments.items()}
        rows = next((a.shape[0] if a.ndim else 1) for a in arrays.values())
        for name, a in arrays.items():
            shape = (rows, *tails.get(name, (length,)))
            if a.shape != shape:
                raise ValueError(f"{name}: expected the shape {shape}, got {a.shape}")
            if name in tails and a.dtype.kind != "f":
                raise TypeError(f"{name}: expected floats, got {a.dtype}")
            if name in ("t", "k"):
                checks.times(name, a)
            elif name == "probs_1":
                checks.distributions(name, a)
            elif name != "logits":
                checks.tokens(name, a, vocab_size)
            elif np.any(np.isnan(a)):
                raise ValueError("logits: expected no NaN, got one")
        return tuple(self.backend.asarray(a) for a in arrays.values())


def on(backend: Backend, *, walk: str = "finite") -> Callable[[Case], Ours]:
    """`build(case)` for this library on a backend, with one of its samplers, by its name in `WALKS`.

    >>> from dfm_ref.backends import load
    >>> ours = on(load("numpy"))(Case(vocab_size=3, length=2, schedule="quadratic", source="mask"))
    >>> ours.kappa(np.array([0.5]))
    array([0.25])
    """
    if walk not in WALKS:
        raise ValueError(f"walk: expected one of {', '.join(WALKS)}, got {walk!r}")
    return partial(Ours, backend=backend, walk=walk)

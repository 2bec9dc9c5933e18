"""How fast samplers converge, by exact propagation: laws of all states are multiplied out, and nothing is drawn.

An `Example` is an enumerable path with its posteriors; a rule says the exact law of one step, [S, S] with the state
that is moved from last. The law after K steps is compared with that of the chain: for exact posteriors p_T itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from .. import kinetic, transitions, velocities
from ..kinetic import Metric
from ..paths import X0, X1, Fixed, Mixture
from ..schedules import Bernstein, Convex, Polynomial
from . import oracle

__all__ = [
    "RULES",
    "Example",
    "OfMetric",
    "OfMixture",
    "Row",
    "chain",
    "euler",
    "examples",
    "exponential",
    "finite",
    "flow_matching",
    "law",
    "predictor_corrector",
    "table",
    "trapezoidal",
    "two_stages",
]

Table: TypeAlias = np.ndarray[Any, Any]
Rule: TypeAlias = "Callable[[Any, float, float], Table]"
Posteriors: TypeAlias = Callable[[float], tuple[Table, ...]]


class Example(Protocol):
    """A path on all states x, int[S, N]: its law p_t, [S], and the velocity of its model, [S, N, V]."""

    @property
    def x(self) -> Table: ...
    def p(self, t: float) -> Table: ...
    def u(self, t: float) -> Table: ...


@dataclass(frozen=True)
class OfMixture:
    """A mixture path over the pairs of a problem; `distort` makes a wrong model of its exact posteriors.

    >>> problem = oracle.Problem(np.array([[0]]), np.array([[1]]), np.ones(1), np.eye(2)[None, :, None])
    >>> OfMixture(Mixture(), problem).p(0.25)
    array([0.75, 0.25])
    """

    path: Mixture
    problem: oracle.Problem
    distort: Callable[[Table], Table] | None = None

    @property
    def x(self) -> Table:
        *_, length, vocab_size = self.problem.w.shape
        return oracle.states(vocab_size, length)

    def kappa(self, t: float) -> Table:
        """kappa_t, [N, m]."""
        shape = self.problem.x_0.shape[1:]
        return np.stack([np.broadcast_to(k, shape) for k in self.path.schedule.kappas(np.array([t]))], -1)

    def p(self, t: float) -> Table:
        return oracle.marginal(self.problem, self.kappa(t))

    def posteriors(self, t: float) -> tuple[Table, ...]:
        """w_hat^j of every state, m tables [S, N, V]; a mask path knows its revealed tokens."""
        w_hat = [np.swapaxes(w, 0, 1) for w in oracle.posteriors(self.problem, self.kappa(t)).w_hat]
        w_hat = [self.distort(w) for w in w_hat] if self.distort else w_hat
        if self.path.mask is not None:
            w_hat[1] = np.where((self.x == self.path.mask)[..., None], w_hat[1], np.eye(w_hat[1].shape[-1])[self.x])
        return tuple(w_hat)

    def u(self, t: float) -> Table:
        return np.asarray(velocities.forward(self.path, self.posteriors(t), self.x, t))


@dataclass(frozen=True)
class OfMetric:
    """A metric path to data of law q[S], with its exact posteriors.

    >>> example = OfMetric(Metric(kinetic.hamming(2), kinetic.Odds()), np.array([0.0, 1.0]))
    >>> example.p(0.0)
    array([0.5, 0.5])
    """

    path: Metric
    q: Table

    @property
    def x(self) -> Table:
        vocab_size = len(self.path.distance)
        return oracle.states(vocab_size, round(np.log(len(self.q)) / np.log(vocab_size)))

    def given(self, t: float) -> Table:
        """p_t(x | x_1), [S of x_1, S of x]."""
        return oracle.product(kinetic.pmf(self.path, self.x, t))

    def p(self, t: float) -> Table:
        return np.asarray(self.q @ self.given(t))

    def u(self, t: float) -> Table:
        joint = self.q[:, None] * self.given(t)
        posterior = (joint / joint.sum(axis=0)).T  # of x_1 given each state
        probs_1 = np.einsum("zs,siv->ziv", posterior, np.eye(len(self.path.distance))[self.x])
        return np.asarray(kinetic.velocity(self.path, probs_1, self.x, t))


def finite(example: OfMixture, t: float, s: float) -> Table:
    """The finite step.

    >>> finite(examples()["mask"], 0.0, 1.0).sum(axis=0).round(12).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    return _joint(transitions.finite(example.path, example.posteriors(t), example.x, t, s))


def euler(example: Example, t: float, s: float) -> Table:
    """Euler's step; a token whose rate exceeds 1 / (s - t) leaves surely.

    >>> float(euler(examples()["mask"], 0.5, 0.6).min()) >= 0
    True
    """
    u, x = example.u(t), example.x
    leaves = -np.take_along_axis(u, x[..., None], axis=-1)
    return _joint(transitions.euler(u / np.maximum(1.0, (s - t) * leaves), x, s - t))


def exponential(example: Example, t: float, s: float) -> Table:
    """The exponential step.

    >>> float(exponential(examples()["mask"], 0.5, 0.6).min()) >= 0
    True
    """
    return _joint(transitions.exponential(example.u(t), example.x, s - t))


def flow_matching(example: OfMixture, t: float, s: float) -> Table:
    """The rule of the flow_matching package, without its last step.

    >>> float(flow_matching(examples()["mask"], 0.5, 0.6).min()) >= 0
    True
    """
    x_1 = example.posteriors(t)[-1]
    return _joint(transitions.flow_matching(example.path.schedule, x_1, example.x, t, s - t))


def trapezoidal(example: Example, t: float, s: float, *, theta: float = 0.5) -> Table:
    """The theta-trapezoidal step: two exponential stages, of which the second knows where the first began.

    >>> float(trapezoidal(examples()["mask"], 0.5, 0.6).min()) >= 0
    True
    """
    return two_stages(example.u(t), example.u(t + theta * (s - t)), example.x, s - t, theta=theta)


def two_stages(u_x: Table, u_y: Table, x: Table, h: float, *, theta: float) -> Table:
    """The theta-trapezoidal step of length h of velocities at its start and its midpoint, [S, N, V] each: [S, S].

    >>> two_stages(*np.array([[[[-1.0, 1.0], [0.0, 0.0]]]] * 2).swapaxes(1, 2), oracle.states(2, 1), 0.0, theta=0.5)
    array([[1., 0.],
           [0., 1.]])
    """
    kernel = np.zeros((len(x), len(x)))
    for z, start in enumerate(oracle.product(transitions.exponential(u_x, x, theta * h))):
        before, there = np.broadcast_to(u_x[z], u_y.shape), np.broadcast_to(x[z], x.shape)
        rates = transitions.trapezoid_rates(before, u_y, there, x, theta=theta)
        kernel[:, z] = start @ oracle.product(transitions.exponential(rates, x, (1 - theta) * h))
    return kernel


def predictor_corrector(example: OfMixture, t: float, s: float, *, share: float = 0.25) -> Table:
    """A finite step and one Euler corrector step, at s, of a share of its length.

    >>> float(predictor_corrector(examples()["mask"], 0.5, 0.6).min()) >= 0
    True
    """
    u = velocities.corrected(example.path, example.posteriors(s), example.x, s, alpha=1.0, beta=1.0)
    return np.asarray(_joint(transitions.euler(u, example.x, share * (s - t))) @ finite(example, t, s))


RULES: dict[str, tuple[Rule, int]] = {
    "finite": (finite, 1),
    "euler": (euler, 1),
    "exponential": (exponential, 1),
    "flow_matching": (flow_matching, 1),
    "predictor-corrector": (predictor_corrector, 2),
    "trapezoidal": (trapezoidal, 2),
}
"""Each rule by name, with the number of model calls of a step."""


def law(example: Example, rule: Rule, steps: int, *, t_0: float, T: float) -> Table:
    """The law [S] after equal steps of a rule from p_{t_0}.

    >>> law(examples()["mask"], finite, 4, t_0=0.0, T=0.9).sum().round(12)
    np.float64(1.0)
    """
    p = example.p(t_0)
    for k in range(steps):
        p = rule(example, t_0 + k * (T - t_0) / steps, t_0 + (k + 1) * (T - t_0) / steps) @ p
    return p


def chain(example: Example, p: Table, t: float, s: float) -> Table:
    """The law [S] at s of the chain of the example's model, from the law p at t: dp/dt = Q_t p, solved to 1e-11.

    >>> example = examples()["mask"]
    >>> bool(np.allclose(chain(example, example.p(0.2), 0.2, 0.8), example.p(0.8), atol=1e-9))
    True
    """
    from scipy.integrate import solve_ivp

    def slope(time: float, law: Table) -> Table:
        return np.asarray(oracle.generator(np.swapaxes(example.u(time), 0, 1)) @ law)

    return np.asarray(solve_ivp(slope, (t, s), p, method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1])


class Row(NamedTuple):
    """Total variation to p_T after K steps of a rule, by K, and the order at the last doubling of K."""

    path: str
    rule: str
    calls: int
    """Model calls a step."""
    tv: dict[int, float]
    order: float


def table(*, steps: tuple[int, ...] = (4, 8, 16, 32, 64), t_0: float = 0.0, T: float = 0.9) -> list[Row]:
    """Every rule on every example that it is made for.

    >>> rows = table(steps=(4, 8))
    >>> [row.rule for row in rows if row.path == "metric"]
    ['euler', 'exponential', 'trapezoidal']
    """
    rows = []
    for name, example in examples().items():
        for rule, (kernel, calls) in RULES.items():
            on_metric = isinstance(example, OfMetric) and rule not in ("euler", "exponential", "trapezoidal")
            if on_metric or (rule in ("flow_matching", "predictor-corrector") and name == "three components"):
                continue
            tv = {k: float(oracle.total_variation(law(example, kernel, k, t_0=t_0, T=T), example.p(T))) for k in steps}
            rows.append(Row(name, rule, calls, tv, float(np.log2(tv[steps[-2]] / tv[steps[-1]]))))
    return rows


def examples() -> dict[str, Any]:
    """Two tokens of correlated data by five paths, with their exact posteriors.

    >>> list(examples())
    ['mask', 'uniform', 'correlated', 'three components', 'metric']
    """
    q = np.array([[0.4, 0.1], [0.1, 0.4]])
    both = np.stack([oracle.at_x_0(2), oracle.at_x_1(2)]).astype(float)
    masked = np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]).astype(float)
    coin, no_prompt = np.full((2, 2), 0.5), np.zeros(2, dtype=bool)
    with_mask = oracle.prompted(np.pad(q, (0, 1)).ravel(), np.eye(3)[[2, 2]], no_prompt)
    free = oracle.prompted(q.ravel(), coin, no_prompt)
    tied = 0.5 * free + 0.5 * np.diag(q.ravel())  # half of the pairs start where they end
    noise = Convex((Bernstein((1.0, 0.5, 0.0)), Bernstein((0.0, 0.5, 0.0)), Bernstein((0.0, 0.0, 1.0))))
    three = oracle.enumerate_pairs(free, np.stack([both[0], oracle.fixed(np.array([0.5, 0.5])), both[1]]))
    scale = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    ordered = np.exp(-scale) / np.exp(-scale).sum()
    return {
        "mask": OfMixture(Mixture(Polynomial(2.0), mask=2), oracle.enumerate_pairs(with_mask, masked)),
        "uniform": OfMixture(Mixture(Polynomial(2.0)), oracle.enumerate_pairs(free, both)),
        "correlated": OfMixture(Mixture(Polynomial(2.0)), oracle.enumerate_pairs(tied, both)),
        "three components": OfMixture(Mixture(noise, (X0(), Fixed((0.5, 0.5)), X1())), three),
        "metric": OfMetric(Metric(kinetic.ordinal(3), kinetic.Odds()), ordered.ravel()),
    }


def _joint(tokens: Table) -> Table:
    """Token PMFs [S, N, V] given each state as one kernel [S, S]."""
    return oracle.joint_kernel(np.swapaxes(tokens, 0, 1))

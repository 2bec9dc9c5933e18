"""The exact law of everything, by enumeration of all d**N states: what fast code is judged by.

It shares no code with the rest of the library. Tables go in and tables come out, of float64 or of
fractions.Fraction (dtype object, made by `exact`); the kind of number that goes in comes out, and with
fractions and polynomial schedules the identities of the theory hold with ``==``.

Letters: P pairs (x_0, x_1), m components j, N tokens i, a vocabulary of d tokens, and S = d**N states in the
order of `states`. A state x has tokens x^i, and z is the state that is moved from. Tables: ``kappa[N, m]``,
``w[P, m, N, d]`` (given a pair), ``w_hat[m, N, S, d]`` (given z), velocities and token kernels ``[N, S, d]``
(token i, given z, next value), and matrices ``[S, S]`` (x given z) that act on laws ``[S]`` as ``Q @ p``.
Tables of 0 and 1 are integers, which join either kind.

>>> pi = prompted(exact([0, "1/3", "2/3"]), delta(np.array([0]), 3), np.array([False]))
>>> problem = enumerate_pairs(pi, np.stack([at_x_0(3), at_x_1(3)]))
>>> kappa, kappa_dot = exact([["1/4", "3/4"]]), exact([[-1, 1]])
>>> a, b, _ = coefficients(kappa, kappa_dot)
>>> Q = generator(velocity(a, b, posteriors(problem, kappa).w_hat))
>>> print(*kolmogorov_residual(marginal_dot(problem, kappa, kappa_dot), Q, marginal(problem, kappa)))
0 0 0
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.polynomial import polynomial

__all__ = [
    "Coefficients",
    "FiniteCoefficients",
    "Posteriors",
    "Problem",
    "any_order_bound",
    "any_order_law",
    "at_x_0",
    "at_x_1",
    "clipped_coefficients",
    "coefficients",
    "conditional",
    "delta",
    "derivative",
    "enumerate_pairs",
    "euler_kernel",
    "evaluate",
    "evolve",
    "exact",
    "finite_coefficients",
    "finite_kernel",
    "fixed",
    "generator",
    "given_pair",
    "joint_kernel",
    "kolmogorov_residual",
    "marginal",
    "marginal_dot",
    "pair_posterior",
    "path_divergence",
    "posteriors",
    "prior_divergence",
    "product",
    "product_dot",
    "prompted",
    "propagate",
    "states",
    "token_marginals",
    "total_variation",
    "velocity",
]

Table: TypeAlias = np.ndarray[Any, Any]
"""An array of float64 or of fractions; of integers where it holds tokens, or 0 and 1."""

Number: TypeAlias = Fraction | float
"""A time or a step; beside tables of fractions it must be a fraction, for Python's int / int is a float."""


# States and numbers


def exact(values: Any) -> Table:
    """The values as fractions: an array, or lists of integers, fractions, floats or strings -> object[...].

    >>> exact([1, "1/3", 0.5])
    array([Fraction(1, 1), Fraction(1, 3), Fraction(1, 2)], dtype=object)
    """
    return np.asarray(np.vectorize(Fraction, otypes=[object])(np.asarray(values, dtype=object)))


def states(vocab_size: int, length: int) -> Table:
    """All states, int[S, N], the last token fastest: state x has index sum_i x^i d**(N-1-i).

    Source: Gat et al. 2024, section 2 (notation).

    >>> states(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return np.array(list(itertools.product(range(vocab_size), repeat=length)))


def delta(x: Table, vocab_size: int) -> Table:
    """The point mass delta_x of each token, int[...] -> int[..., d].

    Source: Gat et al. 2024, section 2 (notation).

    >>> delta(np.array([2, 0]), 3).tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    return np.asarray(x[..., None] == np.arange(vocab_size), dtype=np.int64)


def product(pmfs: Table) -> Table:
    """prod_i p^i(x^i): token PMFs [..., N, d] -> the law of a state with independent tokens, [..., S].

    Source: Gat et al. 2024, section 2 (notation).

    >>> print(*product(exact([["1/4", "3/4"], ["1/3", "2/3"]])))
    1/12 1/6 1/4 1/2
    """
    length, vocab_size = pmfs.shape[-2:]
    return np.asarray(pmfs[..., np.arange(length), states(vocab_size, length)].prod(axis=-1))


def product_dot(pmfs: Table, pmfs_dot: Table) -> Table:
    """sum_i pdot^i(x^i) prod_{l != i} p^l(x^l), the product rule: two tables [..., N, d] -> [..., S].

    >>> print(*product_dot(exact([["1/4", "3/4"], ["1/3", "2/3"]]), exact([[-1, 1], [0, 0]])))
    -1/3 -2/3 1/3 2/3
    """
    length = pmfs.shape[-2]
    turn = np.eye(length, dtype=bool)[..., None]  # [i, l, 1]: whose turn it is to be differentiated
    return np.asarray(sum(product(np.where(turn[i], pmfs_dot, pmfs)) for i in range(length)))


def evaluate(coef: Table, t: Number) -> Table:
    """sum_n coef[..., n] t**n: schedules [N, m, n], or any table of polynomials, at a time -> [N, m].

    >>> print(*evaluate(exact([[1, -1], [0, 1]]), Fraction(1, 4)))
    3/4 1/4
    """
    return np.asarray(polynomial.polyval(t, np.moveaxis(coef, -1, 0), tensor=False))


def derivative(coef: Table) -> Table:
    """The coefficients of d/dt of polynomials, [..., n] -> [..., n-1]; evaluate them for kappa_dot.

    >>> print(*derivative(exact([1, -1, 3])))
    -1 6
    """
    return np.asarray(polynomial.polyder(coef, axis=-1))


# The problem: pairs, and the components that a path is mixed from


class Problem(NamedTuple):
    """A finite problem: pairs x_0, x_1 int[P, N] of weight pi[P], and their components w[P, m, N, d].

    The weights sum to 1 and each w[pair, j, i] is a PMF. The schedule is no part of it: functions take the
    numbers kappa[N, m] at a time, rows of which sum to 1.
    """

    x_0: Table
    x_1: Table
    pi: Table
    w: Table


def at_x_0(vocab_size: int) -> Table:
    """The component delta_{x_0^i} as a table w(x | x_0, x_1), int[d, d, d] indexed [x_0, x_1, x].

    >>> at_x_0(3)[2, 1].tolist()
    [0, 0, 1]
    """
    return np.broadcast_to(np.eye(vocab_size, dtype=np.int64)[:, None], (vocab_size,) * 3)


def at_x_1(vocab_size: int) -> Table:
    """The component delta_{x_1^i} as a table w(x | x_0, x_1), int[d, d, d] indexed [x_0, x_1, x].

    >>> at_x_1(3)[2, 1].tolist()
    [0, 1, 0]
    """
    return np.broadcast_to(np.eye(vocab_size, dtype=np.int64), (vocab_size,) * 3)


def fixed(pmf: Table) -> Table:
    """The component that is one PMF [d] whatever the pair, such as uniform noise, as a table [x_0, x_1, x].

    >>> print(*fixed(exact(["1/3", "2/3"]))[1, 0])
    1/3 2/3
    """
    return np.broadcast_to(pmf, (len(pmf),) * 3)


def prompted(q: Table, source: Table, prompt: Table) -> Table:
    """Data x_1 ~ q[S] with x_0 = x_1 on the prompt, bool[N], and x_0^i ~ source[i] off it, as pi[S, S].

    pi[x_0, x_1] has row sums p, the law of x_0, and column sums q. No prompt is the independent coupling
    p(x_0) q(x_1) of source PMFs [N, d]; a random prompt is a mixture of these tables.
    Source: Gat et al. 2024, the conditional coupling.

    >>> mask = delta(np.array([2, 2]), 3)
    >>> q = delta(np.array(1), 9)  # the one data point (0, 1)
    >>> x_0, x_1 = np.nonzero(prompted(q, mask, np.array([True, False])))
    >>> states(3, 2)[x_0].tolist(), states(3, 2)[x_1].tolist()
    ([[0, 2]], [[0, 1]])
    """
    copied = _stay(*source.shape)
    return joint_kernel(np.where(prompt[:, None, None], copied, source[:, None, :])) * q


def enumerate_pairs(pi: Table, components: Table) -> Problem:
    """The problem of a coupling pi[S, S] of (x_0, x_1) and components w(x | x_0, x_1), [m, d, d, d].

    Pairs of weight 0 are left out. N is read off S = d**N.

    >>> pi = exact([[0, "1/2"], ["1/4", "1/4"]])
    >>> problem = enumerate_pairs(pi, np.stack([at_x_0(2), at_x_1(2)]))
    >>> problem.x_0.tolist(), problem.x_1.tolist(), problem.w.shape
    ([[0], [1], [1]], [[1], [0], [1]], (3, 2, 1, 2))
    """
    vocab_size = components.shape[-1]
    length = next(n for n in itertools.count(1) if vocab_size**n >= len(pi))
    i_0, i_1 = np.nonzero(pi)
    x_0, x_1 = states(vocab_size, length)[i_0], states(vocab_size, length)[i_1]
    return Problem(x_0, x_1, pi[i_0, i_1], components[:, x_0, x_1].swapaxes(0, 1))


# Paths


def token_marginals(problem: Problem, kappa: Table) -> Table:
    """p_t(x^i | x_0, x_1) = sum_j kappa^{i,j} w^j(x^i | x_0, x_1), [P, N, d]; with kdot, its derivative.

    Source: Gat et al. 2024, the general mixture path.

    >>> problem = Problem(np.array([[0]]), np.array([[1]]), exact([1]), delta(np.array([[[0], [1]]]), 2))
    >>> print(*token_marginals(problem, exact([["1/4", "3/4"]]))[0, 0])
    1/4 3/4
    """
    return np.asarray(np.einsum("ij,pjix->pix", kappa, problem.w))


def conditional(problem: Problem, kappa: Table) -> Table:
    """p_t(x | x_0, x_1) = prod_i p_t(x^i | x_0, x_1), [P, S]. Source: Gat et al. 2024, section 3."""
    return product(token_marginals(problem, kappa))


def marginal(problem: Problem, kappa: Table) -> Table:
    """p_t(x) = sum_pairs pi(x_0, x_1) p_t(x | x_0, x_1), [S]; it does not factorise over tokens.

    Source: Gat et al. 2024, section 3.

    >>> pi = exact([["1/2", 0, 0, "1/2"], [0] * 4, [0] * 4, [0] * 4])  # from (0, 0) to (0, 0) or (1, 1)
    >>> print(*marginal(enumerate_pairs(pi, np.stack([at_x_0(2), at_x_1(2)])), exact([["1/2", "1/2"]] * 2)))
    5/8 1/8 1/8 1/8
    """
    return np.asarray(problem.pi @ conditional(problem, kappa))


def marginal_dot(problem: Problem, kappa: Table, kappa_dot: Table) -> Table:
    """d/dt p_t(x), [S], by the product rule over tokens; it never looks at a velocity.

    Source: calculus, of the paths of Gat et al. 2024.
    """
    tokens, tokens_dot = token_marginals(problem, kappa), token_marginals(problem, kappa_dot)
    return np.asarray(problem.pi @ product_dot(tokens, tokens_dot))


def pair_posterior(problem: Problem, kappa: Table) -> Table:
    """p_t(x_0, x_1 | z) = pi(x_0, x_1) p_t(z | x_0, x_1) / p_t(z), [P, S], and 0 where p_t(z) = 0.

    Source: Bayes' rule; Gat et al. 2024, Theorem 2.

    >>> problem = Problem(np.array([[0], [0]]), np.array([[0], [1]]), exact(["1/2", "1/2"]),
    ...                   delta(np.array([[[0], [0]], [[0], [1]]]), 3))
    >>> pair_posterior(problem, exact([["1/2", "1/2"]])).astype(str).tolist()
    [['2/3', '0', '0'], ['1/3', '1', '0']]
    """
    joint = problem.pi[:, None] * conditional(problem, kappa)
    p = joint.sum(axis=0)
    return np.asarray(joint / np.where(p > 0, p, 1))


class Posteriors(NamedTuple):
    """w_hat[m, N, S, d], and whether each state can be reached, bool[S]."""

    w_hat: Table
    reachable: Table


def posteriors(problem: Problem, kappa: Table) -> Posteriors:
    """w_hat^j(x^i, z) = sum_pairs w^j(x^i | x_0, x_1) p_t(x_0, x_1 | z).

    Where p_t(z) = 0 no posterior is defined: `reachable` is False and w_hat^j(., z) = delta_{z^i} fills the
    gap: such a state never moves.
    Source: Gat et al. 2024, Theorem 3.

    >>> pi = prompted(exact(["2/3", "1/3", 0]), delta(np.array([2]), 3), np.array([False]))
    >>> problem = enumerate_pairs(pi, np.stack([at_x_0(3), at_x_1(3)]))
    >>> w_hat, reachable = posteriors(problem, exact([["1/2", "1/2"]]))
    >>> w_hat[1, 0].astype(str).tolist(), reachable.tolist()  # of x_1 given 0, 1 and the mask
    ([['1', '0', '0'], ['0', '1', '0'], ['2/3', '1/3', '0']], [True, True, True])
    """
    reachable = marginal(problem, kappa) > 0
    w_hat = np.einsum("pjix,pz->jizx", problem.w, pair_posterior(problem, kappa))
    return Posteriors(np.where(reachable[:, None], w_hat, _stay(*problem.w.shape[-2:])), reachable)


def given_pair(problem: Problem, pair: int) -> Table:
    """w^j(x^i | x_0, x_1) of one pair, the same at every state, [m, N, S, d]: a w_hat that knows the pair."""
    m, length, vocab_size = problem.w.shape[1:]
    return np.broadcast_to(problem.w[pair][:, :, None], (m, length, vocab_size**length, vocab_size))


# Velocities


class Coefficients(NamedTuple):
    """a[N, m], b[N] of a velocity, and the component ell, int[N], that has a = 0."""

    a: Table
    b: Table
    ell: Table


def coefficients(kappa: Table, kappa_dot: Table) -> Coefficients:
    """b = min_j kdot^j / kappa^j, reached at ell, and a^j = kdot^j - kappa^j b, token by token; a^ell is 0.

    kappa, kappa_dot: [N, m], rows of kappa sum to 1 and those of kappa_dot to 0; then a >= 0 >= b and
    b + sum_j a^j = 0. A component with kappa = 0 never gives the minimum. Ties go to the lowest index, and no
    velocity depends on it. With -kappa_dot it gives the rates of the process run backwards.
    Raises ValueError where kappa = 0 decreases: the rate is infinite there (the end of a schedule at t = 1).
    Source: Gat et al. 2024, Theorem 3.

    >>> a, b, ell = coefficients(exact([["1/4", "3/4"]]), exact([[-1, 1]]))
    >>> print(*a[0], *b, *ell)
    0 4 -4 0
    """
    active = kappa > 0
    if np.any(~active & (kappa_dot < 0)):
        raise ValueError(f"kappa_dot must not be negative where kappa is 0, got {kappa_dot} at {kappa}")
    ratio = np.where(active, kappa_dot / np.where(active, kappa, 1), np.inf)
    ell = np.argmin(ratio, axis=-1)
    b = np.take_along_axis(ratio, ell[:, None], axis=-1)
    a = np.where(delta(ell, kappa.shape[-1]) == 1, 0, kappa_dot - kappa * b)
    return Coefficients(a, b[:, 0], ell)


def velocity(a: Table, b: Table, w_hat: Table) -> Table:
    """u^i(x^i, z) = sum_j a^{i,j} w_hat^j(x^i, z) + b^i delta_{z^i}(x^i), [N, S, d].

    Marginal with the posteriors, conditional with `given_pair`.
    Source: Gat et al. 2024, Theorem 3.

    >>> u = velocity(exact([[0, 4]]), exact([-4]), exact([[[[1, 0], [1, 0]]], [[["1/4", "3/4"], [0, 1]]]]))
    >>> u[0].astype(str).tolist()
    [['-3', '3'], ['0', '0']]
    """
    _, length, _, vocab_size = w_hat.shape
    stay = _stay(length, vocab_size)
    return np.asarray(np.einsum("ij,jizx->izx", a, w_hat) + b[:, None, None] * stay)


def generator(u: Table) -> Table:
    """Q[x, z] = sum_i 1{x agrees with z off i} u^i(x^i, z), [S, S], whose columns sum to 0.

    It is the derivative at h = 0 of the kernel that draws each token from delta_{z^i} + h u^i.
    Source: Gat et al. 2024; Campbell et al. 2024 (one token changes at a time).

    >>> u = exact([[[-3, 3], [0, 0]]])
    >>> generator(u).astype(int).tolist()
    [[-3, 0], [3, 0]]
    """
    stay = _stay(u.shape[0], u.shape[-1])
    return product_dot(stay.swapaxes(0, 1), u.swapaxes(0, 1)).T


def kolmogorov_residual(p_dot: Table, Q: Table, p: Table) -> Table:
    """dp/dt - Q p, [S]: zero for a velocity that generates the path (the Kolmogorov forward equation)."""
    return np.asarray(p_dot - Q @ p)


# Steps


class FiniteCoefficients(NamedTuple):
    """c[N, m], the probability of a redraw from each component, and stay[N], that of none."""

    c: Table
    stay: Table


def finite_coefficients(kappa_t: Table, kappa_s: Table) -> FiniteCoefficients:
    """stay = min_j kappa_s^j / kappa_t^j and c^j = kappa_s^j - stay kappa_t^j, for any t < s <= 1.

    Given the pair, the step carries p_t(. | x_0, x_1) to p_s(. | x_0, x_1). It is `coefficients` with
    kappa_s for kdot: (kernel - I) / (s-t) is the velocity that belongs to (kappa_s - kappa_t) / (s-t).
    Source: the finite form of Gat et al. 2024, Theorem 3, which it gives as s -> t.

    >>> c, stay = finite_coefficients(exact([["3/4", "1/4"]]), exact([["1/4", "3/4"]]))
    >>> print(*stay, *c[0])
    1/3 0 2/3
    """
    c, stay, _ = coefficients(kappa_t, kappa_s)
    return FiniteCoefficients(c, stay)


def clipped_coefficients(a: Table, b: Table, h: Number) -> FiniteCoefficients:
    """The Euler step that samplers run: a redraw with probability min(1, h|b|), from the mixture a^j / |b|.

    It is Euler's step where h <= 1/|b^i|, and a step of length 1/|b^i| beyond. h > 0.

    >>> c, stay = clipped_coefficients(exact([[0, 4], [0, 1]]), exact([-4, -1]), Fraction(1, 2))
    >>> print(*stay, *c[:, 1])
    0 1/2 1 1/2
    """
    step = 1 / np.maximum(-b, 1 / h)
    return FiniteCoefficients(a * step[:, None], 1 + b * step)


def finite_kernel(c: Table, stay: Table, w_hat: Table) -> Table:
    """K^i(x^i | z) = sum_j c^{i,j} w_hat^j(x^i, z) + stay^i delta_{z^i}(x^i), [N, S, d]: rows are PMFs.

    >>> c, stay = finite_coefficients(exact([["3/4", "1/4"]]), exact([["1/4", "3/4"]]))
    >>> K = finite_kernel(c, stay, exact([[[[1, 0], [1, 0]]], [[["1/4", "3/4"], [0, 1]]]]))
    >>> K[0].astype(str).tolist()
    [['1/2', '1/2'], ['0', '1']]
    """
    return velocity(c, stay, w_hat)


def euler_kernel(u: Table, h: Number) -> Table:
    """delta_{z^i} + h u^i, [N, S, d], as it stands: entries are negative where h > 1/|u^i(z^i, z)|.

    >>> euler_kernel(exact([[[-3, 3], [0, 0]]]), Fraction(1, 2))[0].astype(str).tolist()
    [['-1/2', '3/2'], ['0', '1']]
    """
    return np.asarray(_stay(u.shape[0], u.shape[-1]) + h * u)


def joint_kernel(kernel: Table) -> Table:
    """K[x, z] = prod_i K^i(x^i | z), the tokens independent given z: [N, S, d] -> [S, S].

    >>> joint_kernel(exact([[["1/2", "1/2"], [0, 1]]])).astype(str).tolist()
    [['1/2', '0'], ['1/2', '1']]
    """
    return product(kernel.swapaxes(0, 1)).T


def propagate(p: Table, kernels: Iterable[Table]) -> Table:
    """The laws p, K_1 p, K_2 K_1 p, ...: [S] and matrices [S, S] -> [1 + steps, S].

    >>> propagate(exact([1, 0]), [exact([["1/2", 0], ["1/2", 1]])] * 2)[:, 1].astype(str).tolist()
    ['0', '1/2', '3/4']
    """
    return np.stack(list(itertools.accumulate(kernels, lambda law, K: np.asarray(K @ law), initial=p)))


def total_variation(p: Table, q: Table) -> Any:
    """sum_x |p(x) - q(x)| / 2, [..., S], [..., S] -> [...].

    >>> print(total_variation(exact(["1/4", "3/4"]), exact(["1/2", "1/2"])))
    1/4
    """
    return np.abs(p - q).sum(axis=-1) / 2


# Likelihoods


def path_divergence(u: Table, v: Table) -> Table:
    """sum over i and x != z^i of u log(u / v) - u + v at every state z, float64[S]: two velocities [N, S, d].

    Given a pair, its mean under `conditional` is what a bound on -log of the model's probability integrates over t;
    0 log 0 is 0, and a move that v never makes costs +inf.

    >>> path_divergence(np.array([[[-1.0, 1.0], [1.0, -1.0]]]), np.array([[[-0.5, 0.5], [0.0, 0.0]]]))
    array([0.19314718,        inf])
    """
    u, v = np.asarray(u, dtype=np.float64), np.asarray(v, dtype=np.float64)
    moves = _stay(u.shape[0], u.shape[-1]) == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(u > 0, u * np.log(u / v), 0.0) - u + v
    return np.asarray(np.where(moves, terms, 0.0).sum(axis=(0, -1)))


def prior_divergence(pi: Table, p_0: Table) -> Table:
    """KL(pi(x_0 | x_1) || p_0(x_0)) of every x_1, float64[S], 0 where it never comes: pi[S, S], p_0[S].

    The part of a bound that a coupling costs: 0 where it is independent; its mean over x_1 is the mutual information
    of x_0 and x_1, if p_0 is the marginal. Source: Campbell et al. 2022, the prior term of the bound.

    >>> prior_divergence(np.array([[0.5, 0.0], [0.0, 0.5]]), np.array([0.5, 0.5])) / np.log(2)
    array([1., 1.])
    """
    pi, p_0 = np.asarray(pi, dtype=np.float64), np.asarray(p_0, dtype=np.float64)
    q = pi.sum(axis=0)
    given = pi / np.where(q > 0, q, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(given > 0, given * np.log(given / p_0[:, None]), 0.0).sum(axis=0))


def evolve(Q: Callable[[float], Table], p: Table, times: Sequence[float], *, stages: int = 8) -> Table:
    """The laws at the times of the chain dp/dt = Q_t p that starts at p, float64[len(times), S].

    One step of Gauss's collocation an interval, of order 2 x stages: to rounding where Q is smooth and intervals short.
    Q is never asked at the times themselves, so that the last may be one where it is singular but integrable.

    >>> Q = np.array([[-1.0, 0.0], [1.0, 0.0]])
    >>> float(evolve(lambda t: Q, np.array([1.0, 0.0]), [0.0, 1.0])[1, 0] - np.exp(-1)) < 1e-14
    True
    """
    x, w = np.polynomial.legendre.leggauss(stages)
    P = np.polynomial.legendre.legvander(x, stages)
    before = np.hstack([-np.ones((stages, 1)), P[:, : stages - 1]])
    A = (P[:, 1:] - before) @ (P[:, :stages] * w[:, None]).T / 4  # to each node on [0, 1]
    laws = [np.asarray(p, dtype=np.float64)]
    for t, s in itertools.pairwise(times):
        rates = np.stack([np.asarray(Q(t + (s - t) * (node + 1) / 2), dtype=np.float64) for node in x])
        size = rates.shape[-1]
        system = np.eye(stages * size) - (s - t) * np.einsum("kxz,kj->kxjz", rates, A).reshape(stages * size, -1)
        slopes = np.linalg.solve(system, (rates @ laws[-1]).ravel()).reshape(stages, size)
        laws.append(laws[-1] + (s - t) * (w / 2) @ slopes)
    return np.stack(laws)


def any_order_law(p_hat: Table, mask: int) -> Table:
    """The probability of every state under a mask model free of time, [S]: 0 where a token is still the mask.

    p(x) = 1 / N! sum over orders of prod_i p_hat^i(x^i | those before); p_hat[N, S, d] given the state, revealed or
    not. It is the law of the chain at t = 1 for any schedule that all tokens share.

    >>> p_hat = np.broadcast_to(exact(["1/4", "3/4", 0]), (2, 9, 3))
    >>> print(*any_order_law(p_hat, 2)[[0, 1, 3, 4]])
    1/16 3/16 3/16 9/16
    """
    length, size, vocab_size = p_hat.shape
    x = states(vocab_size, length)
    place = vocab_size ** np.arange(length)[::-1]
    mean = [0 * p_hat[0, 0, 0]] * size  # over orders, of revealing what the state shows
    for k in sorted(range(size), key=lambda k: int(np.sum(x[k] != mask))):
        shown = np.flatnonzero(x[k] != mask)
        ways = [
            mean[k + (mask - x[k, i]) * place[i]] * p_hat[i, k + (mask - x[k, i]) * place[i], x[k, i]] for i in shown
        ]
        mean[k] = sum(ways[1:], ways[0]) / len(shown) if ways else mean[k] + 1
    return np.where((x == mask).any(axis=-1), 0, np.array(mean))


def any_order_bound(p_hat: Table, mask: int) -> Table:
    """The mean over orders of sum_i -log p_hat^i(x^i | those before), float64[S]: +inf where a token is the mask.

    By the orders themselves, N! of them.

    >>> p_hat = np.broadcast_to(np.array([0.25, 0.75, 0.0]), (1, 3, 3))
    >>> any_order_bound(p_hat, 2)
    array([1.38629436, 0.28768207,        inf])
    """
    length, _, vocab_size = p_hat.shape
    x = states(vocab_size, length)
    place = vocab_size ** np.arange(length)[::-1]
    orders = list(itertools.permutations(range(length)))
    nats = np.zeros(len(x))
    for order in orders:
        z = np.full_like(x, mask)
        for i in order:
            with np.errstate(divide="ignore"):
                nats -= np.log(np.asarray(p_hat[i, z @ place, x[:, i]], dtype=np.float64))
            z[:, i] = x[:, i]
    return np.where((x == mask).any(axis=-1), np.inf, nats / len(orders))


def _stay(length: int, vocab_size: int) -> Table:
    """delta_{z^i}(x^i), int[N, S, d].

    >>> _stay(1, 2).tolist()
    [[[1, 0], [0, 1]]]
    """
    return delta(states(vocab_size, length).T, vocab_size)

"""Test vectors: a JSON file of cases that any implementation, in any language, can check itself against.

`write` makes a file; its numbers come from the exact tables of `reference`. `check` recomputes every case from the
public functions of the library: coefficients, velocities, one-step laws, losses and continuous quantities. The oracle
only enumerates states, gives posteriors and propagates laws, so that a file that holds proves the library.

A file has `specs`, paths by name, and `cases`, each with an `id`, a `kind`, its inputs and its outputs. Numbers are
plain, or strings "p/q" or decimal; `null` is undefined and not compared. States are numbered as in `oracle.states`.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from .. import events, exact, guidance, kinetic, likelihoods, losses, paths, transitions, velocities
from ..arrays import log_softmax
from ..checkpoints import write as write_file
from ..continuous import gaussian_paths, planar
from ..paths import X0, X1, Fixed, Mixture, Table
from ..schedules import Bernstein, Complement, Convex, Cosine, Kappa, Linear, Monotone, PerToken, Polynomial, Schedule
from . import oracle
from .convergence import two_stages

__all__ = ["SHIPPED", "Mismatch", "Report", "check", "write"]

SHIPPED = Path(__file__).with_name("vectors.json")
"""The file that comes with the package: what `write` makes of seed 0."""

Floats: TypeAlias = np.ndarray[Any, Any]
Outputs: TypeAlias = dict[str, Any]
"""Arrays by the name of their field; entries that are undefined are masked."""

_EXACT, _INTEGRATED = (1e-9, 1e-12), (1e-6, 1e-9)
"""Tolerances, relative and absolute, of closed forms and of what needs an ODE or a quadrature."""


_MOST_STATES = 1024


class Mismatch(NamedTuple):
    """A number of a case that does not hold: where it stands, what the file wants and what the library gives."""

    id: str
    kind: str
    field: str
    place: tuple[int, ...]
    want: str
    got: float

    def __str__(self) -> str:
        place = "".join(f"[{i}]" for i in self.place)
        return f"{self.id} ({self.kind}): {self.field}{place}: want {self.want}, got {self.got:.17g}"


class Report(NamedTuple):
    """How many cases a file has, how many of them hold, and every number that does not."""

    cases: int
    held: int
    mismatches: list[Mismatch]


def check(file: Path) -> Report:
    """Recomputes every case of a file with the library, and compares.

    A number holds within 1e-9 |want| + 1e-12; laws by ODE and bounds by quadrature within 1e-6 |want| + 1e-9.
    Raises ValueError, one sentence that names the case, where the file is malformed; OSError where it cannot be read.

    >>> report = check(SHIPPED)
    >>> report.held == report.cases, report.mismatches
    (True, [])
    """
    specs, cases = _read(file)
    found = []
    for number, fields in enumerate(cases):
        name = fields.get("id", number) if isinstance(fields, dict) else number
        try:
            with np.errstate(all="ignore"):  # what overflows is a number that does not hold
                found.append(_mismatches(_Case(_object(fields), specs)))
        except (ValueError, ArithmeticError) as error:
            raise ValueError(f"{file}: case {_short(name)}: {error}") from None
    return Report(len(cases), sum(not each for each in found), [mismatch for each in found for mismatch in each])


def write(file: Path, *, seed: int = 0) -> None:
    """Writes a file with cases of every kind and method, replaced whole or not at all.

    Equal seeds, equal bytes; on another kind of processor but for the last digits of what is integrated in floats.
    Raises OSError where it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "vectors.json"))
    ...     len(check(Path(folder, "vectors.json")).mismatches)
    0
    """
    from .reference import document

    write_file(file, document(seed=seed).encode())


# Reading


def _read(file: Path) -> tuple[dict[str, "_Spec"], list[Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text, parse_float=str, parse_constant=str)  # decimals stay exact
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected whole JSON, got {error}") from None
    try:
        content = _object(content)
        for name, kind in (("specs", dict), ("cases", list)):
            if not isinstance(content.get(name), kind):
                raise ValueError(f"expected {name!r}, a {kind.__name__}, got {_short(content.get(name))}")
        specs = {}
        for name, fields in content["specs"].items():
            try:
                specs[name] = _spec(_object(fields))
            except ValueError as error:
                raise ValueError(f"spec {name}: {error}") from None
        return specs, content["cases"]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


_NUMBER = re.compile(r"[+-]?\d+/0*[1-9]\d*|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


def _number(name: str, value: Any) -> Fraction:
    """An exact number, plain or as a string."""
    if type(value) is int or (type(value) is str and _NUMBER.fullmatch(value)):
        number = Fraction(value)
        if abs(number) < 10**100:  # else it may be no float
            return number
    raise ValueError(f"{name}: expected a number, plain, decimal or p/q, got {_short(value)}")


def _natural(name: str, value: Any, below: float = math.inf) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise ValueError(f"{name}: expected an integer in [0, {below}), got {_short(value)}")
    return value


def _list(name: str, value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or len(value) != (len(value) if length is None else length) or not value:
        count = "one or more" if length is None else length
        raise ValueError(f"{name}: expected a list of {count}, got {_short(value)}")
    return value


def _numbers(name: str, value: Any, *shape: int | None) -> Any:
    """Nested lists of exact numbers; a size of None is free."""
    if not shape:
        return _number(name, value)
    return [_numbers(name, row, *shape[1:]) for row in _list(name, value, shape[0])]


def _floats(name: str, value: Any, *shape: int | None) -> Floats:
    return np.array(_numbers(name, value, *shape), dtype=np.float64)


def _pmf(name: str, value: Any, *shape: int | None) -> Floats:
    table = _floats(name, value, *shape)
    if np.any(table < 0) or np.any(np.abs(table.sum(-1) - 1) > 1e-9):
        raise ValueError(f"{name}: expected probabilities that sum to 1, got {_short(value)}")
    return table


def _tokens(name: str, value: Any, length: int, vocab_size: int) -> Floats:
    return np.array([_natural(name, x, vocab_size) for x in _list(name, value, length)])


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {_short(value)}")
    return value


def _field(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"expected {name!r}, which is missing")
    return fields[name]


def _named(name: str, table: dict[str, Any], value: Any) -> Any:
    if not isinstance(value, str) or value not in table:
        raise ValueError(f"{name}: expected one of {', '.join(table)}, got {_short(value)}")
    return table[value]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Paths


class _Spec(NamedTuple):
    """A path of the library, and its pairs as the oracle enumerates them."""

    vocab_size: int
    length: int
    path: Mixture
    data: int
    """The component that carries the data."""
    share: Monotone
    """kappa of that component, one for each token."""
    problem: oracle.Problem

    @property
    def states(self) -> Floats:
        return oracle.states(self.vocab_size, self.length)

    def at(self, t: Fraction) -> Floats:
        """kappa, float64[N, m]."""
        return self._table(self.path.schedule.kappas(np.array([float(t)])))

    def rise(self, t: Fraction) -> Floats:
        """kappa_dot, float64[N, m]."""
        return self._table(self.path.schedule.kappa_dots(np.array([float(t)])))

    def _table(self, columns: tuple[Floats, ...]) -> Floats:
        return np.stack([np.broadcast_to(column, (self.length,)) for column in columns], axis=-1)

    def law(self, t: Fraction) -> Floats:
        """p_t, float64[S]."""
        problem = self.problem
        tokens = paths.pmf(self.path, problem.x_0, problem.x_1, float(t), vocab_size=self.vocab_size)
        return np.asarray(problem.pi @ oracle.product(tokens))

    def pairs(self, x_0: Floats, x_1: Floats, pi: Floats) -> oracle.Problem:
        """Pairs int[P, N] of weights float64[P], with their components."""
        w = paths.component_pmfs(self.path, x_0, x_1, vocab_size=self.vocab_size)
        return oracle.Problem(x_0, x_1, pi, np.stack(w, axis=1))

    def given(self, x_1: Floats) -> oracle.Problem:
        """The pairs of the coupling with this x_1, of weight 1 in all."""
        rows = np.all(self.problem.x_1 == x_1, axis=-1)
        pi = self.problem.pi[rows]
        if not pi.sum() > 0:
            raise ValueError("x1: expected data of the coupling, got a sequence of probability 0")
        return self.pairs(self.problem.x_0[rows], self.problem.x_1[rows], pi / pi.sum())


@dataclass(frozen=True)
class _Power:
    """sum_n coefficients[n] t^n in exact numbers, at the fraction that t stands for: a zero inside (0, 1) stays 0."""

    coefficients: tuple[Fraction, ...]

    def kappa(self, t: Any) -> Any:
        return _exactly(self.coefficients, t)

    def kappa_dot(self, t: Any) -> Any:
        return _exactly(tuple(n * c for n, c in enumerate(self.coefficients))[1:] or (Fraction(0),), t)


def _exactly(coefficients: tuple[Fraction, ...], t: Any) -> Any:
    def value(t: float) -> float:
        simple = Fraction(t).limit_denominator(1 << 20)
        exact = simple if float(simple) == t else Fraction(t)
        return float(reduce(lambda total, c: total * exact + c, reversed(coefficients)))

    return np.vectorize(value, otypes=[np.float64])(t)


def _polynomial(coefficients: list[Fraction]) -> Kappa:
    """Control points that are >= 0 keep every digit; a polynomial that has others is computed in fractions."""
    n = len(coefficients) - 1
    control = [
        sum(Fraction(math.comb(k, i), math.comb(n, i)) * c for i, c in enumerate(coefficients[: k + 1]))
        for k in range(n + 1)
    ]
    return Bernstein(tuple(map(float, control))) if min(control) >= 0 else _Power(tuple(coefficients))


def _kappa(fields: Any) -> Kappa:
    kinds: dict[str, Callable[[], Kappa]] = {
        "poly": lambda: _polynomial(_numbers("coef", _field(fields, "coef"), None)),
        "sin2": Cosine,
        "cos2": lambda: Complement(Cosine()),
    }
    return _named("type", kinds, _field(_object(fields), "type"))()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Share(Monotone):
    """kappa of the data beside the other components, each a tuple of N functions: float[..., 1] -> float[..., N]."""

    components: tuple[tuple[Kappa, ...], ...]
    data: int

    def kappa(self, t: Any) -> Any:
        return np.concatenate([token[self.data].kappa(t) for token in self.components], axis=-1)

    def kappa_dot(self, t: Any) -> Any:
        return np.concatenate([token[self.data].kappa_dot(t) for token in self.components], axis=-1)

    def one_minus_kappa(self, t: Any) -> Any:
        rest = [[k.kappa(t) for j, k in enumerate(token) if j != self.data] for token in self.components]
        return np.concatenate([sum(kappas) for kappas in rest], axis=-1)


def _component(fields: Any, vocab_size: int) -> paths.Component:
    def probs(rank: int) -> Any:
        return _nested(_pmf("probs", _field(fields, "probs"), *(vocab_size,) * rank))

    kinds: dict[str, Callable[[], paths.Component]] = {
        "x0": X0,
        "x1": X1,
        "fixed": lambda: Fixed(probs(1)),
        "table": lambda: Table(probs(3)),
    }
    return _named("type", kinds, _field(_object(fields), "type"))()  # type: ignore[no-any-return]


def _nested(table: Floats) -> Any:
    return tuple(map(_nested, table)) if table.ndim > 1 else tuple(table.tolist())


def _spec(fields: dict[str, Any]) -> _Spec:
    vocab_size, length = (_natural(name, _field(fields, name)) for name in ("d", "N"))
    if not (vocab_size and length and length < 20 and vocab_size**length <= _MOST_STATES):
        raise ValueError(f"d, N: expected 1 to {_MOST_STATES} states to enumerate, got d = {vocab_size}, N = {length}")
    components = tuple(_component(w, vocab_size) for w in _list("w", _field(fields, "w")))
    kappas = tuple(
        tuple(_kappa(k) for k in _list("kappa", row, len(components)))
        for row in _list("kappa", _field(fields, "kappa"), length)
    )
    if X1() not in components:
        raise ValueError("w: expected a component x1, which carries the data")
    tokens = tuple(map(Convex, kappas))
    schedule: Schedule = tokens[0] if len(set(tokens)) == 1 else PerToken(tokens)
    path = Mixture(schedule, components)
    pairs = [_list("pi", row, 3) for row in _list("pi", _field(fields, "pi"))]
    pi = _pmf("pi", [row[2] for row in pairs], None)
    x_0, x_1 = (np.stack([_tokens("pi", row[end], length, vocab_size) for row in pairs]) for end in (0, 1))
    w = np.stack(paths.component_pmfs(path, x_0, x_1, vocab_size=vocab_size), axis=1)
    data = components.index(X1())
    return _Spec(vocab_size, length, path, data, _Share(kappas, data), oracle.Problem(x_0, x_1, pi, w))


# Models


class _Exact:
    """The posteriors of the path itself, m arrays float64[S, N, d], and which states it reaches."""

    def __init__(self, spec: _Spec) -> None:
        self.spec = spec

    def __call__(self, t: Fraction) -> tuple[tuple[Floats, ...], Floats]:
        w_hat, reachable = oracle.posteriors(self.spec.problem, self.spec.at(t))
        return tuple(np.swapaxes(w_hat, 1, 2)), reachable


@dataclass(frozen=True)
class _Mixed:
    """(1 - eps) w_hat + eps base, and the base alone where w_hat is undefined; with a mask, of hidden tokens only."""

    exact: _Exact
    eps: float
    base: Floats
    mask: int | None

    def __call__(self, t: Fraction) -> tuple[tuple[Floats, ...], Floats]:
        w_hat, reachable = self.exact(t)
        share = np.where(reachable, 1 - self.eps, 0.0)[:, None, None]
        mixed = [share * w + (1 - share) * self.base for w in w_hat]
        if self.mask is not None:
            spec, x = self.exact.spec, self.exact.spec.states
            here, hidden = oracle.delta(x, spec.vocab_size), (x == self.mask)[..., None]
            source = np.broadcast_to(oracle.delta(np.array(self.mask), spec.vocab_size), here.shape)
            for j, component in enumerate(spec.path.components):
                if isinstance(component, X0):
                    mixed[j] = source.astype(np.float64)
                elif j == spec.data:
                    mixed[j] = np.where(hidden, mixed[j], here)
        return tuple(mixed), np.ones_like(reachable)


def _model(fields: Any, spec: _Spec) -> Callable[[Fraction], tuple[tuple[Floats, ...], Floats]]:
    kind, exact = _field(_object(fields), "type"), _Exact(spec)
    if _named("model", {"exact": True, "mix": False, "mask_mix": False}, kind):
        return exact
    eps, base = _number("eps", _field(fields, "eps")), _pmf("base", _field(fields, "base"), spec.vocab_size)
    if not 0 <= eps <= 1:
        raise ValueError(f"eps: expected a share in [0, 1], got {eps}")
    mask = _natural("mask", _field(fields, "mask"), spec.vocab_size) if kind == "mask_mix" else None
    return _Mixed(exact, float(eps), base, mask)


# Cases


@dataclass(frozen=True)
class _Case:
    """The inputs of a case, checked as they are asked for."""

    fields: dict[str, Any]
    specs: dict[str, _Spec]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    @cached_property
    def spec(self) -> _Spec:
        return _named("spec", self.specs, _field(self.fields, "spec"))  # type: ignore[no-any-return]

    @cached_property
    def model(self) -> Callable[[Fraction], tuple[tuple[Floats, ...], Floats]]:
        return _model(_field(self.fields, "model"), self.spec)

    def number(self, name: str) -> Fraction:
        return _number(name, _field(self.fields, name))

    def floats(self, name: str, *shape: int | None) -> Floats:
        return _floats(name, _field(self.fields, name), *shape)

    def time(self, name: str = "t") -> Fraction:
        t = self.number(name)
        if not 0 <= t <= 1:
            raise ValueError(f"{name}: expected a time in [0, 1], got {t}")
        return t

    def later(self, name: str, t: Fraction) -> Fraction:
        s = self.time(name)
        if not t < s:
            raise ValueError(f"{name}: expected a time after {t}, got {s}")
        return s

    def natural(self, name: str, below: float = math.inf) -> int:
        return _natural(name, _field(self.fields, name), below)

    def tokens(self, name: str) -> Floats:
        return _tokens(name, _field(self.fields, name), self.spec.length, self.spec.vocab_size)

    def state(self, name: str) -> int:
        """The index of a state."""
        return int(_index(self.spec, self.tokens(name)))


def _mismatches(case: _Case) -> list[Mismatch]:
    if not isinstance(_field(case.fields, "id"), str):
        raise ValueError(f"id: expected a string, got {_short(case.fields['id'])}")
    kind = _field(case.fields, "kind")
    outputs = _named("kind", _KINDS, kind)(case)
    relative, absolute = _INTEGRATED if kind in _BY_INTEGRATION else _EXACT
    found: list[Mismatch] = []

    def compare(field: str, want: Any, got: Any, index: tuple[int, ...]) -> None:
        if want is None:
            return
        if np.ndim(got):
            for i, row in enumerate(_list(field, want, len(got))):
                compare(field, row, got[i], (*index, i))
            return
        number = _number(field, want)
        if got is np.ma.masked:
            return
        if not abs(float(number - Fraction(float(got)) if np.isfinite(got) else math.inf)) <= (
            relative * abs(float(number)) + absolute
        ):
            found.append(Mismatch(case.fields["id"], kind, field, index, str(want), float(got)))

    for field, got in outputs.items():
        compare(field, _field(case.fields, field), got, ())
    return found


def _known(table: Floats, reachable: Floats) -> Any:
    """A table [S, N, d] as [N, S, d], masked at states that the path does not reach."""
    swapped = np.swapaxes(table, 0, 1)
    return np.ma.array(swapped, mask=np.broadcast_to(~reachable[None, :, None], swapped.shape))


def _path_marginal(case: _Case) -> Outputs:
    spec, t = case.spec, case.time()
    tokens, rise = paths.pmf(spec.path, *spec.problem[:2], float(t), vocab_size=spec.vocab_size), spec.rise(t)
    tokens_dot = np.einsum("ij,pjix->pix", rise, spec.problem.w)
    return {"p": spec.law(t), "dp": spec.problem.pi @ oracle.product_dot(tokens, tokens_dot)}


def _coefficients(case: _Case) -> Outputs:
    spec, t = case.spec, case.time()
    token, now = case.natural("token", spec.length), np.array([float(t)])

    def here(column: Floats) -> float:
        return float(np.broadcast_to(column, (spec.length,))[token])

    kappa = np.array([here(k) for k in spec.path.schedule.kappas(now)])
    outputs: Outputs = {"kappa": kappa, "kappa_dot": [here(k) for k in spec.path.schedule.kappa_dots(now)]}
    directions = (("", 1, Fraction(1), events.intensity, events.redraw_rates),
                  ("_max", -1, Fraction(0), events.backward_intensity, events.backward_rates))  # fmt: skip
    for ending, sign, end, intensity, rates in directions:
        names = [f"{name}{ending}" for name in ("a", "b", "ell")]
        if t != end or any(case.fields.get(name) is not None for name in names):  # at its end a rate may be infinite
            rate = here(intensity(spec.path.schedule, now))
            if not math.isfinite(rate):
                raise ValueError(f"t: expected a time at which {names[1]} is finite, got {t}")
            a = np.array([here(rate) for rate in rates(spec.path.schedule, now)])
            tied = (kappa > 0) & (a <= 1e-12 * (1 + rate) * kappa)
            outputs |= dict(zip(names, (sign * a, -sign * rate, int(np.argmax(tied))), strict=True))
    return outputs


def _posterior(case: _Case) -> Outputs:
    w_hat, reachable = _Exact(case.spec)(case.time())
    return {"w_hat": np.ma.stack([_known(w, reachable) for w in w_hat])}


def _forward(case: _Case, t: Fraction, model: Any) -> tuple[Floats, Floats]:
    """The velocity at every state, float64[S, N, d], and which states are reached."""
    w_hat, reachable = model(t)
    return velocities.forward(case.spec.path, w_hat, case.spec.states, float(t)), reachable


def _velocity(case: _Case) -> Outputs:
    return {"u": _known(*_forward(case, case.time(), _Exact(case.spec)))}


def _backward_velocity(case: _Case) -> Outputs:
    t = case.time()
    w_hat, reachable = _Exact(case.spec)(t)
    return {"u": _known(velocities.backward(case.spec.path, w_hat, case.spec.states, float(t)), reachable)}


def _corrector_velocity(case: _Case) -> Outputs:
    t, alpha, beta = case.time(), case.number("alpha"), case.number("beta")
    w_hat, reachable = _Exact(case.spec)(t)
    arguments = case.spec.path, w_hat, case.spec.states, float(t)
    if alpha - beta in (0, 1) and min(alpha, beta) >= 0:
        u = velocities.corrected(*arguments, alpha=float(alpha), beta=float(beta))
    else:  # no strengths that the library lends itself to
        u = float(alpha) * velocities.forward(*arguments) - float(beta) * velocities.backward(*arguments)
    return {"u": _known(u, reachable)}


def _given_pair(spec: _Spec, x_0: Floats, x_1: Floats, t: Fraction) -> Floats:
    """The conditional velocity of pairs int[..., N] at every state, float64[..., S, N, d]."""
    x = np.broadcast_to(spec.states, (*x_0.shape[:-1], *spec.states.shape))
    x_0, x_1 = (np.broadcast_to(end[..., None, :], x.shape) for end in (x_0, x_1))
    return np.asarray(velocities.conditional(spec.path, x_0, x_1, x, float(t), vocab_size=spec.vocab_size))


def _conditional_velocity(case: _Case) -> Outputs:
    u = _given_pair(case.spec, case.tokens("x0"), case.tokens("x1"), case.time())
    return {"u": np.swapaxes(u, 0, 1)}


# One-step laws


def _joint(tokens: Floats) -> Floats:
    """The matrix [x, z] of token laws float64[S, N, d] given z."""
    return oracle.joint_kernel(np.swapaxes(tokens, 0, 1))


def _euler(case: _Case, t: Fraction, s: Fraction) -> Floats:
    return _joint(transitions.euler(_forward(case, t, case.model)[0], case.spec.states, float(s - t)))


def _exponential(case: _Case, t: Fraction, s: Fraction) -> Floats:
    return _joint(transitions.exponential(_forward(case, t, case.model)[0], case.spec.states, float(s - t)))


def _finite(case: _Case, t: Fraction, s: Fraction) -> Floats:
    return _joint(transitions.finite(case.spec.path, case.model(t)[0], case.spec.states, float(t), float(s)))


def _ancestral(case: _Case, t: Fraction, s: Fraction) -> Floats:
    """The finite step of the data against everything else."""
    probs_1 = case.model(t)[0][case.spec.data]
    return _joint(transitions.finite(Mixture(case.spec.share), probs_1, case.spec.states, float(t), float(s)))


def _meta(case: _Case, t: Fraction, s: Fraction) -> Floats:
    div_free = case.number("div_free") if "div_free" in case else Fraction(0)
    source = _pmf("p0", _field(case.fields, "p0"), case.spec.vocab_size) if div_free else None
    arguments = case.spec.share, case.model(t)[0][case.spec.data], case.spec.states, float(t), float(s - t)
    return _joint(transitions.flow_matching(*arguments, div_free=float(div_free), source_pmf=source))


def _trapezoid(case: _Case, t: Fraction, s: Fraction) -> Floats:
    theta, states = case.number("theta"), case.spec.states
    if not 0 < theta < 1:
        raise ValueError(f"theta: expected a number in (0, 1), got {theta}")
    u, middle = _forward(case, t, case.model)[0], _forward(case, t + theta * (s - t), case.model)[0]
    return two_stages(u, middle, states, float(s - t), theta=float(theta))


def _predictor_corrector(case: _Case, t: Fraction, s: Fraction) -> Floats:
    count, step = case.natural("corrector_iters"), case.number("corrector_step")
    arguments = case.spec.path, case.model(s)[0], case.spec.states, float(s)
    u = velocities.corrected(*arguments, alpha=1.0, beta=1.0)
    corrector = _joint(transitions.euler(u, case.spec.states, float(step)))
    return np.linalg.matrix_power(corrector, count) @ _euler(case, t, s)


_METHODS: dict[str, Callable[[_Case, Fraction, Fraction], Floats]] = {
    "euler": _euler,
    "exp": _exponential,
    "finite": _finite,
    "kappa": _ancestral,
    "meta": _meta,
    "trapezoid": _trapezoid,
    "pc": _predictor_corrector,
}


def _one_step(case: _Case) -> Outputs:
    t, h, z = case.time(), case.number("h"), case.state("z")
    if not (h > 0 and t + h <= 1):
        raise ValueError(f"h: expected a step > 0 that ends by 1, got {h} from {t}")
    law = _named("method", _METHODS, _field(case.fields, "method"))(case, t, t + h)[:, z]
    return {"law": np.ma.array(law, mask=~np.broadcast_to(case.model(t)[1][z], law.shape))}


def _k_step(case: _Case) -> Outputs:
    t_0, count = case.time("t0"), case.natural("K", 1 << 16)
    t_1 = case.later("t1", t_0)
    method = _named("method", _METHODS, _field(case.fields, "method"))
    grid = [t_0 + (t_1 - t_0) * Fraction(k, max(1, count)) for k in range(count + 1)]
    kernels = (method(case, *ends) for ends in pairwise(grid))
    return {"law": oracle.propagate(case.spec.law(t_0), kernels)[-1]}


# Laws of the continuous-time process


def _index(spec: _Spec, x: Floats) -> Floats:
    """The places of states int[..., N] in the order of `oracle.states`."""
    return np.asarray(x @ spec.vocab_size ** np.arange(spec.length)[::-1])


def _time_free(case: _Case) -> Callable[[Floats, Any], Floats]:
    """The logits that the model gives for the data, a function of the state alone, as on every mask path."""
    spec = case.spec
    if np.any(spec.problem.x_0 != spec.vocab_size - 1) or np.any(spec.problem.x_1 == spec.vocab_size - 1):
        raise ValueError("spec: expected a mask source: x0 all d - 1, and no such token in the data")
    probs_1 = case.model(Fraction(1, 2))[0][spec.data]
    known = np.sum(probs_1[..., :-1], axis=-1, keepdims=True) > 0  # anything serves at states that are never reached
    logits = _log(np.where(known, probs_1, 1.0))
    return lambda x, t: logits[_index(spec, x)]


def _any_order_law(case: _Case) -> Outputs:
    spec, model = case.spec, _time_free(case)
    if isinstance(spec.path.schedule, PerToken):  # no longer are all orders equally likely
        return {"law": _evolve(case, spec.law(Fraction(0)), Fraction(0), Fraction(1))}
    shown = np.all(spec.states < spec.vocab_size - 1, axis=-1)
    law = np.zeros(len(shown))
    law[shown] = np.exp(-likelihoods.any_order(model, spec.states[shown], mask=spec.vocab_size - 1))
    return {"law": law}


def _evolve(case: _Case, law: Floats, t_0: Fraction, t_1: Fraction) -> Floats:
    """The law at t_1 of dp/dt = Q p with the model's forward velocity, started from a law at t_0.

    In the clock -log(1 - t), in which rates stay bounded and tend to a limit: t_1 = 1 is integrated until the clock
    reads 30 log 2, and from there on the limit runs for ever.
    """

    def slope(clock: float) -> Floats:
        t = -math.expm1(-clock)
        return oracle.generator(np.swapaxes(_forward(case, Fraction(t), case.model)[0], 0, 1)) * (1 - t)

    last = 30 * math.log(2)
    ends = -math.log1p(-float(t_0)), min(last, -math.log1p(-float(t_1)) if t_1 < 1 else math.inf)
    if ends[0] < ends[1]:
        solved = solve_ivp(lambda clock, p: slope(clock) @ p, ends, law, method="DOP853", rtol=1e-10, atol=1e-13)
        if not solved.success:
            raise ArithmeticError(f"t1: expected a law that can be integrated, got {solved.message}")
        law = solved.y[:, -1]
    if t_1 < 1:
        return law
    limit = 2 * slope(last) - slope(last - math.log(2))  # the rates beside the limit are proportional to 1 - t
    limit = np.where(np.abs(limit) < 1e-7, 0.0, limit)
    kernel = expm(limit - np.diag(limit.sum(axis=0)))
    for _ in range(20):
        kernel = kernel @ kernel
        kernel = kernel / kernel.sum(axis=0)
    return np.asarray(kernel @ law)


def _ctmc_law(case: _Case) -> Outputs:
    t_0 = case.time("t0")
    return {"law": _evolve(case, case.spec.law(t_0), t_0, case.later("t1", t_0))}


# Losses


def _log(p: Floats) -> Floats:
    return np.log(np.where(p > 0, p, 1.0)) + np.where(p > 0, 0.0, -np.inf)


def _expected(weights: Floats, values: Floats) -> float:
    """sum of weights values, where values of weight 0 count nothing, infinite ones too."""
    return float(np.sum(weights * np.where(weights > 0, values, 0.0)))


def _cross_entropy(case: _Case) -> Outputs:
    spec, t = case.spec, case.time()
    law, every = spec.law(t)[:, None, None], np.arange(spec.vocab_size)
    total = 0.0
    for w_hat, w_model in zip(_Exact(spec)(t)[0], case.model(t)[0], strict=True):
        y = np.broadcast_to(every, w_hat.shape)  # Y is drawn given the pair: given the state, its law is w_hat
        logits = np.broadcast_to(_log(w_model)[:, :, None, :], (*w_hat.shape, spec.vocab_size))
        total += _expected(law * w_hat, losses.cross_entropy(logits, y))
    return {"value": total}


def _running(case: _Case, problem: oracle.Problem, t: Fraction) -> float:
    """E over pairs and z ~ p_t(.|x_0, x_1) of the path KL, summed over tokens, per unit of t."""
    spec = case.spec
    u = _given_pair(spec, problem.x_0, problem.x_1, t)
    v = np.broadcast_to(_forward(case, t, case.model)[0], u.shape)
    x = np.broadcast_to(spec.states, u.shape[:-1])
    tokens = paths.pmf(spec.path, problem.x_0, problem.x_1, float(t), vocab_size=spec.vocab_size)
    return _expected(problem.pi[:, None] * oracle.product(tokens), np.sum(losses.path_kl(u, v, x), axis=-1))


def _integrated(case: _Case, problem: oracle.Problem, T: Fraction) -> float:
    """int_0^T of the running term."""
    cuts = [0.0, *(t for t in events.switches(case.spec.path.schedule) if t < T), float(T)]
    settings = {"epsabs": 1e-11, "epsrel": 1e-9, "limit": 200, "full_output": 1}  # which does not warn
    parts = [quad(lambda t: _running(case, problem, Fraction(t)), *ends, **settings)[0] for ends in pairwise(cuts)]
    return math.fsum(parts)


def _elbo_integrand(case: _Case) -> Outputs:
    spec, t = case.spec, case.time()
    pair = spec.pairs(case.tokens("x0")[None], case.tokens("x1")[None], np.ones(1))
    return {"value": _running(case, pair, t)}


def _mask_elbo(case: _Case) -> Outputs:
    spec, x_1, model = case.spec, case.tokens("x1")[None], _time_free(case)
    mask = spec.vocab_size - 1
    if isinstance(spec.path.schedule, PerToken):
        elbo = _integrated(case, spec.pairs(np.full_like(x_1, mask), x_1, np.ones(1)), Fraction(1))
    else:
        elbo = float(likelihoods.any_order_bound(model, x_1, mask=mask)[0])
    return {"elbo": elbo, "nll": -_log(_any_order_law(case)["law"][case.state("x1")])}


def _elbo_parts(case: _Case) -> Outputs:
    spec, T, x_1 = case.spec, case.later("T", Fraction(0)), case.tokens("x1")
    problem = spec.given(x_1)
    start = spec.law(Fraction(0))
    chosen = np.bincount(_index(spec, problem.x_0), weights=problem.pi, minlength=len(start))
    prior = _expected(chosen, _log(chosen) - _log(np.where(chosen > 0, start, 1.0)))
    probs_1 = case.model(T)[0][spec.data]
    nats = losses.cross_entropy(_log(probs_1), np.broadcast_to(x_1, spec.states.shape)).sum(axis=-1)
    tokens = paths.pmf(spec.path, problem.x_0, problem.x_1, float(T), vocab_size=spec.vocab_size)
    evidence = _expected(_evolve(case, start, Fraction(0), T), np.exp(-nats))
    return {
        "prior": prior,
        "running": _integrated(case, problem, T),
        "terminal": _expected(problem.pi @ oracle.product(tokens), nats),
        "nll": -_log(np.asarray(evidence)),
    }


def _schedule(name: str, value: Any) -> Monotone:
    """A schedule as a string: t, t^n or sin^2(pi t/2), after kappa= or not."""
    text = value.removeprefix("kappa=").replace(" ", "").replace("*", "") if isinstance(value, str) else ""
    if text == "sin^2(pit/2)":
        return Cosine()
    found = re.fullmatch(r"t(?:\^(\d{1,3}))?", text)
    if not found or found[1] == "0":
        raise ValueError(f"{name}: expected t, t^n or sin^2(pi t/2), got {_short(value)}")
    return Linear() if found[1] in (None, "1") else Polynomial(float(found[1]))


def _gkl_pointwise(case: _Case) -> Outputs:
    logits = case.floats("logits", None)
    x_1, x_t = (np.array([case.natural(name, len(logits))]) for name in ("x_1", "x_t"))
    schedule = _schedule("schedule", _field(case.fields, "schedule"))
    return {"value": losses.generalized_kl(schedule, logits[None], x_1, x_t, float(case.time()))[0]}


# Kinetic-optimal paths, exact sampling and bounds of steps


@dataclass(frozen=True)
class _Frozen:
    """An inverse temperature and its derivative at one time."""

    now: float
    rise: float

    def beta(self, t: Any) -> Any:
        return 0.0 * t + self.now

    def beta_dot(self, t: Any) -> Any:
        return 0.0 * t + self.rise

    def inverse(self, b: Any) -> Any:
        return 0.0 * b


def _metric_path(case: _Case) -> Outputs:
    distance = case.floats("dist", None, len(_list("dist", _field(case.fields, "dist"))))
    beta = _Frozen(float(case.number("beta")), float(case.number("beta_dot")))
    path, x_1 = kinetic.Metric(_nested(distance), beta), np.array([case.natural("x1", len(distance))])
    z = np.arange(len(distance))[:, None]
    p, dp = kinetic.pmf(path, x_1, 0.5)[0], kinetic.pmf_dot(path, x_1, 0.5)[0]
    if beta.rise >= 0:
        u = kinetic.conditional_velocity(path, np.broadcast_to(x_1, z.shape), z, 0.5)
    else:
        u = kinetic.optimal(np.broadcast_to(p, (len(z), 1, len(z))), np.broadcast_to(dp, (len(z), 1, len(z))), z)
    return {"p": p, "dp": dp, "u": np.swapaxes(u, 0, 1)}


def _kinetic_optimal(case: _Case) -> Outputs:
    if case.spec.length != 1:
        raise ValueError(f"spec: expected one token, got N = {case.spec.length}")
    outputs = _path_marginal(case)
    p, dp, states = outputs["p"], outputs["dp"], case.spec.states
    reachable = p > 0
    u = np.zeros((len(p), 1, len(p)))
    rows = (int(reachable.sum()), 1, len(p))
    u[reachable] = kinetic.optimal(np.broadcast_to(p, rows), np.broadcast_to(dp, rows), states[reachable])
    return outputs | {"u": _known(u, reachable)}


def _first_hitting_time(case: _Case) -> Outputs:
    schedule, t = _schedule("schedule", _field(case.fields, "schedule")), float(case.time())
    n, U = case.natural("n_masked"), case.floats("U", None)
    if n < 1 or np.any((U < 0) | (U > 1)):
        raise ValueError("n_masked, U: expected a count >= 1 and uniforms in [0, 1]")
    return {"s": exact.hitting_time(schedule, np.array(t), U, num_hidden=n)}


def _step_bound(case: _Case) -> Outputs:
    spec, t = case.spec, case.time()
    u, reachable = _forward(case, t, _Exact(spec))
    safe = np.min(events.step_bound(spec.path.schedule, np.array([float(t)])))
    return {"h_safe": safe, "h_tight": np.min(transitions.step_bound(u, spec.states)[reachable])}


# Guidance


def _guidance(case: _Case) -> Outputs:
    p_c = _pmf("p_cond", _field(case.fields, "p_cond"), None)[None]
    p_u = _pmf("p_uncond", _field(case.fields, "p_uncond"), p_c.shape[1])[None]
    c, strength = float(case.number("jump_coefficient")), float(case.number("gamma"))
    z = np.array([case.natural("z", p_c.shape[1])])

    def velocity(p: Floats) -> Floats:
        return np.asarray(c * velocities.forward(Mixture(), p, z, 0.0))  # at t = 0 its own rate is 1

    logits = guidance.of_posteriors(_log(p_c), _log(p_u), strength=strength)
    return {
        "rate_guided": guidance.of_rates(velocity(p_c), velocity(p_u), z, strength=strength)[0],
        "posterior_guided": velocity(np.exp(log_softmax(logits)))[0],
    }


def _temperature(case: _Case) -> Outputs:
    logits, tau = case.floats("logits", None), float(case.number("tau"))
    return {"values": np.exp(log_softmax(guidance.temper(logits, temperature=tau)))}


# Continuous space


def _planar(case: _Case) -> Outputs:
    w = case.floats("w", None)
    u, z = (case.floats(name, len(w)) for name in ("u", "z"))
    params = {"w": w, "u": u, "b": float(case.number("b"))}
    return dict(zip(("f", "log_abs_det"), planar.planar(params, z), strict=True))


def _radial(case: _Case) -> Outputs:
    z_0 = case.floats("z0", None)
    params = {"z_0": z_0, "alpha": float(case.number("alpha")), "beta": float(case.number("beta"))}
    return dict(zip(("f", "log_abs_det"), planar.radial(params, case.floats("z", len(z_0))), strict=True))


def _marginal_velocity(case: _Case) -> Outputs:
    data = case.floats("data", None)
    q, x, t = _pmf("q", _field(case.fields, "q"), len(data)), case.floats("x"), float(case.time())
    path, points = gaussian_paths.OptimalTransport(float(case.number("sigma_min"))), data[:, None]
    return {
        "values": gaussian_paths.conditional_velocity(path, points, np.broadcast_to(x, points.shape), t)[:, 0],
        "p": np.exp(gaussian_paths.marginal_log_density(path, points, q, x[None], t)),
        "u": gaussian_paths.marginal_velocity(path, points, q, x[None], t)[0],
    }


def _gaussian_velocity(case: _Case) -> Outputs:
    path = gaussian_paths.VariancePreserving(*(float(case.number(name)) for name in ("beta_min", "beta_max")))
    x_1, x_t = (case.floats(name)[None] for name in ("x1", "x"))
    return {"value": gaussian_paths.conditional_velocity(path, x_1, x_t, float(case.time()))[0]}


_KINDS: dict[str, Callable[[_Case], Outputs]] = {
    "path_marginal": _path_marginal,
    "coefficients": _coefficients,
    "posterior": _posterior,
    "velocity": _velocity,
    "backward_velocity": _backward_velocity,
    "corrector_velocity": _corrector_velocity,
    "conditional_velocity": _conditional_velocity,
    "one_step": _one_step,
    "k_step": _k_step,
    "any_order_law": _any_order_law,
    "ctmc_law": _ctmc_law,
    "cross_entropy": _cross_entropy,
    "elbo_integrand": _elbo_integrand,
    "mask_elbo": _mask_elbo,
    "elbo_parts": _elbo_parts,
    "gkl_pointwise": _gkl_pointwise,
    "metric_path": _metric_path,
    "kinetic_optimal": _kinetic_optimal,
    "first_hitting_time": _first_hitting_time,
    "step_bound": _step_bound,
    "guidance": _guidance,
    "temperature": _temperature,
    "planar": _planar,
    "radial": _radial,
    "marginal_velocity_1d": _marginal_velocity,
    "gaussian_velocity_1d": _gaussian_velocity,
}
_BY_INTEGRATION = {"ctmc_law", "mask_elbo", "elbo_parts"}

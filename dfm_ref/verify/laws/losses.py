"""Laws of losses: nats of the token that was asked for, the divergence of path measures, and what its integral is."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from .. import oracle
from ..cases import SCHEDULES, Case, data_states
from ..models import Posterior
from ..probe import Broken, Written
from .law import TIMES, Law, Table, Trial, each_case, ramp, slack

__all__ = ["LAWS", "NOTHING", "Bound", "Logits", "divergence"]

_KO = "Shaul et al. 2024, the evidence bound of mixture paths; Lipman et al. 2024"
NOTHING = -(10**6)
"""Stands for a logit of -inf among integers."""


class Logits(NamedTuple):
    """Logits of a token, with the token that it is, the one that it should become, and a time: one row each."""

    case: Case
    logits: tuple[tuple[int, ...], ...]
    """Integers, a row a token over the values of the data; NOTHING is -inf."""
    x_t: tuple[int, ...]
    x_1: tuple[int, ...]
    t: float
    dtype: str = "float64"

    def arrays(self) -> tuple[Table, Table, Table, Table]:
        """logits [1, N, V], x_1 and x_t int64[1, N], t float64[1], as a source allows them."""
        case, x_t = self.case, np.array([self.x_t])
        logits = np.full((1, case.length, case.vocab_size), -np.inf, dtype=self.dtype)
        logits[..., : case.data_size] = self.logits
        logits[logits <= NOTHING] = -np.inf
        x_1 = np.array([self.x_1])
        if case.source == "mask":  # a revealed token is known
            hidden = x_t == case.vocab_size - 1
            known = np.where(np.arange(case.vocab_size) == x_t[..., None], 0.0, -np.inf).astype(self.dtype)
            logits, x_1 = np.where(hidden[..., None], logits, known), np.where(hidden, x_1, x_t)
        return logits, x_1, x_t, np.array([self.t])


def _some(dtype: str = "float64", rows: tuple[tuple[int, ...], ...] = ((0, 1, 3), (2, 0, -1), (0, 0, 0))) -> Any:
    def examples() -> list[Logits]:
        found = []
        for case in each_case((2, 1), (3, 2), (3, 3)):
            values, length = case.data_size, case.length
            for t, shift in product(TIMES[:6] if length > 1 else TIMES, range(values)):
                x_t = tuple((case.vocab_size - 1 - i) % case.vocab_size for i in range(length))
                x_1 = tuple((i + shift) % values for i in range(length))
                logits = tuple(row[:values] for row in rows[:length])
                found.append(Logits(case, logits, x_t, x_1, t, dtype))
        return found

    return examples


@st.composite
def _draw(draw: st.DrawFn, entries: tuple[int, ...] = (0, 1, -1, 2, -2, 4)) -> Logits:
    case = draw(st.sampled_from(each_case((2, 1), (2, 2), (3, 2), (4, 3))))
    row = st.lists(st.sampled_from(entries), min_size=case.data_size, max_size=case.data_size).filter(
        lambda r: max(r) > NOTHING
    )
    logits = tuple(tuple(draw(row)) for _ in range(case.length))
    x_t = tuple(draw(st.integers(0, case.vocab_size - 1)) for _ in range(case.length))
    x_1 = tuple(draw(st.integers(0, case.data_size - 1)) for _ in range(case.length))
    return Logits(case, logits, x_t, x_1, draw(st.sampled_from(TIMES)))


def _nats(logits: Table) -> tuple[Table, Table]:
    """log p and p of logits, float64, with all digits of either."""
    z = logits.astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return log_p, np.exp(log_p)


def _pick(table: Table, x: Table) -> Table:
    return np.asarray(np.take_along_axis(table, x[..., None], axis=-1)[..., 0])


def divergence(case: Case, logits: Table, x_1: Table, x_t: Table, t: Table) -> Table:
    """sum_{x != x_t} u log(u / v) - u + v with the rates u given x_1 and v of the model: float64[B, N], nats per t.

    >>> case, half = Case(2, 1, "linear", "uniform"), np.array([0.5])
    >>> divergence(case, np.zeros((1, 1, 2)), np.array([[1]]), np.array([[0]]), half)
    array([[0.38629436]])
    """
    log_p, p = _nats(logits)
    away = np.sum(np.where(np.arange(case.vocab_size) == x_t[..., None], 0.0, p), axis=-1)
    schedule = SCHEDULES[case.schedule]
    rate = (schedule.kappa_dot(t) / schedule.one_minus_kappa(t))[:, None]
    with np.errstate(invalid="ignore"):
        per_event = np.where(x_t == x_1, away, away - 1 - _pick(log_p, x_1))
        return np.where(rate == 0, 0.0, rate * per_event)  # u log(u / v) is 0 at u = 0


def _cross_entropy(trial: Trial, at: Logits) -> None:
    logits, x_1, x_t, t = at.arrays()
    want = -_pick(_nats(logits)[0], x_1)
    got = trial.call(at.case, "cross_entropy", logits, x_1, x_t, t)
    _near("cross_entropy", got, want, _eps(got, logits) * (1 + np.abs(want) + _largest(logits)))


def _generalized_kl(trial: Trial, at: Logits) -> None:
    logits, x_1, x_t, t = at.arrays()
    want = divergence(at.case, logits, x_1, x_t, t)
    got = trial.call(at.case, "generalized_kl", logits, x_1, x_t, t)
    dtype = got.dtype if np.finfo(got.dtype).eps > np.finfo(logits.dtype).eps else logits.dtype
    schedule = SCHEDULES[at.case.schedule]
    rate = (schedule.kappa_dot(t) / schedule.one_minus_kappa(t))[:, None]
    size = np.abs(want) + rate * (1 + _largest(logits))
    _near("generalized_kl", got, want, slack(dtype, at.case, t)[:, None] * size + 1e-30)


def _near(method: str, got: Table, want: Table, tolerance: Table) -> None:
    with np.errstate(invalid="ignore"):
        same = (got == want) | (np.abs(got.astype(np.float64) - want) <= tolerance)
    if not np.all(same):
        row, token = np.argwhere(~same)[0]
        message = f"{method} of row {row}, token {token}"
        raise Broken(message, expected=float(want[row, token]), got=float(got[row, token]), show=f"print({method})")


def _largest(logits: Table) -> Table:
    """The size of the largest finite logit of each row, which a difference of logits is rounded by."""
    return np.asarray(np.max(np.abs(np.where(np.isfinite(logits), logits, 0.0)), axis=-1), dtype=np.float64)


def _eps(got: Table, logits: Table) -> float:
    return 64 * float(max(np.finfo(got.dtype).eps, np.finfo(logits.dtype).eps))


class Bound(NamedTuple):
    """A mask case with a law of its data, and how much the model is blurred."""

    case: Case
    q: tuple[float, ...]
    blur: float


def _integral(trial: Trial, at: Bound) -> None:
    """By Gauss's rule in t, the mean over the masked states by enumeration: one call for each data sequence."""
    case, model = at.case, Posterior(at.case, at.q, at.blur)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    t = ((nodes + 1) / 2).astype(np.float32).astype(np.float64)  # times that lose nothing in float32
    schedule, mask = SCHEDULES[case.schedule], case.vocab_size - 1
    patterns = np.array(list(product((False, True), repeat=case.length)))
    x = oracle.states(case.vocab_size, case.length)
    p_hat = np.swapaxes(model(x, np.full(len(x), 0.5)), 0, 1)
    nll = -np.log(oracle.any_order_law(p_hat, mask)[_index(data_states(case), case.vocab_size)])
    for k, x_1 in enumerate(data_states(case)):
        z = np.tile(np.where(patterns, mask, x_1), (len(t), 1))
        time = np.repeat(t, len(patterns))
        hidden = np.tile(patterns.sum(axis=1), len(t))
        chance = schedule.one_minus_kappa(time) ** hidden * schedule.kappa(time) ** (case.length - hidden)
        with np.errstate(divide="ignore"):
            logits = np.log(model(z, time))
        ends = np.tile(x_1, (len(z), 1))
        written = Written(logits, f"np.log({model!r}(x_t, t))")
        loss = trial.call(case, "generalized_kl", written, ends, z, time)
        each = np.repeat(weights / 2, len(patterns)) * chance
        bound = float(each @ loss.sum(axis=1, dtype=np.float64))
        want = divergence(case, logits, ends, z, time)
        rate = schedule.kappa_dot(time) / schedule.one_minus_kappa(time)
        error = float(each @ (slack(loss.dtype, case, time) * (want.sum(axis=1) + case.length * rate))) + 1e-6
        low, high = nll[k] - error, (nll[k] + error if not at.blur else np.inf)
        if not low <= bound <= high:
            what = "is not -log q" if not at.blur else "is below -log p of the model"
            message = f"the integral of generalized_kl over t, averaged over x_t, {what} of x_1 = {x_1.tolist()}"
            show = f"weights = np.array({each.tolist()})\nprint(weights @ generalized_kl.sum(axis=1))"
            raise Broken(message, expected=f"{'' if not at.blur else '>= '}{nll[k]:.9g}", got=bound, show=show)


def _index(x: Table, vocab_size: int) -> Table:
    return np.asarray(x @ vocab_size ** np.arange(x.shape[1])[::-1])


def _bounds(blur: float) -> Any:
    return lambda: [Bound(c, ramp(c), blur) for c in each_case((2, 1), (2, 2), (3, 2)) if c.source == "mask"]


_HUGE = ((0, 400, -300), (2000, NOTHING, 0), (NOTHING, -1500, 500))

LAWS = (
    Law(
        "cross-entropy",
        "the cross-entropy of a token is -log p of the one asked for, in nats, unweighted, at every token",
        "-log softmax(logits)(x_1^i); +inf where x_1^i is impossible",
        "Gat et al. 2024, the training loss",
        ("cross_entropy",),
        _some(),
        _cross_entropy,
        _draw,
    ),
    Law(
        "cross-entropy-finite",
        "it is finite where its limit is: in log-space, for logits of any size and beside entries of -inf",
        "-log softmax(logits)(x_1^i) = logsumexp(logits) - logits(x_1^i)",
        "arithmetic: log(softmax) underflows",
        ("cross_entropy",),
        lambda: _some("float64", _HUGE)() + _some("float32", _HUGE)(),
        _cross_entropy,
        lambda: _draw((0, 400, -400, 2000, NOTHING)),
    ),
    Law(
        "generalized-kl",
        "the generalized KL of a token is the divergence of the rates given x_1 from those of the model, in nats",
        "sum_{x != z^i} u log(u / v) - u + v, u = c [x = x_1^i], v = c p(x), c = kappa_dot / (1 - kappa)",
        _KO,
        ("generalized_kl",),
        _some(),
        _generalized_kl,
        _draw,
    ),
    Law(
        "generalized-kl-finite",
        "it is finite where its limit is: in log-space, for logits of any size and beside entries of -inf",
        "-c (p(z^i) - [z^i = x_1^i] + [z^i != x_1^i] log p(x_1^i))",
        "arithmetic: log(softmax) underflows",
        ("generalized_kl",),
        lambda: _some("float64", _HUGE)() + _some("float32", _HUGE)(),
        _generalized_kl,
        lambda: _draw((0, 400, -400, 2000, NOTHING)),
    ),
    Law(
        "generalized-kl-integral",
        "with exact posteriors and a mask, its integral is exactly -log q of the data",
        "int_0^1 E_{x_t ~ p_t(.|x_1)} sum_i generalized_kl dt = -log q(x_1)",
        _KO,
        ("generalized_kl",),
        _bounds(0.0),
        _integral,
    ),
    Law(
        "generalized-kl-bound",
        "with any model and a mask, its integral is no less than -log p of what the model generates",
        "int_0^1 E_{x_t ~ p_t(.|x_1)} sum_i generalized_kl dt >= -log p_model(x_1)",
        _KO,
        ("generalized_kl",),
        _bounds(0.3),
        _integral,
    ),
)

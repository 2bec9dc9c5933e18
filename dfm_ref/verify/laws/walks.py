"""Laws of samplers: frames, when the model is asked, and laws of states that any scheme of first order comes close to.

No scheme is prescribed. Exact propagation of the schemes in use (Euler, exponential, redraw by x_1, the finite step,
Euler with loops) says how far a right one may be from p_t on a grid; a sampler may be `LEEWAY` times as far as the
worst of them. One that calls itself exact may not be off at all.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from .. import cases, oracle, strategies
from ..cases import SCHEDULES, Case
from ..models import Constant, Posterior, Starts
from ..probe import Broken, Written
from ..statistics import Evidence, distance_test, equality_test, share_test
from .law import Law, Table, Trial, each_case, ramp

__all__ = [
    "LAWS",
    "LEEWAY",
    "Grid",
    "Recorder",
    "Values",
    "Walk",
    "codes",
    "distances",
    "even",
    "propagated",
]

LEEWAY = 2.0
_FIRST_ORDER = "Gat et al. 2024; Campbell et al. 2022; every sampler of first order"
_GAT = "Gat et al. 2024, sampling"


class Walk(NamedTuple):
    """A case with a law of its data, to be sampled at some times from p at the first of them."""

    case: Case
    q: tuple[float, ...]
    times: tuple[float, ...]

    @property
    def model(self) -> Posterior:
        """The exact posterior."""
        return Posterior(self.case, self.q)


class Grid(NamedTuple):
    """Times to sample a case at, a few rows."""

    case: Case
    times: tuple[float, ...]
    rows: int = 3


class Recorder:
    """A model that remembers when and of what it was asked, and refuses what no model need understand."""

    def __init__(self, model: Any, case: Case) -> None:
        self.model, self.case = model, case
        self.asked: list[tuple[Table, Table]] = []

    def __repr__(self) -> str:
        return repr(self.model)

    def __call__(self, x_t: Any, t: Any) -> Table:
        for name, value, kinds in (("x_t", x_t, "iu"), ("t", t, "f")):
            if not isinstance(value, np.ndarray):
                raise Broken(f"the model is given {name} as {type(value).__name__}", expected="a NumPy array", got=name)
            if value.dtype.kind not in kinds:
                raise Broken(f"the model is given {name} as {value.dtype}", expected=kinds, got=str(value.dtype))
        if x_t.ndim != 2 or x_t.shape[1] != self.case.length or t.shape != x_t.shape[:1]:
            expected = f"int[rows, {self.case.length}] and float[rows]"
            raise Broken("the model is given other shapes", expected=expected, got=(x_t.shape, t.shape))
        if x_t.size and not (x_t.min() >= 0 and x_t.max() < self.case.vocab_size):
            raise Broken("the model is given a token outside of the vocabulary", expected="tokens", got=x_t)
        self.asked.append((t.astype(np.float64), x_t.copy()))
        return np.asarray(self.model(x_t, t.astype(np.float64)))


@lru_cache(maxsize=256)
def distances(walk: Walk) -> tuple[float, ...]:
    """How far from p_t each frame may be: LEEWAY times the total variation of the worst scheme of first order.

    >>> [round(d, 3) for d in distances(Walk(Case(3, 1, "linear", "mask"), (0.5, 0.5), (0.0, 0.5, 1.0)))]
    [0.0, 0.214, 0.447]
    """
    worst = [0.0]
    for k, laws in enumerate(_propagated(walk), start=1):
        worst.append(LEEWAY * max(_off_path(walk, law, walk.times[k]) for law in laws) + 1e-3)
    return tuple(worst)


def propagated(walk: Walk) -> tuple[float, ...]:
    """The total variation to p_T at the end of a walk, of every scheme: the finite step first.

    >>> walk = Walk(Case(3, 1, "linear", "mask"), (0.5, 0.5), (0.0, 0.5, 1.0))
    >>> [round(d, 3) for d in propagated(walk)][:2]
    [0.0, 0.0]
    """
    *_, last = _propagated(walk)
    return tuple(_off_path(walk, law, walk.times[-1]) for law in last)


def _off_path(walk: Walk, law: Table, t: float) -> float:
    return float(oracle.total_variation(law, cases.marginal(walk.case, np.asarray(walk.q), t)))


def _propagated(walk: Walk) -> Iterator[tuple[Table, ...]]:
    """The exact laws of every scheme at every time but the first."""
    case, x = walk.case, oracle.states(walk.case.vocab_size, walk.case.length)
    laws = (cases.marginal(case, np.asarray(walk.q), walk.times[0]),) * len(_SCHEMES)
    for t, s in pairwise(walk.times):
        probs_1 = walk.model(x, np.full(len(x), t))
        kernels = [oracle.joint_kernel(np.swapaxes(f(case, probs_1, x, t, s), 0, 1)) for f in _SCHEMES]
        laws = tuple(kernel @ law for kernel, law in zip(kernels, laws, strict=True))
        yield laws


Scheme = Callable[[Case, Table, Table, float, float], Table]


def _rate(case: Case, t: float) -> float:
    schedule = SCHEDULES[case.schedule]
    return float(schedule.kappa_dot(np.float64(t)) / schedule.one_minus_kappa(np.float64(t)))


def _redraw(chance: Any, probs: Table, x: Table) -> Table:
    """Stay, or with some chance be drawn anew: the law of each token, [S, N, V]."""
    stay = np.eye(probs.shape[-1])[x]
    return np.asarray(stay + chance * (probs - stay))


def _finite(case: Case, probs_1: Table, x: Table, t: float, s: float) -> Table:
    rest = SCHEDULES[case.schedule].one_minus_kappa
    return _redraw(1 - float(rest(np.float64(s)) / rest(np.float64(t))), probs_1, x)


def _euler(case: Case, probs_1: Table, x: Table, t: float, s: float) -> Table:
    return _redraw(min(1.0, (s - t) * _rate(case, t)), probs_1, x)


def _by_x_1(case: Case, probs_1: Table, x: Table, t: float, s: float) -> Table:
    return _redraw(-np.expm1(-(s - t) * _rate(case, t)), probs_1, x)


def _exponential(case: Case, probs_1: Table, x: Table, t: float, s: float) -> Table:
    away = 1 - np.take_along_axis(probs_1, x[..., None], axis=-1)
    leave = -np.expm1(-(s - t) * _rate(case, t) * away)
    others = np.where(np.eye(case.vocab_size, dtype=bool)[x], 0.0, probs_1)
    target = others / np.where(away > 0, away, 1.0)
    stay = np.eye(case.vocab_size)[x]
    return np.asarray((1 - leave) * stay + leave * target)


def _loops(case: Case, probs_1: Table, x: Table, t: float, s: float) -> Table:
    """Euler with loops of strength kappa (1 - kappa) / 2, whose backward rate is bounded."""
    schedule = SCHEDULES[case.schedule]
    kappa, rest = (float(f(np.float64(t))) for f in (schedule.kappa, schedule.one_minus_kappa))
    ahead = (1 + kappa * rest / 2) * _rate(case, t)
    back = rest / 2 * float(schedule.kappa_dot(np.float64(t)))
    total = max(ahead + back, 1e-300)
    return _redraw(min(1.0, (s - t) * total), (ahead * probs_1 + back * case.source_pmf) / total, x)


_SCHEMES: tuple[Scheme, ...] = (_finite, _euler, _by_x_1, _exponential, _loops)


def _sampled(trial: Trial, walk: Walk, times: tuple[float, ...], seed: int) -> Table:
    """Frames from x_0 ~ p at the least of the times; the model is remembered as it prints."""
    case, start = walk.case, Starts(walk.case, walk.q, min(times), trial.draws, seed)
    x_0 = Written(start(), f"{start!r}()")
    return np.asarray(trial.call(case, "sample", Recorder(walk.model, case), x_0, np.array(times), seed))


def codes(x: Table, vocab_size: int) -> Table:
    """The index of each state of int[..., N] in the order of `oracle.states`.

    >>> codes(np.array([[1, 0]]), 3)
    array([3])
    """
    return np.asarray(x @ vocab_size ** np.arange(x.shape[-1])[::-1])


def _near(trial: Trial, walk: Walk, frame: Table, t: float, within: float) -> Evidence:
    law = cases.marginal(walk.case, np.asarray(walk.q), t)
    counts = np.bincount(codes(frame, walk.case.vocab_size), minlength=len(law))
    return distance_test(counts, law, _within(trial, walk, within, t))


def _within(trial: Trial, walk: Walk, within: float, t: float) -> float:
    if trial.probe.sampler(walk.case) != "exact":
        return within
    return 0.0 if t < 1 or walk.case.source == "mask" else 1e-6  # where events are infinitely many, as t -> 1


def _off(trial: Trial, walk: Walk, frames: Table, k: int, times: tuple[float, ...], within: float) -> Broken:
    """What is wrong with the law of frame k."""
    case, t = walk.case, times[k]
    law = cases.marginal(case, np.asarray(walk.q), t)
    counts = np.bincount(codes(frames[k], case.vocab_size), minlength=len(law))
    distance = float(np.abs(counts / counts.sum() - law).sum() / 2)
    allowed = _within(trial, walk, within, t)
    message = (
        f"the law of the states at t = {t:g} is {distance:.3f} from p_t in total variation over {counts.sum()} draws, "
        f"in a walk of {len(times) - 1} steps from t = {min(times):g}; "
        + (f"a scheme of first order may be {allowed:.3f} from it" if allowed > 1e-6 else "an exact sampler is at 0")
    )
    place = (case.vocab_size ** np.arange(case.length)[::-1]).tolist()
    show = (
        f"print(np.bincount(frames[{k}] @ np.array({place}), minlength={len(law)}) / {counts.sum()})\n"
        f"print(np.array({np.round(law, 6).tolist()}))  # p_t"
    )
    letters = [*map(str, range(case.data_size)), *("M" if case.source == "mask" else "")]
    names = ["".join(letters[token] for token in x) for x in oracle.states(case.vocab_size, case.length)]
    picture = ("law", names, law.tolist(), (counts / counts.sum()).tolist())
    return Broken(message, expected=law, got=counts / counts.sum(), show=show, picture=picture)


def _laws_of_frames(trial: Trial, walk: Walk) -> None:
    """The laws of four frames, the last one included."""
    allowed = distances(walk)
    frames = _sampled(trial, walk, walk.times, trial.seed_of(0))
    last = len(walk.times) - 1
    chosen = sorted({max(1, last * k // 4) for k in (1, 2, 3, 4)})
    for k in chosen:
        if trial.rejects(_near(trial, walk, frames[k], walk.times[k], allowed[k]), len(chosen)):
            raise _off(trial, walk, frames, k, walk.times, allowed[k])


def _last_frame(trial: Trial, walk: Walk) -> None:
    allowed = distances(walk)[-1]
    frames = _sampled(trial, walk, walk.times, trial.seed_of(0))
    if trial.rejects(_near(trial, walk, frames[-1], walk.times[-1], allowed), 1):
        raise _off(trial, walk, frames, len(walk.times) - 1, walk.times, allowed)


def _one_step(trial: Trial, walk: Walk) -> None:
    """The frame after one step; another one follows it, as some samplers end in another way."""
    allowed = distances(walk)[1]
    frames = _sampled(trial, walk, walk.times, trial.seed_of(0))
    if trial.rejects(_near(trial, walk, frames[1], walk.times[1], allowed), 1):
        raise _off(trial, walk, frames, 1, walk.times, allowed)


def _disorder(trial: Trial, walk: Walk) -> None:
    """Times in another order, or twice: an error, or the right frames."""
    ordered = tuple(sorted(set(walk.times)))
    allowed = dict(zip(ordered, distances(walk._replace(times=ordered)), strict=True))
    start = Starts(walk.case, walk.q, ordered[0], trial.draws, trial.seed_of(0))
    x_0 = Written(start(), f"{start!r}()")
    arguments = Recorder(walk.model, walk.case), x_0, np.array(walk.times), trial.seed_of(0)
    answer = trial.probe.raw(walk.case, "sample", *arguments)
    if isinstance(answer, Exception):
        return
    frames = trial.probe.checked(walk.case, "sample", arguments, answer)
    for k, t in enumerate(walk.times):
        if t == ordered[0] and not np.array_equal(frames[k], x_0.value):
            raise Broken(f"frame {k}, at the least time {t:g}, is not x_0", expected="x_0", got=frames[k][:5])
        twin = walk.times.index(t)
        if not np.array_equal(frames[k], frames[twin]):
            message = f"frames {twin} and {k} are of the same time {t:g}, and differ"
            raise Broken(message, expected=frames[twin][:5], got=frames[k][:5], show=f"print(frames[{k}][:5])")
        if t > ordered[0] and trial.rejects(_near(trial, walk, frames[k], t, allowed[t]), len(walk.times)):
            raise _off(trial, walk, frames, k, walk.times, allowed[t])


def _frames(trial: Trial, at: Grid) -> None:
    """As many frames as times (which the probe checks), x_0 first, and what a grid sampler showed the model."""
    case = at.case
    x_0 = _start(case, at.rows)
    model = Recorder(Posterior(case, ramp(case)), case)
    frames = trial.call(case, "sample", model, x_0, np.array(at.times), 5)
    if not np.array_equal(frames[0], x_0):
        raise Broken("the first frame is not x_0", expected=x_0, got=frames[0], show="print(frames[0])")
    if trial.probe.sampler(case) != "grid":
        return
    for t, x in model.asked:
        k = int(np.searchsorted(at.times, t[0] + 1e-7 if len(t) else 0.0, side="right")) - 1
        known = {tuple(row) for row in frames[min(k, len(frames) - 1)].tolist()}
        if any(tuple(row) not in known for row in x.tolist()):
            message = f"the frame at t = {at.times[k]:g} is not the state that the model was shown at that time"
            raise Broken(message, expected=x, got=frames[k], show=f"print(frames[{k}])")


def _start(case: Case, rows: int) -> Table:
    if case.source == "mask":
        return np.full((rows, case.length), case.vocab_size - 1)
    return np.resize(oracle.states(case.vocab_size, case.length)[::-1][:8], (rows, case.length))


def _when(trial: Trial, at: Grid) -> None:
    """Inside [t_0, T), in order; a grid sampler asks once an interval."""
    case, times = at.case, np.array(at.times)
    model = Recorder(Posterior(case, ramp(case)), case)
    trial.call(case, "sample", model, _start(case, at.rows), times, 5)
    kind, tiny = trial.probe.sampler(case), 1e-6
    asked = [t for t, _ in model.asked if len(t)]
    show = (
        "asked = []\ndef model(x_t, t):\n    asked.append(t)\n"
        f"    return {model!r}(x_t, t)\n"
        f"it.sample(model, frames[0], np.array({list(at.times)}), 5)\nprint([sorted(set(t.tolist())) for t in asked])"
    )
    for t in asked:
        if np.any(t < times[0] - tiny) or np.any(t >= times[-1]):
            off = float(t[(t < times[0] - tiny) | (t >= times[-1])][0])
            expected = f"times in [{times[0]:g}, {times[-1]:g})"
            raise Broken(f"the model is asked at t = {off:.9g}", expected=expected, got=off, show=show)
    if kind == "exact":
        return
    for before, after in pairwise(asked):
        if np.min(after) < np.max(before) - tiny:
            got = [float(np.max(before)), float(np.min(after))]
            raise Broken("the model is asked at a time before an earlier one", expected="in order", got=got, show=show)
    if kind == "grid":
        inside = [int(np.searchsorted(times, np.min(t) + tiny, side="right")) - 1 for t in asked]
        if any(np.max(t) >= times[k + 1] - tiny for t, k in zip(asked, inside, strict=True)):
            raise Broken("the rows of one call are of several intervals", expected="one", got=asked[0], show=show)
        count = np.bincount(inside, minlength=len(times) - 1)
        if np.any(count != 1):
            k = int(np.argmax(count != 1))
            message = f"the model is asked {count[k]} times in the interval from {times[k]:g} to {times[k + 1]:g}"
            raise Broken(message, expected=1, got=int(count[k]), show=show)


def _independent(trial: Trial, walk: Walk) -> None:
    """How often two rows end in the same state, near sum_x p(x)^2: side by side, and of seeds side by side."""
    allowed = distances(walk)[-1]
    p = cases.marginal(walk.case, np.asarray(walk.q), walk.times[-1])
    same, within = float(np.sum(p**2)), 2 * _within(trial, walk, allowed, walk.times[-1])
    x_0, times = np.tile(_start(walk.case, 1), (trial.draws, 1)), np.array(walk.times)
    ends = []
    for k in range(2):
        model = Recorder(walk.model, walk.case)
        frames = trial.call(walk.case, "sample", model, x_0, times, trial.seed_of(k))
        ends.append(codes(frames[-1], walk.case.vocab_size))
    for first, second, what, show in (
        (ends[0][0::2], ends[0][1::2], "two rows of a batch", "(frames[-1][0::2] == frames[-1][1::2])"),
        (ends[0], ends[1], "the rows of two seeds", "(frames[-1] == frames_2[-1])"),
        (
            ends[0][1:],
            ends[1][:-1],
            "a row and that before it with the next seed",
            "(frames[-1][1:] == frames_2[-1][:-1])",
        ),
    ):
        hits = int(np.sum(first == second))
        if trial.rejects(share_test(hits, len(first), same - within, same + within), 3):
            message = f"{what} are the same too often or too seldom, over {len(first)} pairs"
            raise Broken(message, expected=same, got=hits / len(first), show=f"print({show}.all(axis=1).mean())")


class Values(NamedTuple):
    """A mask case whose model gives every hidden token one PMF."""

    case: Case
    probs: tuple[float, ...]


def _values(trial: Trial, at: Values) -> None:
    """Revealed tokens are draws from the model's PMF, in any scheme; rare ones are counted together."""
    case, probs = at.case, np.asarray(at.probs)
    x_0 = np.full((max(1, trial.draws // case.length), case.length), case.vocab_size - 1)
    model = Recorder(Constant(case, at.probs), case)
    frames = trial.call(case, "sample", model, x_0, np.array([0.0, 0.5, 1.0]), trial.seed_of(0))
    drawn = frames[1:][frames[1:] < case.vocab_size - 1]
    impossible = drawn[probs[drawn] == 0]
    if impossible.size:
        token = int(impossible[0])
        message = f"the token {token}, of probability 0 by the model, is drawn {int(np.sum(drawn == token))} times"
        raise Broken(message, expected=0, got=int(np.sum(drawn == token)), show=_counted(token))
    last = frames[-1][frames[-1] < case.vocab_size - 1]
    kinds = np.where(probs < 1e-3, 0, np.arange(case.vocab_size) + 1)
    kinds = np.unique(kinds, return_inverse=True)[1]
    law = np.bincount(kinds, weights=probs)
    counts = np.bincount(kinds[last], minlength=len(law))
    if trial.rejects(equality_test(counts, law), 1):
        k = int(np.argmax(np.abs(counts / max(1, counts.sum()) - law)))
        some = np.flatnonzero(kinds == k)
        which = f"the token {some[0]}" if len(some) == 1 else f"the {int(np.sum(probs[some] > 0))} rare tokens together"
        got = float(counts[k] / max(1, counts.sum()))
        message = f"of {counts.sum()} revealed tokens, {which} have another share than the model's probability"
        raise Broken(message, expected=float(law[k]), got=got, show=_counted(int(some[0])))


def _values_together(trial: Trial, at: Values) -> None:
    """The values of two tokens of a row, and of one token in two rows."""
    case, probs = at.case, np.asarray(at.probs[:-1])
    x_0 = np.full((trial.draws, case.length), case.vocab_size - 1)
    model = Recorder(Constant(case, at.probs), case)
    last = trial.call(case, "sample", model, x_0, np.array([0.0, 0.5, 1.0]), trial.seed_of(0))[-1]
    law = np.kron(probs, probs)
    for first, second, what, show in (
        (last[:, 0], last[:, 1], "two tokens of a row", "frames[-1][:, 0] == frames[-1][:, 1]"),
        (last[0::2, 0], last[1::2, 0], "the first tokens of two rows", "frames[-1][0::2, 0] == frames[-1][1::2, 0]"),
    ):
        both = (first < len(probs)) & (second < len(probs))  # some schemes leave masks behind
        counts = np.bincount(first[both] * len(probs) + second[both], minlength=len(law))
        if trial.rejects(equality_test(counts, law), 2):
            got = float(np.mean(first[both] == second[both]))
            message = f"the values of {what} are not independent: they are equal too often or too seldom"
            raise Broken(message, expected=float(np.sum(probs**2)), got=got, show=f"print(({show}).mean())")


def _arrival(trial: Trial, walk: Walk) -> None:
    """How many tokens are still the mask at t = 1, by many steps."""
    case, mask = walk.case, walk.case.vocab_size - 1
    x_0, times = np.full((trial.draws, case.length), mask), np.array(walk.times)
    frames = trial.call(case, "sample", Recorder(walk.model, case), x_0, times, trial.seed_of(0))
    left = int(np.sum(np.any(frames[-1] == mask, axis=1)))
    *_, laws = _propagated(walk)
    masked = np.any(oracle.states(case.vocab_size, case.length) == mask, axis=1)
    allowed = LEEWAY * max(float(law[masked].sum()) for law in laws) + 1e-4
    if trial.rejects(share_test(left, trial.draws, 0.0, allowed), 1):
        message = f"of {trial.draws} rows, {left} still hold a mask at t = 1 after {len(times) - 1} steps"
        raise Broken(message, expected=f"a share of at most {allowed:.4f}", got=left / trial.draws, show=_counted(mask))


def _counted(token: int) -> str:
    return f"print((frames[1:] == {token}).sum())"


def _values_examples() -> list[Values]:
    """An impossible token first, between and last; a likely last token; 256 rare ones."""
    found = []
    for schedule in SCHEDULES:
        for probs in ((0.5, 0.5), (0.0, 0.25, 0.0, 0.75), (0.75, 0.0, 0.25), (0.125, 0.375, 0.5, 0.0)):
            found.append(Values(Case(len(probs) + 1, 4, schedule, "mask"), (*probs, 0.0)))
    rare = np.full(256, 2.0**-17)
    many = np.concatenate([rare[:128], [0.0, 1 - rare.sum()], rare[128:], [0.0]])
    found.append(Values(Case(len(many), 16, "linear", "mask"), tuple(many.tolist())))
    return found


def even(t_0: float, T: float, steps: int) -> tuple[float, ...]:
    """Equally spaced times, both ends exact.

    >>> even(0.0, 1.0, 2)
    (0.0, 0.5, 1.0)
    """
    return (*(t_0 + (T - t_0) * k / steps for k in range(steps)), T)


def _walks(times: Callable[[Case], list[tuple[float, ...]]], *sizes: tuple[int, int]) -> Any:
    def examples() -> list[Walk]:
        return [Walk(case, ramp(case), grid) for case in each_case(*sizes) for grid in times(case)]

    return examples


def _grids() -> list[Grid]:
    """Even, decimal, clustered, near both ends; of one interval; of many."""
    grids = (
        (0.0, 1.0),
        (0.0, 0.5, 1.0),
        (0.0, 0.1, 0.7, 1.0),
        (0.25, 0.5, 0.75),
        even(0.0, 1.0, 7),
        even(0.0, 1.0, 10),
        even(0.1, 0.9, 13),
        (0.0, 0.5, 0.5 + 2.0**-12, 0.5 + 2.0**-11, 1.0),
        (0.0, 2.0**-14, 0.5, 1 - 2.0**-11, 1 - 2.0**-14, 1.0),
        even(0.0, 1.0, 49),
        even(0.0, 0.3, 98),
    )
    return [Grid(case, grid) for case in each_case((2, 1), (2, 2)) for grid in grids]


@st.composite
def _draw_grids(draw: st.DrawFn) -> Grid:
    case = draw(strategies.cases(max_vocab_size=3, max_length=2))
    ticks = draw(st.lists(st.integers(0, 97), min_size=2, max_size=6, unique=True).map(sorted))
    by = draw(st.sampled_from((97, 100, 128)))
    return Grid(case, tuple(min(1.0, k / by) for k in ticks), draw(st.integers(1, 3)))


_TWO = ((2, 1), (2, 2))
_UNEVEN = tuple((k / 24) ** 2 for k in range(12)) + tuple(0.25 + 0.75 * k / 16 for k in range(17))
_PAIRS = ((0.5, 0.5), (0.25, 0.25, 0.5))
_mixed = even(0.0, 1.0, 16)

LAWS = (
    Law(
        "frames",
        "there is one frame a time, in order: x_0 first, then the states that the model is asked about",
        "frames[k] = x at times[k]",
        _GAT,
        ("sample",),
        _grids,
        _frames,
        _draw_grids,
    ),
    Law(
        "model-times",
        "the model is asked inside [t_0, T), in order, by a grid sampler once an interval",
        "t_0 <= t < T",
        _GAT,
        ("sample",),
        lambda: [Grid(c, grid, 2000) for c in each_case((2, 2)) for grid in ((0.0, 0.5, 1.0), even(0.25, 0.75, 7))],
        _when,
    ),
    Law(
        "step-law",
        "one step from p_t leads to p_s, up to what schemes of first order leave",
        "TV(law of x_s, p_s) <= 2 max over schemes",
        _FIRST_ORDER,
        ("sample",),
        _walks(lambda case: [(t, t + 0.125, t + 0.25) for t in (0.0, 0.25, 0.5)], *_TWO),
        _one_step,
        draws=131072,
    ),
    Law(
        "walk-law",
        "the states of a walk from 0 to 1 follow p_t at every frame, up to what schemes of first order leave",
        "TV(law of x_t, p_t) <= 2 max over schemes",
        _FIRST_ORDER,
        ("sample",),
        _walks(lambda case: [even(0.0, 1.0, 32), _UNEVEN], (2, 1), (2, 2), (3, 2)),
        _laws_of_frames,
        draws=131072,
    ),
    Law(
        "end-law",
        "a walk from any t_0 to any T ends in p_T, and not only one to 1",
        "TV(law of x_T, p_T) <= 2 max over schemes",
        _FIRST_ORDER,
        ("sample",),
        _walks(lambda case: [even(0.0, 0.5, 8), even(0.25, 0.75, 8), even(0.5, 0.75, 1)], *_TWO),
        _last_frame,
        draws=131072,
    ),
    Law(
        "more-steps",
        "the error shrinks as the steps double, for odd numbers of steps too",
        "TV(law of x_1 after K steps, p_1) <= 2 max over schemes, K = 7, 14, 49, 98",
        _FIRST_ORDER,
        ("sample",),
        _walks(lambda case: [even(0.0, 1.0, k) for k in (7, 14, 49, 98)], (2, 2)),
        _last_frame,
        draws=131072,
    ),
    Law(
        "disorder",
        "times that do not increase raise, or give the right frames: never wrong ones",
        "frames[k] = x at times[k]",
        _GAT,
        ("sample",),
        _walks(
            lambda case: (
                [
                    tuple(reversed(_mixed)),
                    (*_mixed[8:], *_mixed[:8]),
                    (*_mixed[:5], _mixed[12], *_mixed[5:12], *_mixed[13:]),
                    (*_mixed[:9], *_mixed[8:]),
                    (0.0, *_mixed),
                    (*_mixed, 1.0),
                ]
                if case.schedule in ("linear", "cosine")
                else []
            ),
            (2, 1),
        ),
        _disorder,
        draws=4096,
    ),
    Law(
        "walk-independence",
        "the rows of a batch are independent draws, and so are batches of different seeds",
        "P(x_1 = y_1) = sum_x p_1(x)^2",
        _GAT,
        ("sample",),
        _walks(lambda case: [even(0.0, 1.0, 32)] if case.source == "mask" else [], *_TWO),
        _independent,
        draws=16384,
    ),
    Law(
        "arrival",
        "at t = 1 hardly a token is still the mask, and the fewer the more steps there are",
        "P(x_1^i = mask) = 0, and O(1 / K) by K steps",
        _FIRST_ORDER,
        ("sample",),
        _walks(lambda case: [even(0.0, 1.0, 512)] if case.source == "mask" else [], (2, 1)),
        _arrival,
        draws=8192,
    ),
    Law(
        "value-independence",
        "the values of tokens are independent draws, given when they are drawn",
        "P(x_1^i = x, x_1^j = y) = p_1(x) p_1(y) for a model of one PMF",
        _GAT,
        ("sample",),
        lambda: [Values(Case(len(p) + 1, 2, name, "mask"), (*p, 0.0)) for name in SCHEDULES for p in _PAIRS],
        _values_together,
        draws=32768,
    ),
    Law(
        "tails",
        "revealed tokens have the model's probabilities: none of 0 ever, rare ones and the last one as often as that",
        "P(x_1^i = x) = p_1(x) for a model of one PMF",
        _GAT,
        ("sample",),
        _values_examples,
        _values,
        draws=32768,
    ),
)

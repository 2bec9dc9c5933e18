"""Laws of conduct: answers of the right kind, a batch that equals its rows, seeds that decide, arguments left alone."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import strategies
from ..cases import Case
from ..probe import METHODS, Broken
from .arguments import (
    RANDOM,
    Ask,
    Wrong,
    asks,
    wrong_probabilities,
    wrong_shapes,
    wrong_times,
    wrong_tokens,
)
from .law import Law, Table, Trial, each_case, slack
from .velocities import rates

__all__ = ["LAWS", "global_seed"]

_CONTRACT = "the contract of adapters"


def _builds(trial: Trial, at: Case) -> None:
    trial.probe.object(at)


def _answers(trial: Trial, at: Ask) -> None:
    trial.call(at.case, at.method, *at.arguments)


def _answers_of(method: str) -> Law:
    def draw() -> Any:
        return st.builds(Ask, strategies.cases(), st.just(method), st.integers(1, 4))

    return Law(
        f"answers-{method}",
        f"{method} answers legal input with an array of the right kind and shape",
        f"{method}({', '.join(METHODS[method])})",
        _CONTRACT,
        (method,),
        lambda: asks(each_case((2, 1), (2, 2), (3, 3)), (1, 3), methods=(method,)),
        _answers,
        draw,
    )


_FIXED = tuple(method for method in METHODS if method not in RANDOM)


def _batch(trial: Trial, at: Ask) -> None:
    whole = trial.call(at.case, at.method, *at.arguments)
    each = [a if isinstance(a, np.ndarray) else [a] * at.rows for a in at.arguments]
    rows = []
    for k in range(at.rows):
        one = tuple(a[k : k + 1] if isinstance(a, np.ndarray) else a[k] for a in each)
        rows.append(trial.call(at.case, at.method, *one))
    loop = np.concatenate(rows)
    size = _size(at, whole)
    with np.errstate(invalid="ignore"):
        same = (whole == loop) | (np.abs(whole.astype(np.float64) - loop) <= size)
    if not np.all(same):
        message = f"{at.method} of a batch of {at.rows} is not that of its rows, one by one"
        row = int(np.argwhere(~same)[0][0])
        show = "" if at.rows > 3 else f"print({_result(at.method)}, {_result(at.method)}_{row + 2})"
        raise Broken(message, expected=loop[row], got=whole[row], show=show)


def _size(at: Ask, whole: Table) -> Table:
    """What rounding may change, which sums in another order in a batch."""
    finite = np.where(np.isfinite(whole), np.abs(whole), 0.0).astype(np.float64)
    if at.method.startswith("kappa"):
        return 64 * float(np.finfo(whole.dtype).eps) * (1 + finite)
    t = at.arguments[METHODS[at.method].index("t")]
    of_row = slack(whole.dtype, at.case, t) * (1 + 2 * rates(at.case, t, strength=0.5))
    return np.asarray(of_row.reshape((-1,) + (1,) * (whole.ndim - 1)) * (1 + finite))


def _result(method: str) -> str:
    return {"kappa_inverse": "t", "velocity": "u", "corrector_velocity": "u"}.get(method, method)


def _deterministic(trial: Trial, at: Ask) -> None:
    name = "frames" if at.method == "sample" else "x_t"
    for seed in (3, 0, 2**31 - 1):
        trial.probe.forget()
        arguments = (*at.arguments[:-1], seed)
        with global_seed(1):
            first = trial.call(at.case, at.method, *arguments)
        with global_seed(2):
            second = trial.call(at.case, at.method, *arguments)
        if not np.array_equal(first, second):
            message = f"{at.method} with the seed {seed} gives two results"
            raise Broken(message, expected=first, got=second, show=f"print(({name} == {name}_2).mean())")


def _seeds(trial: Trial, at: Ask) -> None:
    results = [trial.call(at.case, at.method, *at.arguments[:-1], seed) for seed in (0, 1, 2**30)]
    inner = [r[1:-1] for r in results] if at.method == "sample" else results
    name = "frames" if at.method == "sample" else "x_t"
    for k, (a, b) in enumerate(((0, 1), (1, 2), (0, 2))):
        if np.array_equal(inner[a], inner[b]):
            names = (name, f"{name}_2", f"{name}_3")
            message = f"{at.method} gives a batch of {at.rows} rows again with another seed"
            show = f"print(({names[a]} == {names[b]}).all())"
            raise Broken(message, expected="other draws", got=f"the same, pair {k}", show=show)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """The global generators of Python, NumPy and a PyTorch that is loaded, set; and set back.

    >>> with global_seed(0):
    ...     np.random.random() == np.random.RandomState(0).random()
    True
    """
    torch: Any = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch and torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch:
            torch.set_rng_state(before[2])


def _unchanged(trial: Trial, at: Ask) -> None:
    changed = trial.probe.changed(at.case, at.method, *at.arguments)
    if changed:
        message = f"{at.method} writes into its argument {changed[0]}"
        raise Broken(message, expected="the argument as it was", got="another", show="")


def _raises(trial: Trial, at: Wrong) -> None:
    result = trial.probe.raw(at.case, at.method, *at.arguments)
    if not isinstance(result, Exception):
        show = f"print({ {'sample': 'frames', 'sample_path': 'x_t'}.get(at.method, _result(at.method)) })"
        got = f"an answer, {type(result).__name__}"
        raise Broken(f"{at.method} accepts {at.what}", expected="an exception", got=got, show=show)


def _law_of_input(name: str, says: str, formula: str, wrong: Any) -> Law:
    return Law(name, says, formula, f"{_CONTRACT}: what must raise", (), wrong, _raises)


_SIZES = each_case((2, 1), (2, 2), (3, 3))
_EMPTY = [case for case in _SIZES if case.schedule in ("linear", "cosine")]

LAWS = (
    Law(
        "build",
        "build gives an object for every case, or raises NotImplementedError",
        "build(case)",
        _CONTRACT,
        (),
        lambda: _SIZES,
        _builds,
        strategies.cases,
    ),
    *(_answers_of(method) for method in METHODS),
    Law(
        "batch-is-loop",
        "a batch equals its rows one by one, with as many rows as tokens and with one row or one token too",
        "f(x)[b] = f(x[b])",
        _CONTRACT,
        (),
        lambda: asks(_SIZES, (1, 2, 3, 5), methods=_FIXED),
        _batch,
        lambda: st.builds(Ask, strategies.cases(), st.sampled_from(_FIXED), st.integers(1, 4)),
    ),
    Law(
        "empty-batch",
        "a batch of no rows gives an empty array of the right shape",
        "f(x[:0]) = f(x)[:0]",
        _CONTRACT,
        (),
        lambda: asks(_EMPTY, (0,)),
        _answers,
    ),
    Law(
        "determinism",
        "a seed gives the same draws again, whatever the global seeds of Python, NumPy or PyTorch",
        "sample(seed) = sample(seed)",
        _CONTRACT,
        (),
        lambda: asks(_SIZES, (1, 40), methods=RANDOM),
        _deterministic,
    ),
    Law(
        "seeds-differ",
        "another seed gives other draws",
        "sample(seed) != sample(another seed)",
        _CONTRACT,
        (),
        lambda: asks(_SIZES, (200,), methods=RANDOM),
        _seeds,
    ),
    Law(
        "arguments-unchanged",
        "no method writes into an array that it was given",
        "x = x before",
        _CONTRACT,
        (),
        lambda: asks(_SIZES, (3,)),
        _unchanged,
    ),
    _law_of_input("bad-times", "a time outside of [0, 1], or NaN, raises", "t in [0, 1]", wrong_times),
    _law_of_input("bad-tokens", "a token outside of the vocabulary raises", "x in [0, V)", wrong_tokens),
    _law_of_input(
        "bad-probabilities",
        "a row that does not sum to 1, or has a negative entry, raises; one from the model too",
        "probs_1 >= 0, sum_x probs_1(x) = 1",
        wrong_probabilities,
    ),
    _law_of_input(
        "bad-shapes",
        "arrays whose shapes do not fit raise",
        "t float[B], x int[B, N], probs_1 and logits float[B, N, V]",
        wrong_shapes,
    ),
)

"""What adapters share: imports, arrays of a library for NumPy's, time from data to noise, cases not covered.

Each wrapper stands before an object with methods of the contract: it has those that the object has, and no others.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..cases import Case

__all__ = ["Converted", "Library", "Reversed", "converted", "covering", "imported", "reverse_time"]

Table: TypeAlias = np.ndarray[Any, Any]
Build: TypeAlias = Callable[[Case], Any]


def imported(name: str, *, expected: str, install: str) -> Any:
    """The module of a name; ImportError says in one line which package was expected, and what to install.

    >>> imported("no_such_module", expected="a package", install="pip install it")
    Traceback (most recent call last):
    ImportError: No module named 'no_such_module': expected a package. Install it with: pip install it
    """
    try:
        return import_module(name)
    except ImportError as error:
        why = " ".join(str(error).split())
        raise ImportError(f"{why}: expected {expected}. Install it with: {install}") from None


class Library(NamedTuple):
    """How values come to a library and go back.

    `ask` gives the library a model of NumPy arrays; it is told the vocabulary's size, which shapes the answer.
    """

    is_array: Callable[[Any], bool]
    asarray: Callable[[Table], Any]
    to_numpy: Callable[[Any], Table]
    ask: Callable[[Callable[[Table, Table], Table], int], Callable[[Any, Any], Any]]
    seed: Callable[[int], Any] = int


class Converted:
    """An object of a library's arrays, with NumPy in and out: its methods are called on converted arguments.

    What is no array of the library, as a list, is returned as it came.
    """

    def __init__(self, inner: Any, library: Library, vocab_size: int) -> None:
        self._inner, self._library, self._vocab_size = inner, library, vocab_size

    def __getattr__(self, name: str) -> Any:
        value = _attribute(self, name)
        return partial(self._call, value, name in ("sample", "sample_path")) if callable(value) else value

    def _call(self, method: Callable[..., Any], seeded: bool, *arguments: Any) -> Any:
        *head, last = arguments
        rest = [*map(self._given, head), self._library.seed(last) if seeded else self._given(last)]
        answer = method(*rest)
        return tuple(map(self._back, answer)) if isinstance(answer, tuple) else self._back(answer)

    def _back(self, answer: Any) -> Any:
        return self._library.to_numpy(answer) if self._library.is_array(answer) else answer

    def _given(self, value: Any) -> Any:
        if callable(value):
            return self._library.ask(value, self._vocab_size)
        return self._library.asarray(value) if isinstance(value, np.ndarray) else value


class Reversed:
    """An object whose time r runs from data, r = 0, to noise, r = 1, as one of t = 1 - r; see `reverse_time`."""

    def __init__(self, inner: Any, *, negative_rates: bool = False) -> None:
        self._inner, self._sign = inner, -1.0 if negative_rates else 1.0

    def __getattr__(self, name: str) -> Any:
        method = _attribute(self, name)
        if name in ("velocity", "corrector_velocity"):
            return lambda *arguments: self._sign * _FORWARD[name](method, *arguments)
        return partial(_FORWARD[name], method) if name in _FORWARD else method


def _attribute(wrapper: Any, name: str) -> Any:
    """What the object behind a wrapper has under a public name; AttributeError where it has none."""
    if name.startswith("_"):  # of a wrapper that is being copied, and stands before nothing yet
        raise AttributeError(name)
    return getattr(wrapper._inner, name)


def _turn(t: Any) -> Table:
    """1 - t in float64, where no time of float32 is lost unless it lies below 2**-53."""
    return 1.0 - np.asarray(t, dtype=np.float64)


_FORWARD: dict[str, Callable[..., Any]] = {
    "kappa": lambda f, t: f(_turn(t)),
    "kappa_dot": lambda f, t: -f(_turn(t)),
    "kappa_inverse": lambda f, k: 1.0 - f(k),
    "sample_path": lambda f, x_0, x_1, t, seed: f(x_1, x_0, _turn(t), seed),
    "velocity": lambda f, probs_1, x_t, t: f(probs_1, x_t, _turn(t)),
    "corrector_velocity": lambda f, probs_1, x_t, t, strength: f(probs_1, x_t, _turn(t), strength),
    "cross_entropy": lambda f, logits, x_1, x_t, t: f(logits, x_1, x_t, _turn(t)),
    "generalized_kl": lambda f, logits, x_1, x_t, t: f(logits, x_1, x_t, _turn(t)),
    "sample": lambda f, model, x_0, times, seed: f(lambda x_r, r: model(x_r, _turn(r)), x_0, _turn(times), seed),
}
"""A method of t = 1 - r, by the method of r."""

_CONTINUOUS = ("flow", "inverse", "log_prob")


def reverse_time(build: Build, *, negative_rates: bool = False) -> Build:
    """A `build` whose time runs from noise to data, of one whose time r = 1 - t runs from data to noise.

    Its x_0 is data and its x_1 noise; its methods have the order of the contract in their own names:

    - kappa(r) is the share of the data in either direction, so that nothing is lost by a difference from 1: it falls
      from kappa(0) = 1. kappa_t = kappa(1 - t), kappa_dot_t = -kappa_dot(1 - t), its inverse is 1 - kappa_inverse(k).
    - sample_path(x_0, x_1, r, seed) is given data first.
    - velocity and corrector_velocity take the posterior of the data and give the rates of the process that samples,
      from r = 1 to 0: >= 0 off the diagonal, per unit of time, and so the same for t. With `negative_rates` they give
      u of dp/dr = Q(u) p, which is minus those.
    - losses take the data where the contract has x_1; per unit of time, they are the same.
    - sample(model, x, times, seed) is given falling times, x being the state at the first, and asks model(x_r, r).

    The arithmetic of 1 - t is float64, exact for every time that is a multiple of 2**-53.

    >>> class Falling:
    ...     def kappa(self, r):
    ...         return 1 - r
    >>> build = reverse_time(lambda case: Falling())
    >>> build(Case(2, 1, "linear", "uniform")).kappa(np.array([0.25]))
    array([0.25])
    """
    return lambda case: Reversed(build(case), negative_rates=negative_rates)


def covering(build: Any, covers: Mapping[str, Any] | None) -> Build:
    """A `build` that covers the cases with the named fields alone, of one, or of an object that serves them all.

    >>> build = covering(lambda case: "an object", {"schedule": "linear", "vocab_size": 2})
    >>> build(Case(2, 1, "linear", "uniform"))
    'an object'
    >>> build(Case(2, 1, "cosine", "uniform"))
    Traceback (most recent call last):
    NotImplementedError: covers schedule='linear' alone
    """

    def covered(case: Case) -> Any:
        for name, value in (covers or {}).items():
            if getattr(case, name) != value:
                raise NotImplementedError(f"covers {name}={value!r} alone")
        served = not isinstance(build, type) and any(hasattr(build, name) for name in (*_FORWARD, *_CONTINUOUS))
        return build if served else build(case)

    return covered


def converted(build: Any, library: Library, *, covers: Mapping[str, Any] | None, turned: bool, negative: bool) -> Build:
    """A `build` with NumPy in and out of one of a library: covered, converted and, if `turned`, reversed.

    >>> whole = Library(lambda x: isinstance(x, list), lambda x: x.tolist(), np.asarray, lambda model, size: model)
    >>> class Listed:
    ...     def kappa(self, t):
    ...         return [x**2 for x in t]
    >>> build = converted(Listed(), whole, covers=None, turned=False, negative=False)
    >>> build(Case(2, 1, "quadratic", "uniform")).kappa(np.array([0.5]))
    array([0.25])
    """
    inner = covering(build, covers)

    def numpy_build(case: Case) -> Converted:
        return Converted(inner(case), library, getattr(case, "vocab_size", 0))  # a continuous case has none

    return reverse_time(numpy_build, negative_rates=negative) if turned else numpy_build

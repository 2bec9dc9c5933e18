"""A probe asks an adapter: it calls one method with copies of its arguments, under a time limit, and checks the answer.

What an answer must be, whatever its values: a NumPy array of the right kind and shape, tokens of the vocabulary, no
NaN: a `Contract` says so. Every call is remembered as Python that repeats it, so that a finding can be pasted.
"""

import contextlib
import gc
import io
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .cases import Case

__all__ = [
    "DISCRETE",
    "METHODS",
    "Broken",
    "Call",
    "Contract",
    "Malformed",
    "NotCovered",
    "Probe",
    "TimedOut",
    "Unbuilt",
    "Written",
    "lines",
    "within",
]

Table: TypeAlias = np.ndarray[Any, Any]

METHODS = {
    "kappa": ("t",),
    "kappa_dot": ("t",),
    "kappa_inverse": ("k",),
    "sample_path": ("x_0", "x_1", "t", "seed"),
    "velocity": ("probs_1", "x_t", "t"),
    "corrector_velocity": ("probs_1", "x_t", "t", "strength"),
    "cross_entropy": ("logits", "x_1", "x_t", "t"),
    "generalized_kl": ("logits", "x_1", "x_t", "t"),
    "sample": ("model", "x_0", "times", "seed"),
}
"""The methods that an adapter may have, with their arguments."""

_LOSSES = ("cross_entropy", "generalized_kl")


class NotCovered(Exception):
    """The adapter does not cover what was asked: a method that is missing, or NotImplementedError."""


class TimedOut(BaseException):
    """A call took longer than its limit; no Exception, so that no adapter catches it by mistake."""


class Broken(Exception):
    """A law does not hold: in one sentence what was found, with what was expected and what came, and how to see it."""

    def __init__(
        self, message: str, *, expected: Any = None, got: Any = None, show: str = "", picture: Any = None
    ) -> None:
        super().__init__(message)
        self.message, self.expected, self.got, self.show, self.picture = message, expected, got, show, picture


class Malformed(Broken):
    """An answer that no law can be tried on: an exception on legal input, another kind of array, NaN, no answer."""


class Unbuilt(Malformed):
    """`build` fails on a case, without saying that it does not cover it."""


class Written(NamedTuple):
    """An argument with the Python that makes it, for one that is too long to print."""

    value: Any
    text: str


class Contract(NamedTuple):
    """What a suite asks for: methods with their arguments, what an answer must be, and names for lines to paste."""

    methods: Mapping[str, tuple[str, ...]]
    check: Callable[[Any, str, dict[str, Any], Any], Any]
    """check(case, method, arguments, answer) -> the answer, or Malformed where it is not what the contract says."""
    covers: Callable[[Any, Any], bool]
    """Whether an object that was built is for a case, which it may know better than `build`."""
    results: Mapping[str, str]
    """What the answer of a method is called, where not as the method."""
    case: str
    """The type of the cases, in `dfm_ref.verify`."""
    models: tuple[str, ...] = ()
    """Further names that lines may use, in `dfm_ref.verify.models`."""


class Call(NamedTuple):
    """One call of a method of the object that was built for a case."""

    case: Any
    method: str
    arguments: tuple[Any, ...]


class Probe:
    """An adapter under test: its objects by case, and its calls.

    >>> class Linear:
    ...     def kappa(self, t):
    ...         return t
    >>> probe = Probe(lambda case: Linear())
    >>> probe.call(Case(2, 1, "linear", "uniform"), "kappa", np.array([0.5]))
    array([0.5])
    """

    def __init__(self, build: Callable[[Any], Any], *, limit: float = 20.0, contract: Contract | None = None) -> None:
        self.build, self.limit, self.contract = build, limit, contract or DISCRETE
        self.objects: dict[Any, Any] = {}
        self.calls: list[Call] = []
        """The calls since the last `forget`."""
        self.printed = io.StringIO()
        self.hung: dict[str, tuple[str, Call]] = {}
        self.done = False
        """Whether nothing will be asked any more."""
        self.asking: tuple[str, float] = ("", 0.0)
        """What is being asked, and since when; an empty name between calls."""

    def object(self, case: Any) -> Any:
        """What the adapter builds for a case; NotCovered where it says so, Malformed where it fails."""
        if case not in self.objects:
            self.objects[case] = self._guarded(f"build({case})", lambda: self._built(case))
        built = self.objects[case]
        if isinstance(built, NotCovered):
            raise built
        if isinstance(built, Exception):
            why = built.message if isinstance(built, Broken) else f"build raises {_name(built)}"
            raise Unbuilt(why, expected="an object, or NotImplementedError", got="an exception")
        return built

    def _built(self, case: Any) -> Any:
        built = self.build(case)
        if not self.contract.covers(built, case):
            raise NotImplementedError("its object is for other cases")
        return built

    def has(self, case: Any, method: str) -> bool:
        """Whether the object of a case has a method."""
        return callable(self.attribute(case, method, None))

    def attribute(self, case: Any, name: str, default: Any) -> Any:
        """What the object of a case says about itself; an exception as a value, where it raises."""
        built = self.object(case)
        return self._guarded(name, lambda: getattr(built, name, default))

    def sampler(self, case: Any) -> str:
        """What kind of sampler the object says it has: grid, multistage or exact."""
        kind = self.attribute(case, "sampler", "grid")
        return kind if kind in ("multistage", "exact") else "grid"

    def forget(self) -> None:
        """Starts a new list of calls."""
        self.calls = []

    def call(self, case: Any, method: str, *arguments: Any) -> Any:
        """The answer of a method, checked; see the module."""
        return self.checked(case, method, arguments, self.raw(case, method, *arguments))

    def checked(self, case: Any, method: str, arguments: tuple[Any, ...], answer: Any) -> Any:
        """An answer as it came, or Malformed where it is not what the contract says."""
        if isinstance(answer, Exception):
            raise Malformed(f"{method} raises {_name(answer)} on legal input", expected="an array", got=_name(answer))
        named = zip(self.contract.methods[method], _values(arguments), strict=True)
        return self.contract.check(case, method, dict(named), answer)

    def raw(self, case: Any, method: str, *arguments: Any) -> Any:
        """The answer as it came, or the exception that was raised."""
        self.calls.append(Call(case, method, arguments))
        return self._answer(case, method, _copies(arguments))

    def changed(self, case: Any, method: str, *arguments: Any) -> list[str]:
        """The names of the arguments into which a call writes."""
        self.calls.append(Call(case, method, arguments))
        given = _copies(arguments)
        self._answer(case, method, given)
        both = zip(self.contract.methods[method], given, _copies(arguments), strict=True)
        return [name for name, a, b in both if isinstance(a, np.ndarray) and not np.array_equal(a, b)]

    def _answer(self, case: Any, method: str, arguments: list[Any]) -> Any:
        if not self.has(case, method):
            raise NotCovered(f"no method {method}")
        if method in self.hung:
            message, self.calls[-1] = self.hung[method]  # the call that hung, whichever this is
            raise Malformed(message)
        function = getattr(self.object(case), method)
        result = self._guarded(method, lambda: function(*arguments))
        if isinstance(result, NotCovered):
            raise result
        if isinstance(result, Malformed):
            self.hung[method] = result.message, self.calls[-1]
        if isinstance(result, Broken):
            raise result
        return result

    def _guarded(self, what: str, function: Callable[[], Any]) -> Any:
        """The value of a call, or as a value the exception that it raised; what it prints is kept."""
        self.asking = (what, time.monotonic())
        try:
            with (
                contextlib.redirect_stdout(self.printed),
                contextlib.redirect_stderr(self.printed),
                np.errstate(all="ignore"),
                within(self.limit),
            ):
                return function()
        except NotImplementedError as error:
            return NotCovered(f"{what}: {' '.join(str(error).split()) or 'NotImplementedError'}")
        except TimedOut:
            return Malformed(f"{what}: no answer within {self.limit:g} s", expected="an answer", got="none")
        except KeyboardInterrupt:
            raise
        except Broken as error:  # of the kit's own models
            return error
        except BaseException as error:  # sys.exit() in an adapter is its failure too
            return error if isinstance(error, Exception) else RuntimeError(_name(error))
        finally:
            self.asking = ("", 0.0)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimedOut where the block takes longer; in the main thread of a system with timers, else not at all.

    The alarm rings again every second, for code that swallows it, and waits for the garbage collector, which drops it.

    >>> with within(5.0):
    ...     pass
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        if not _unraisable(frame):
            raise TimedOut
        signal.setitimer(signal.ITIMER_REAL, 0.01, 1.0)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _unraisable(frame: FrameType | None) -> bool:
    """Whether the frame serves the garbage collector: Python reports an exception from there, and drops it."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame and frame.f_code not in callbacks and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def lines(calls: list[Call], setup: str, show: str, *, contract: Contract | None = None) -> str:
    """Python that repeats calls of an adapter, whose `build` the setup defines, and shows what came.

    >>> kappa = Call(Case(2, 1, "linear", "uniform"), "kappa", (np.array([0.5]),))
    >>> print(lines([kappa], "from mine import build", "print(kappa)"))
    import numpy as np
    from dfm_ref.verify import Case
    from mine import build
    <BLANKLINE>
    case = Case(vocab_size=2, length=1, schedule='linear', source='uniform')
    it = build(case)
    t = np.array([0.5])
    kappa = it.kappa(t)
    print(kappa)
    """
    contract, body = contract or DISCRETE, list[str]()
    objects: dict[Any, str] = {}
    known: Counter[str] = Counter()
    name = ""
    for call in calls:
        if call.case not in objects:
            of = "" if not objects else f"_{len(objects) + 1}"
            objects[call.case] = of
            body += [f"case{of} = {call.case!r}", f"it{of} = build(case{of})"]
        of = objects[call.case]
        known[name := contract.results.get(call.method, call.method)] += 1
        name += f"_{known[name]}" if known[name] > 1 else ""
        texts = [_python(value).replace(repr(call.case), f"case{of}") for value in call.arguments]
        names = contract.methods[call.method]
        named = [n if len(text) > 12 else text for n, text in zip(names, texts, strict=True)]
        written = [isinstance(value, Written) for value in call.arguments]
        for _, argument, text in sorted(zip(written, named, texts, strict=True), key=lambda row: row[0]):
            if argument != text and f"{argument} = {text}" not in body:  # what is written may use the others
                body.append(f"{argument} = {text}")
        body.append(f"{name} = it{of}.{call.method}({', '.join(named)})")
    text = "\n".join([*body, show or (f"print({name})" if name else "")])
    imports = ["import numpy as np", f"from dfm_ref.verify import {contract.case}"]
    if models := [model for model in contract.models if f"{model}(" in text]:
        imports.append(f"from dfm_ref.verify.models import {', '.join(models)}")
    return "\n".join([*imports, setup, "", text])


def _values(arguments: tuple[Any, ...]) -> list[Any]:
    return [a.value if isinstance(a, Written) else a for a in arguments]


def _copies(arguments: tuple[Any, ...]) -> list[Any]:
    return [a.copy() if isinstance(a, np.ndarray) else a for a in _values(arguments)]


def _python(value: Any) -> str:
    """An argument as Python; a long batch of equal rows is written as one."""
    if isinstance(value, Written):
        return value.text
    if not isinstance(value, np.ndarray):
        return repr(value)
    for period in range(1, 9) if value.size > 16 else ():
        repeats, rest = divmod(len(value), period)
        if (
            not rest
            and repeats > 1
            and np.all(value.reshape(repeats, period, -1) == value[:period].reshape(period, -1))
        ):
            tiled = (repeats, *(1,) * (value.ndim - 1))
            return f"np.tile({_python(value[:period])}, {tiled if value.ndim > 1 else repeats})"
    with np.printoptions(threshold=10**6, floatmode="unique"):
        text = np.array2string(value, separator=", ", max_line_width=10**6).replace("\n", "")
    text = " ".join(text.split()).replace("nan", "np.nan").replace("inf", "np.inf")
    usual = value.dtype in (np.float64, np.int64) and value.size
    kind = "" if usual else f", dtype=np.{value.dtype}"
    shape = "" if value.size else f".reshape({value.shape})"
    return f"np.array({text if value.size else '[]'}{kind}){shape}"


def _name(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def _checked(case: Case, method: str, named: dict[str, Any], answer: Any) -> Table:
    """The answer, or Malformed: see `METHODS` of the contract for kinds and shapes."""
    if not isinstance(answer, np.ndarray):
        raise Malformed(
            f"{method} returns {type(answer).__name__}", expected="a NumPy array", got=type(answer).__name__
        )
    tokens = method in ("sample", "sample_path")
    kind = "integers" if tokens else "floats"
    if answer.dtype.kind not in ("iu" if tokens else "f"):
        raise Malformed(f"{method} returns {answer.dtype}", expected=kind, got=str(answer.dtype))
    shape = _shape(named, method)
    if answer.shape != shape:
        raise Malformed(f"{method} returns the shape {answer.shape}", expected=shape, got=answer.shape)
    if tokens and answer.size and not (answer.min() >= 0 and answer.max() < case.vocab_size):
        off = answer.min() if answer.min() < 0 else answer.max()
        raise Malformed(f"{method} returns the token {off}", expected=f"tokens in [0, {case.vocab_size})", got=int(off))
    bad = np.isnan(answer) if method in _LOSSES else ~np.isfinite(answer)
    if not tokens and bad.any():
        value = answer[bad].flat[0]
        expected = "numbers, +inf where a token is impossible" if method in _LOSSES else "finite numbers"
        raise Malformed(f"{method} returns {value}", expected=expected, got=float(value))
    return answer


def _shape(named: dict[str, Any], method: str) -> tuple[int, ...]:
    if method == "sample":
        return (len(named["times"]), *named["x_0"].shape)
    first = named[METHODS[method][0]].shape
    return first[:-1] if method in _LOSSES else tuple(first)


DISCRETE = Contract(
    METHODS,
    _checked,
    lambda built, case: True,
    {"sample": "frames", "sample_path": "x_t", "velocity": "u", "corrector_velocity": "u", "kappa_inverse": "t"},
    "Case",
    ("Constant", "Posterior", "Starts"),
)
"""The contract of implementations of discrete flow matching."""

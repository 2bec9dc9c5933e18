"""The kit: tries every law on an adapter, shrinks what breaks one, and says what it found.

Laws of samples are tried in looks: all examples on few draws first, then on more, as far as the time goes. The rate of
false alarms of a run is shared evenly by these laws, within one by its looks, and within a look by its examples.
"""

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any, NamedTuple

from . import probe as probing
from .laws import Law
from .laws.law import Trial
from .probe import Broken, Malformed, NotCovered, Probe, Unbuilt
from .statistics import Evidence, departure_seen, looks
from .suites import DISCRETE, Suite

__all__ = ["Finding", "Report", "Result", "Unusable", "results", "verify"]


class Finding(NamedTuple):
    """A broken law: what is wrong in one sentence, what was expected, what came, and Python that shows it."""

    message: str
    expected: str
    got: str
    script: str
    case: str
    also: tuple[str, ...] = ()
    """Of bad input, what else is accepted."""
    picture: Any = None
    """Numbers to draw; see `Broken`."""


class Result(NamedTuple):
    """What is known of one law: it holds, is broken, or was not checked, and why."""

    law: Law
    status: str
    """holds, broken, or unchecked."""
    reason: str = ""
    """Of a law that was not checked."""
    finding: Finding | None = None
    seconds: float = 0.0
    examples: int = 0
    draws: int = 0
    """Of a law of samples, of each example in the last look."""
    alpha: float = 0.0
    """The rate of false alarms of the law."""
    seen: float = 0.0
    """The departure that the last look would have seen with a probability of 0.99."""


class Report(NamedTuple):
    """A run: its target, and the results in the order of the laws."""

    target: str
    seed: int
    alpha: float
    quick: bool
    results: tuple[Result, ...]
    seconds: float
    printed: int = 0
    """Lines that the adapter printed, which were kept from this report."""
    problem: str = ""
    """Why nothing could be checked."""
    suite: str = "discrete"
    """The name of the laws' suite."""

    @property
    def broken(self) -> list[Result]:
        """The results of the laws that do not hold."""
        return [result for result in self.results if result.status == "broken"]

    @property
    def status(self) -> int:
        """The exit status: 0 all laws hold, 1 one is broken, 2 nothing could be checked."""
        return 1 if self.broken else 2 if self.problem else 0


def _guard(probe: Probe, on_stuck: Callable[[str], None]) -> None:
    """Waits for a call that outlives its limit by three seconds: the alarm did not reach it."""
    while not probe.done:
        time.sleep(0.5)
        what, since = probe.asking
        if what and time.monotonic() - since > probe.limit + 3:
            on_stuck(f"{what}: no answer within {probe.limit:g} s, and it cannot be interrupted")
            return


class Unusable(Exception):
    """An adapter that no law can be tried on: it builds nothing, or has no method."""


def verify(
    build: Callable[[Any], Any],
    *,
    target: str = "adapter",
    setup: str = "",
    suite: Suite = DISCRETE,
    laws: tuple[Law, ...] | None = None,
    quick: bool = False,
    seed: int = 0,
    alpha: float = 1e-6,
    limit: float = 20.0,
    seconds: float | None = None,
    watch: Callable[[Iterator[Result]], Iterable[Result]] = iter,
    on_stuck: Callable[[str], None] | None = None,
) -> Report:
    """Tries laws on what `build(case)` gives; a right implementation is called wrong with a probability <= alpha.

    `laws` are those of the suite unless told; `setup` is the Python that defines `build` in the lines of a finding;
    `seconds`, 50 or with `quick` 6, is about how long a right implementation takes; `limit` is how long one call may
    take; `watch` sees the results as they come.
    `on_stuck` is called from another thread where a call does not end even then, inside of a C library, say.
    Nothing raises but a user's interrupt: what an adapter does wrong is in the report.

    >>> class Square:
    ...     def kappa(self, t):
    ...         if not ((t >= 0) & (t <= 1)).all():
    ...             raise ValueError("t")
    ...         return t**2
    >>> report = verify(lambda case: Square(), quick=True)
    >>> report.status, [result.law.id for result in report.broken]
    (1, ['schedule-value', 'schedule-precision'])
    """
    begun, probe, problem = time.monotonic(), Probe(build, limit=limit, contract=suite.contract), ""
    found: tuple[Result, ...] = ()
    if on_stuck:
        threading.Thread(target=_guard, args=(probe, on_stuck), daemon=True).start()
    options: dict[str, Any] = {"setup": setup, "suite": suite, "laws": laws, "quick": quick, "seed": seed}
    try:
        found = tuple(watch(results(build, **options, alpha=alpha, seconds=seconds, probe=probe)))
        asked = [result for result in found if result.law.id != "build"] or list(found)
        if all(result.status == "unchecked" for result in asked):
            problem = f"no law could be checked: {asked[0].reason if asked else 'none was chosen'}"
    except Unusable as error:
        problem = str(error)
    probe.done = True
    printed = len(probe.printed.getvalue().splitlines())
    return Report(target, seed, alpha, quick, found, time.monotonic() - begun, printed, problem, suite.name)


def results(
    build: Callable[[Any], Any],
    *,
    setup: str = "",
    suite: Suite = DISCRETE,
    laws: tuple[Law, ...] | None = None,
    quick: bool = False,
    seed: int = 0,
    alpha: float = 1e-6,
    seconds: float | None = None,
    probe: Probe | None = None,
) -> Iterator[Result]:
    """The results of `verify` one by one; laws of samples share the time that the others leave.

    Raises Unusable where no law can be tried. The probe, if given, is that of the build.

    >>> next(results(lambda case: None))
    Traceback (most recent call last):
    dfm_ref.verify.kit.Unusable: the object that build gives has none of the methods kappa, kappa_dot, ...
    """
    probe, seconds = probe or Probe(build, contract=suite.contract), seconds or (6.0 if quick else 50.0)
    methods, problem = suite.methods(probe)
    if problem:
        raise Unusable(problem)
    if not methods:
        names = ", ".join(suite.contract.methods)
        raise Unusable(f"the object that build gives has none of the methods {names}")
    chosen, sampled = suite.laws if laws is None else laws, sum(bool(one.draws) for one in suite.laws)
    begun, left = time.monotonic(), sum(bool(one.draws) for one in chosen)
    before: list[Result] = []
    for one in chosen:
        rest = seconds - (time.monotonic() - begun)
        budget = max(0.02 * seconds, rest / left) if one.draws else 0.01 * seconds
        left -= bool(one.draws)
        seed_of, share = zlib.crc32(f"{seed} {one.id}".encode()), alpha / max(1, sampled)
        before.append(_Run(probe, one, setup, before, quick, seed_of, share, budget).result())
        yield before[-1]


class _Enough(BaseException):
    """Ends a search of hypothesis, which takes an Exception for a failure of the test."""


class _Run:
    """One law on one adapter."""

    def __init__(
        self,
        probe: Probe,
        law: Law,
        setup: str,
        before: list[Result],
        quick: bool,
        seed: int,
        alpha: float,
        seconds: float,
    ) -> None:
        self.probe, self.law, self.setup, self.quick = probe, law, setup, quick
        self.seed, self.alpha, self.seconds = seed, alpha, seconds
        self.shrinking = 0.6 if quick else 3.0
        self.patience = 5.0
        """Seconds beyond which a law leaves examples out: an implementation that compiles for every shape is slow."""
        failed = {result.law.id for result in before if result.status == "broken"}
        self.blocked = {method for method in probe.contract.methods if f"answers-{method}" in failed}
        self.unbuilt = "build" in failed
        self.tried, self.draws = 0, 0
        self.tests: set[tuple[Evidence, float]] = set()
        self.why = ""

    def result(self) -> Result:
        begun = time.monotonic()
        failed = self._sampled() if self.law.draws else self._checked(begun + self.seconds)
        finding = self._finding(*failed) if failed else None
        status = "broken" if finding else "holds" if self.tried else "unchecked"
        return Result(
            self.law,
            status,
            "" if self.tried or finding else self.why,
            finding,
            time.monotonic() - begun,
            self.tried,
            self.draws,
            self.alpha if self.law.draws else 0.0,
            max((departure_seen(*test) for test in self.tests), default=0.0),
        )

    def _try(self, at: Any, draws: int = 0, alpha: float = 1e-9) -> Broken | None:
        """What breaks the law on an example, or None, where it holds or does not apply."""
        self.probe.forget()
        trial = Trial(self.probe, seed=self.seed, draws=draws, alpha=alpha)
        try:
            self.law.check(trial, at)
            self.tried += 1
        except NotCovered as error:
            if not (self.why and str(error).startswith("build(")):  # a missing method says more than a missing case
                self.why = str(error)
        except Malformed as error:
            # what a law before this one has reported is not reported again
            if self.unbuilt if isinstance(error, Unbuilt) else self.probe.calls[-1].method in self.blocked:
                self.why = self.why or error.message
                return None
            return error
        except Broken as error:
            return error
        self.tests |= {(evidence._replace(log_p=0.0), rate) for evidence, rate in trial.tests}
        return None

    def _checked(self, until: float) -> tuple[Any, int, float] | None:
        """The examples, all of them; then others that hypothesis draws, as long as there is time."""
        begun = time.monotonic()
        for at in self.law.examples():
            if self._try(at):
                return at, 0, 1e-9
            if time.monotonic() - begun > self.patience:
                return None  # small examples come first
        if self.law.more and self.tried and not self.quick:
            found = self._find(0, 1e-9, until)
            return (found, 0, 1e-9) if found is not None else None
        return None

    def _sampled(self) -> tuple[Any, int, float] | None:
        """All examples in every look, until the next look would take longer than there is time."""
        begun, examples = time.monotonic(), list(self.law.examples())
        for look in looks(self.law.draws, self.alpha):
            self.tried, self.tests = 0, set()
            started = time.monotonic()
            for at in examples:
                if self._try(at, look.draws, look.alpha / len(examples)):
                    return at, look.draws, look.alpha / len(examples)
                if time.monotonic() - begun > self.seconds + self.patience:
                    break
            self.draws = look.draws
            if not self.tried or time.monotonic() - begun + 4 * (time.monotonic() - started) > self.seconds:
                break
        return None

    def _find(self, draws: int, alpha: float, until: float) -> Any:
        """The smallest example that breaks the law among those that hypothesis tries until a time; None without one."""
        import hypothesis
        from hypothesis.errors import NoSuchExample, UnsatisfiedAssumption

        smallest, more = None, self.law.more or hypothesis.strategies.nothing

        def breaks(at: Any) -> bool:
            nonlocal smallest
            if time.monotonic() > until:
                raise _Enough
            broken = self._try(at, draws, alpha) is not None
            smallest = at if broken else smallest
            return broken

        settings = hypothesis.settings(
            max_examples=300,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        )
        try:
            return hypothesis.find(more(), breaks, settings=settings, random=Random(self.seed))
        except (NoSuchExample, UnsatisfiedAssumption):
            return None
        except _Enough:
            return smallest

    def _finding(self, at: Any, draws: int, alpha: float) -> Finding:
        tried = self.tried
        if self.law.more:
            smaller = self._find(draws, alpha, time.monotonic() + self.shrinking)
            at = at if smaller is None else smaller
        error = self._try(at, draws, alpha)
        self.tried = tried + 1
        if error is None:
            message = "the same example holds when it is tried again: the implementation does not repeat itself"
            error = Broken(message, expected="the same answer to the same question", got="another")
        script = probing.lines(self.probe.calls, self.setup, error.show, contract=self.probe.contract)
        case = repr(getattr(at, "case", at))
        also = tuple(self._also()) if self.law.id.startswith("bad-") else ()
        return Finding(error.message, _text(error.expected), _text(error.got), script, case, also, error.picture)

    def _also(self) -> Iterator[str]:
        """Of bad input: what else is accepted."""
        found: dict[str, None] = {}
        for other in self.law.examples():
            if (error := self._try(other)) and not isinstance(error, Malformed):
                found[error.message] = None
        yield from list(found)[1:]


def _text(value: Any) -> str:
    return " ".join((value if isinstance(value, str) else repr(value)).split())[:400]

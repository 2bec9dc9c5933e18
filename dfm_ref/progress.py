"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["progress"]

T = TypeVar("T")

Report = Callable[[int, Callable[[], str]], None]

_SECONDS_BETWEEN_LINES = 5.0


def progress(items: Iterable[T], label: str, total: int, describe: Callable[[T], str] = lambda item: "") -> Iterator[T]:
    """The items one by one, while standard error shows how many of `total` are done and what `describe` says.

    A bar where it is a terminal and rich is installed; else a line every five seconds and at the end. `describe` is
    called only for what is shown.

    >>> list(progress("ab", "reading", 2))
    ['a', 'b']
    """
    with (
        _bar(label, total)
        if sys.stderr.isatty() and importlib.util.find_spec("rich")
        else _lines(label, total) as report
    ):
        for done, item in enumerate(items, start=1):
            yield item
            report(done, lambda item=item: describe(item))  # type: ignore[misc]


@contextmanager
def _bar(label: str, total: int) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, text: bar.update(task, completed=done, description=f"{label} {text()}")


@contextmanager
def _lines(label: str, total: int) -> Iterator[Report]:
    shown = time.monotonic()

    def report(done: int, text: Callable[[], str]) -> None:
        nonlocal shown
        if done == total or time.monotonic() - shown > _SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            print(f"{label} {done}/{total} {text()}".rstrip(), file=sys.stderr)

    yield report

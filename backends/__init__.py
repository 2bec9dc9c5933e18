"""Array libraries to run on: one small file each, loaded by name.

`load("torch")` gives a `Backend`; pure code never asks for one. Third parties register theirs, a module with an
attribute `backend`, under the entry-point group ``dfm_ref.backends``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

__all__ = ["NAMES", "Backend", "BackendError", "load", "names"]

NAMES = ("numpy", "strict", "torch", "jax", "cupy")


class BackendError(RuntimeError):
    """A backend that is unknown, or whose library or device is missing: one line that says what to install."""


@dataclass(frozen=True)
class Backend:
    """An array library and what the pure code cannot know about it."""

    name: str
    xp: Any
    """The namespace, as `array_api_compat` gives it."""
    asarray: Callable[[Any], Any]
    """From NumPy to the library's array on its device."""
    to_numpy: Callable[[Any], Any]
    synchronize: Callable[[], None] = lambda: None
    """Waits until the device has done its work; for timing."""
    kernels: Mapping[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)
    """Fused twins with the signature of the reference functions that they replace."""

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The fused twin of a reference function, or the function itself."""
        return self.kernels.get(function, function)


def names() -> tuple[str, ...]:
    """The built-in names and those of installed third parties."""
    return (*NAMES, *sorted({entry.name for entry in entry_points(group="dfm_ref.backends")} - set(NAMES)))


def load(name: str) -> Backend:
    """The backend of a name; raises BackendError, in one line, where it cannot run.

    >>> load("numpy").name
    'numpy'
    """
    if name in NAMES:
        try:
            backend: Backend = import_module(f".{name}", __name__).backend
        except ImportError as error:
            raise BackendError(
                f"backend {name}: {error}. Install it with: pip install '{_REQUIREMENT[name]}'"
            ) from None
        return backend
    for entry in entry_points(group="dfm_ref.backends"):
        if entry.name == name:
            loaded: Backend = entry.load()
            return loaded
    raise BackendError(f"backend {name}: expected one of {', '.join(names())}")


_REQUIREMENT = {
    "numpy": "numpy",
    "strict": "array-api-strict",
    "torch": "torch",
    "jax": "jax",
    "cupy": "dfm_ref[cuda13]' or 'dfm_ref[cuda12]",
}

"""Array libraries to run on: one small file each, loaded by name.

`load("torch")` gives a `Backend`; pure code never asks for one. Third parties register theirs, a module with an
attribute `backend`, under the entry-point group ``dfm_ref.backends``.
"""

from importlib import import_module
from importlib.metadata import entry_points

from dfm_ref.protocols import Backend

__all__ = ["NAMES", "Backend", "BackendError", "load", "names"]

NAMES = ("numpy", "numba", "strict", "torch", "jax", "cupy")


class BackendError(RuntimeError):
    """A backend that is unknown, or whose library or device is missing: one line that says what to install."""


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
        except BackendError:
            raise
        except Exception as error:  # a broken installation fails in its own way
            why = " ".join(str(error).split())
            raise BackendError(f"backend {name}: {why}. Install it with: pip install '{_REQUIREMENT[name]}'") from None
        return backend
    for entry in entry_points(group="dfm_ref.backends"):
        if entry.name == name:
            try:
                loaded = entry.load()
            except BackendError:
                raise
            except Exception as error:
                raise BackendError(f"backend {name}: {' '.join(str(error).split())}, in {entry.value}") from None
            third: Backend = getattr(loaded, "backend", loaded)
            return third
    raise BackendError(f"backend {name}: expected one of {', '.join(names())}")


_REQUIREMENT = {
    "numpy": "numpy",
    "numba": "numba",
    "strict": "array-api-strict",
    "torch": "torch",
    "jax": "jax",
    "cupy": "dfm_ref[cuda13]' or 'dfm_ref[cuda12]",
}

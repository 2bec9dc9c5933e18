"""Checkpoints: named arrays and a description, in one safetensors file, replaced whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from .arrays import to_numpy
from .protocols import Params

__all__ = ["CheckpointError", "load", "save", "write"]


class CheckpointError(ValueError):
    """A file that holds no checkpoint, or not a whole one."""


def save(file: Path, arrays: Params, description: dict[str, Any]) -> None:
    """Writes arrays of any library, and a description that JSON can hold, in place of the file.

    The old file stands until the new one is whole on disk. Raises OSError where it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder, "a.safetensors"), {"w": np.ones(1)}, {"steps": 1})
    ...     load(Path(folder, "a.safetensors"))
    ({'w': array([1.])}, {'steps': 1})
    """
    rows = {name: np.asarray(to_numpy(array), order="C") for name, array in arrays.items()}  # else saved wrongly
    write(file, to_bytes(rows, metadata={"dfm_ref": json.dumps(description)}))


def load(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the description that `save` wrote.

    Raises FileNotFoundError, or CheckpointError where the file is truncated, corrupted or somebody else's.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such checkpoint")
    try:
        with safe_open(file, "np") as content:
            description = json.loads((content.metadata() or {})["dfm_ref"])
            return {name: content.get_tensor(name) for name in content.keys()}, description  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OSError) as error:
        raise CheckpointError(
            f"{file}: expected a whole checkpoint of dfm_ref, got {type(error).__name__}: {error}"
        ) from None


def write(file: Path, content: bytes) -> None:
    """Replaces a file atomically: a reader, or a power cut, meets the old content or the new.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "a"), b"new")
    ...     Path(folder, "a").read_bytes()
    b'new'
    """
    if file.exists() and not file.is_file():  # to replace a device or a folder is never what was meant
        raise OSError(f"{file}: expected a name for a file, got something else of that name")
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException as error:
        Path(name).unlink()
        if isinstance(error, OSError):
            error.filename = str(file)  # not the temporary one's name, or none
        raise

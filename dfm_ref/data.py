"""Token datasets: text, the digits of scikit-learn, arrays of integers."""

import pydoc_data.topics
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["DataError", "Dataset", "decode", "encode", "load"]


class DataError(ValueError):
    """Data, or a name of data, that cannot be used."""


class Dataset(NamedTuple):
    """Sequences int64[M, N] of tokens below vocab_size (the mask not counted); of text, token v is characters[v].

    Of digits, the class of each is its label, int64[M] in [0, 10).
    """

    x_1: np.ndarray
    vocab_size: int
    characters: str | None = None
    labels: np.ndarray | None = None


def load(source: str, *, length: int | None = None, split: str = "train", characters: str | None = None) -> Dataset:
    """The dataset of a source: `text:FILE`, `pydoc`, `digits` or `FILE.npy`.

    Text is cut into windows of `length` characters: all of them to train on, those side by side to test on. The
    last tenth of `pydoc` and `digits` is their test split; a file of the user's is used whole, as either split.
    `characters` is the vocabulary of a model that must read the text. Raises DataError in one sentence.

    >>> load("pydoc", length=8, split="test").x_1.shape[1]
    8
    """
    if split not in ("train", "test"):
        raise DataError(f"split: expected 'train' or 'test', got {split!r}")
    if source == "pydoc":
        return _windows(
            "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items())), length, split, characters, 0.1
        )
    if source.startswith("text:"):
        return _windows(_read(Path(source.removeprefix("text:"))), length, split, characters, 0.0)
    if source == "digits":
        data = _digits(split)
    elif source.endswith(".npy"):
        data = _array(Path(source))
    else:
        raise DataError(f"data: expected text:FILE, pydoc, digits or FILE.npy, got {source!r}")
    if length not in (None, data.x_1.shape[1]):
        raise DataError(f"length: expected {data.x_1.shape[1]}, the length of the sequences of {source}, got {length}")
    return data


def encode(text: str, characters: str) -> np.ndarray:
    """The tokens of a text, int64[len(text)]; DataError names the first character that is not in the vocabulary.

    >>> encode("baa", "ab")
    array([1, 0, 0])
    """
    index = {character: token for token, character in enumerate(characters)}
    for place, character in enumerate(text):
        if character not in index:
            raise DataError(f"text: expected characters of the vocabulary, got {character!r} at position {place}")
    return np.fromiter((index[character] for character in text), dtype=np.int64, count=len(text))


def decode(tokens: np.ndarray, characters: str, *, mask: str = "_") -> str:
    """The text of tokens, int[N]; a token outside the vocabulary, such as the mask, is written as `mask`.

    >>> decode(np.array([1, 0, 2]), "ab")
    'ba_'
    """
    return "".join(characters[token] if token < len(characters) else mask for token in tokens.tolist())


def _windows(text: str, length: int | None, split: str, characters: str | None, test_share: float) -> Dataset:
    if length is None or length < 1:
        raise DataError(f"length: expected the number of characters of a window, at least 1, got {length}")
    vocabulary = characters or "".join(sorted(set(text)))
    cut = len(text) - int(test_share * len(text))
    if test_share:
        text = text[:cut] if split == "train" else text[cut:]
    if len(text) < length:
        raise DataError(f"text: expected at least {length} characters, one window, got {len(text)}")
    windows = np.lib.stride_tricks.sliding_window_view(encode(text, vocabulary), length)
    return Dataset(windows if split == "train" else windows[::length], len(vocabulary), vocabulary)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected UTF-8 text, got {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"{file}: expected a text file, got {error.strerror}") from None


def _digits(split: str) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits: expected scikit-learn. Install it with: pip install 'dfm_ref[demo]'") from None
    digits = load_digits()
    images, labels = digits.images.astype(np.int64).reshape(-1, 64), digits.target.astype(np.int64)
    cut = len(images) - len(images) // 10
    part = slice(None, cut) if split == "train" else slice(cut, None)
    return Dataset(images[part], vocab_size=17, labels=labels[part])


def _array(file: Path) -> Dataset:
    try:
        x_1 = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        told = getattr(error, "strerror", None) or error  # of a file that is not there
        raise DataError(f"{file}: expected an array of integers, got {told}") from None
    if not isinstance(x_1, np.ndarray) or x_1.ndim != 2 or x_1.dtype.kind not in "iu":
        kind = f"{x_1.dtype} of shape {x_1.shape}" if isinstance(x_1, np.ndarray) else type(x_1).__name__
        raise DataError(f"{file}: expected int[M, N], got {kind}")
    if 0 in x_1.shape:
        raise DataError(f"{file}: expected at least one sequence of at least one token, got shape {x_1.shape}")
    if x_1.min() < 0 or x_1.max() >= 2**63:
        raise DataError(f"{file}: expected tokens in [0, 2**63), got {x_1.min()} to {x_1.max()}")
    return Dataset(x_1.astype(np.int64), int(x_1.max()) + 1)

"""Datasets: windows of text, digits and arrays; what cannot be used is one sentence."""

import pydoc_data.topics
import sys
from pathlib import Path

import numpy as np
import pytest

from dfm_ref import data
from dfm_ref.data import DataError, decode, encode, load

TEXT = "naïve café — 東京\n" * 5


@pytest.fixture
def text(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    return f"text:{tmp_path / 'a.txt'}"


@pytest.fixture
def saved(tmp_path):
    def save(x, **options):
        np.save(tmp_path / "a.npy", x, **options)
        return str(tmp_path / "a.npy")

    return save


def test_training_text_is_every_window_and_test_text_every_other_length(text):
    train, test = load(text, length=7), load(text, length=7, split="test")
    assert [decode(row, train.characters) for row in train.x_1] == [TEXT[i : i + 7] for i in range(len(TEXT) - 6)]
    assert [decode(row, test.characters) for row in test.x_1] == [TEXT[i : i + 7] for i in range(0, len(TEXT) - 6, 7)]


def test_the_vocabulary_is_the_sorted_characters(text):
    dataset = load(text, length=3)
    assert dataset.characters == "".join(sorted(set(TEXT))) and dataset.vocab_size == len(set(TEXT))
    assert set(np.unique(dataset.x_1)) == set(range(dataset.vocab_size)) and dataset.x_1.dtype == np.int64


def test_a_given_vocabulary_is_kept_and_must_know_the_text(text):
    characters = "".join(sorted({*TEXT, *"zZ"}))
    dataset = load(text, length=3, characters=characters)
    assert (dataset.characters, dataset.vocab_size) == (characters, len(characters))
    assert decode(dataset.x_1[0], characters) == TEXT[:3]
    with pytest.raises(DataError, match="'ï' at position 2"):
        load(text, length=3, characters="na")


@pytest.mark.parametrize("length", [1, len(TEXT)])
def test_windows_may_be_a_character_or_the_whole_text(text, length):
    for split in ("train", "test"):
        assert load(text, length=length, split=split).x_1.shape == (len(TEXT) + 1 - length, length)


def test_windows_are_views_and_cannot_be_written(text):
    x_1 = load(text, length=7).x_1
    with pytest.raises(ValueError, match="read-only"):
        x_1[0, 0] = 0


def test_pydoc_is_split_into_english_without_overlap():
    whole = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    train, test = (load("pydoc", length=50, split=split) for split in ("train", "test"))
    assert train.characters == test.characters == "".join(sorted(set(whole)))
    seen, unseen = train.x_1.shape[0] + 49, test.x_1.size
    assert 0.89 < seen / len(whole) < 0.91 and 0 <= len(whole) - seen - unseen < 50
    assert decode(train.x_1[-1], train.characters) == whole[seen - 50 : seen]
    assert decode(test.x_1[0], test.characters) == whole[seen : seen + 50]


def test_digits_are_split_without_overlap():
    sklearn = pytest.importorskip("sklearn.datasets")
    train, test = (load("digits", split=split) for split in ("train", "test"))
    assert (train.vocab_size, train.characters, train.x_1.shape[1], train.x_1.dtype) == (17, None, 64, np.int64)
    assert len(test.x_1) == 179
    assert np.array_equal(np.concatenate([train.x_1, test.x_1]), sklearn.load_digits().data)
    assert np.array_equal(np.concatenate([train.labels, test.labels]), sklearn.load_digits().target)
    assert train.labels.dtype == np.int64 and len(train.labels) == len(train.x_1)
    assert load("pydoc", length=8).labels is None


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install"):
        load("digits")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", ">i4", "int64", "uint64"])
def test_arrays_of_any_integers_are_read(saved, dtype):
    x = np.asarray([[0, 5], [3, 1], [2, 2]], dtype=dtype)
    for split in ("train", "test"):
        dataset = load(saved(np.asfortranarray(x)), split=split)
        assert dataset.x_1.dtype == np.int64 and np.array_equal(dataset.x_1, x)
        assert (dataset.vocab_size, dataset.characters) == (6, None)


@pytest.mark.parametrize(
    "x",
    [np.zeros((2, 2)), np.zeros((2, 2), dtype=bool), np.zeros((2, 2), dtype=complex), np.zeros((2, 2), dtype="S1"),
     np.zeros((2, 2), dtype="M8[s]"), np.zeros(2, dtype=int), np.asarray(3), np.zeros((1, 1, 1), dtype=int),
     np.zeros((0, 2), dtype=int), np.zeros((2, 0), dtype=int), np.asarray([[-1]]), np.zeros(2, dtype=[("a", "i4")])],
    ids=str,
)  # fmt: skip
def test_arrays_that_are_not_tokens_are_refused(saved, x):
    with pytest.raises(DataError, match=r"a\.npy: expected") as caught:
        load(saved(x))
    assert len(str(caught.value).splitlines()) == 1


def test_tokens_beyond_int64_are_refused_not_wrapped(saved):
    with pytest.raises(DataError):
        load(saved(np.asarray([[0, 2**64 - 1]], dtype=np.uint64)))


def test_objects_are_never_unpickled(saved, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    file = saved(np.asarray([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        load(file)
    assert not (tmp_path / "sprung").exists()


def test_no_truncated_array_is_read(saved):
    file = Path(saved(np.arange(12).reshape(3, 4)))
    whole = file.read_bytes()
    for size in [*range(0, len(whole), 5), len(whole) - 1]:
        file.write_bytes(whole[:size])
        with pytest.raises(DataError):
            load(str(file))


def test_a_length_that_arrays_do_not_have_is_refused(saved):
    file = saved(np.zeros((2, 3), dtype=int))
    assert load(file, length=3).x_1.shape == (2, 3)
    with pytest.raises(DataError, match="length: expected 3"):
        load(file, length=2)


@pytest.mark.parametrize("length", [None, 0, -1, len(TEXT) + 1])
def test_a_length_that_text_does_not_have_is_refused(text, length):
    with pytest.raises(DataError):
        load(text, length=length)


@pytest.mark.parametrize("source", ["", "text:", "pydocs", "Digits", "a.txt", "a.npz", ".npy", "text", "text:nowhere"])
def test_unknown_sources_are_refused(source):
    with pytest.raises(DataError) as caught:
        load(source, length=4)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="split"):
        load("pydoc", length=4, split="validation")


def test_text_that_is_not_utf8_is_refused_with_its_place(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\xff")
    with pytest.raises(DataError, match="byte 4"):
        load(f"text:{tmp_path / 'a.txt'}", length=2)


def test_encode_undoes_decode():
    characters = "".join(sorted(set(TEXT)))
    tokens = np.random.default_rng(0).integers(0, len(characters), 50)
    assert np.array_equal(encode(decode(tokens, characters), characters), tokens)
    assert encode("", characters).shape == (0,) and encode("", characters).dtype == np.int64
    assert decode(np.asarray([len(characters)]), characters, mask="?") == "?"


def test_errors_of_data_are_value_errors():
    assert issubclass(data.DataError, ValueError)

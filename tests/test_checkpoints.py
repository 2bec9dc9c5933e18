"""Checkpoints: what is saved comes back bit for bit; a file is replaced whole or not at all; damage is one line."""

import errno
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from strategies import BACKENDS, backend

from dfm_ref import checkpoints
from dfm_ref.checkpoints import CheckpointError

ARRAYS = {
    "half": np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3),
    "single": np.asarray([np.nan, np.inf, -0.0, 1e-45], dtype=np.float32),
    "double": np.full((1, 2), 1 / 3),
    "long": np.asarray([2**62, -1]),
    "empty": np.zeros((0, 3)),
    "turned": np.arange(6.0).reshape(2, 3).T,
    "strided": np.arange(12)[::-3],
}
DESCRIPTION = {"steps": 3, "rate": 0.1, "characters": 'é\n"\U0001f600', "nested": {"none": None, "list": [1, 2.5]}}


@pytest.fixture
def file(tmp_path):
    checkpoints.save(tmp_path / "a.safetensors", ARRAYS, DESCRIPTION)
    return tmp_path / "a.safetensors"


def assert_equal(file, arrays=ARRAYS, description=DESCRIPTION):
    loaded, said = checkpoints.load(file)
    assert said == description and loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def fails_on_one_line(file):
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(file)
    message = str(caught.value)
    assert str(file) in message and len(message.splitlines()) == 1


def test_what_is_saved_comes_back_bit_for_bit(file):
    assert_equal(file)


def test_a_number_keeps_its_shape(tmp_path):
    checkpoints.save(tmp_path / "n", {"n": np.asarray(7.0)}, {})
    assert_equal(tmp_path / "n", {"n": np.asarray(7.0)}, {})


def test_loaded_arrays_outlive_the_file_and_may_be_written(file):
    arrays, _ = checkpoints.load(file)
    file.unlink()
    arrays["double"] += 1
    assert np.all(arrays["double"] == 1 + 1 / 3)


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_arrays_of_any_library_are_saved(tmp_path, name):
    b = backend(name)
    arrays = {n: np.ascontiguousarray(a) for n, a in ARRAYS.items() if n != "half"}
    turned = b.asarray(np.ascontiguousarray(ARRAYS["turned"].T)).T
    given = {n: b.asarray(a) for n, a in arrays.items()} | {"turned": turned}
    checkpoints.save(tmp_path / "b", given, {})
    assert_equal(tmp_path / "b", arrays, {})


def test_saving_twice_gives_the_same_bytes(file, tmp_path):
    checkpoints.save(tmp_path / "again", ARRAYS, DESCRIPTION)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_no_truncated_file_is_loaded(file, tmp_path):
    whole = file.read_bytes()
    sizes = {*range(0, len(whole), 7), *range(12), *range(len(whole) - 40, len(whole))}
    for size in sorted(sizes - {len(whole)}):
        (tmp_path / "cut").write_bytes(whole[:size])
        fails_on_one_line(tmp_path / "cut")


def test_no_extended_file_is_loaded(file):
    file.write_bytes(file.read_bytes() + b"\0")
    fails_on_one_line(file)


def test_no_flipped_bit_of_the_header_is_more_than_an_error_or_another_name(file, tmp_path):
    whole = file.read_bytes()
    size = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(size):
        for bit in (place % 7, 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            (tmp_path / "flipped").write_bytes(flipped)
            try:
                checkpoints.load(tmp_path / "flipped")
            except CheckpointError as error:
                assert len(str(error).splitlines()) == 1
            else:
                assert place >= 8, "another length of the header is never right"


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, b"\xff" * 64, b"PK\x03\x04" * 9, struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2**40) + b"{}"],
)
def test_files_of_others_are_not_loaded(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    fails_on_one_line(tmp_path / "x")


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"dfm_ref": "not json"}, {"dfm_ref": ""}])
def test_safetensors_without_our_description_are_not_loaded(tmp_path, metadata):
    save_file({"w": np.ones(2)}, tmp_path / "x", metadata=metadata)
    fails_on_one_line(tmp_path / "x")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    for place in (tmp_path / "none", tmp_path, tmp_path / "none" / "deeper"):
        with pytest.raises(FileNotFoundError, match=str(place)):
            checkpoints.load(place)


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failing_disk_leaves_the_old_file_and_no_other(file, monkeypatch, call):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    if call != "fsync":
        monkeypatch.setattr(f"pathlib.Path.{call}", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(file, {"w": np.zeros(9)}, {})
    monkeypatch.undo()
    assert_equal(file)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_leaves_the_old_file_and_no_other(file, room):
    """A limit on the size of files stands for the full disk: writes fail after `room` bytes."""
    pytest.importorskip("resource")
    code = (
        "import resource, signal, sys; from pathlib import Path; import numpy as np; from dfm_ref import checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); room = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))\n"
        "try:\n    checkpoints.save(Path(sys.argv[1]), {'w': np.zeros(9000)}, {})\n"
        "except OSError as error:\n    print(error.errno)"
    )
    words = [sys.executable, "-W", "error", "-c", code, str(file), str(room)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (str(errno.EFBIG), "")
    assert_equal(file)
    assert list(file.parent.iterdir()) == [file]


def test_an_interrupt_while_saving_leaves_the_old_file_and_no_other(file, monkeypatch):
    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(file, {"w": np.zeros(9)}, {})
    assert_equal(file)
    assert list(file.parent.iterdir()) == [file]


def test_the_content_is_on_disk_before_the_name_is(file, monkeypatch):
    events = []
    fsync, replace = os.fsync, type(file).replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(type(file), "replace", lambda self, to: (events.append("replace"), replace(self, to))[1])
    checkpoints.save(file, {}, {})
    assert events[: events.index("replace") + 1] == ["fsync", "replace"]


def test_a_reader_sees_the_old_file_or_the_new(file):
    before = file.read_bytes()
    with file.open("rb") as reader:
        begun = reader.read(20)
        checkpoints.save(file, {"w": np.zeros(9)}, {})
        assert begun + reader.read() == before != file.read_bytes()
    assert_equal(file, {"w": np.zeros(9)}, {})


def test_a_description_that_json_cannot_hold_leaves_the_old_file(file):
    with pytest.raises(TypeError):
        checkpoints.save(file, {}, {"array": np.ones(2)})
    assert_equal(file)


def test_others_may_read_what_is_written(file):
    assert file.stat().st_mode & 0o444 == 0o444


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_only_files_are_replaced(tmp_path):
    """Else whoever may, root, would put a file in the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="expected a name for a file"):
        checkpoints.write(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()


def test_a_description_nested_too_deeply_is_not_loaded(tmp_path):
    save_file({"w": np.zeros(1)}, tmp_path / "a", metadata={"dfm_ref": "[" * 100_000})
    with pytest.raises(CheckpointError, match="expected a whole checkpoint"):
        checkpoints.load(tmp_path / "a")

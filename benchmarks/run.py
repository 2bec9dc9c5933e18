"""Times dfm_ref against its peers: python benchmarks/run.py [SUITE...] [--backend NAME] [--json FILE]

Both sides run in this process, in turns, with a pause between them so that the one's idle threads have gone to sleep;
a row has the medians of calls in a loop. Memory is asked of fresh processes. Exit 0; 1 where a law check fails; 2 for
a user's mistake.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
if __name__ == "__main__":  # libraries read these once, as they are imported: the same number for all
    for _name in _THREADS:
        os.environ.setdefault(_name, str(_CORES))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of a device's memory

import numpy as np  # noqa: E402
import peers  # noqa: E402
from cases import CASES, SIDES, SUITES, Case, Verdict, build, calls, law, missing  # noqa: E402

_PAUSE = 0.1  # seconds
_ROUND = 0.05  # seconds of calls, at least one
_BUDGET = 6.0  # seconds to time a case in, where three rounds take less
_CORETYPE = "OPENBLAS_CORETYPE"
MEMORY = (
    "peak extra memory: growth of the peak resident set (VmHWM) of a fresh process over the second of two calls, "
    "inputs not counted, known to about 0.3 MB; of end_to_end the peak resident set of the whole process"
)


def measure(calls: dict[str, Callable[[], Any]], budget: float) -> dict[str, list[float]]:
    """Seconds a call, for each contender in each of the interleaved rounds.

    A call before wakes its threads and fills the caches, as in a loop, where the calls that are timed here are made.
    """
    number = {name: max(1, min(1000, int(_ROUND / _warm(call, 1)))) for name, call in calls.items()}
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    start, done = time.perf_counter(), 0
    while done < 3 or (done < 15 and time.perf_counter() - start < budget):
        for name, call in calls.items():
            time.sleep(_PAUSE)
            rounds[name].append(_warm(call, number[name]))
        done += 1
    return rounds


def _warm(call: Callable[[], Any], number: int) -> float:
    call()
    start = time.perf_counter()
    for _ in range(number):
        call()
    return max(1e-9, (time.perf_counter() - start) / number)


def row(case: Case, *, budget: float, memory: bool, backend: str = "numpy") -> dict[str, Any]:
    """What is known of a case once it has run."""
    sides = SIDES[:1] if (absent := missing(case)) else SIDES
    peaks: dict[str, int | None] = {}

    def remember(side: str) -> None:
        peaks[side] = probe(case, side, backend)

    contenders: dict[str, Callable[[], Any]]
    asked: tuple[float, float] | None = None
    if case.whole_process:
        contenders = {side: partial(remember, side) for side in sides}
    else:
        inputs = case.inputs(**case.sizes)
        contenders = {side: build(case.operation, side, inputs) for side in sides}
        asked = calls(case, inputs)
    rounds = measure(contenders, budget)
    verdict = Verdict(None, f"peer missing: pip install {' '.join(absent)}") if absent else law(case.operation)
    if memory and not case.whole_process and backend != "cupy":  # which takes another memory than is asked for here
        for side in sides:
            remember(side)
    ours, peer = ([s / part for s in rounds.get(side, ())] for side, part in zip(SIDES, (1, case.share), strict=True))
    return {
        "suite": case.suite,
        "operation": case.operation,
        "kind": case.kind,
        "case": case.name,
        "backend": backend,
        "openblas_coretype": os.environ.get(_CORETYPE),
        "ours_s": median(ours),
        "peer": " ".join(name if name in absent else f"{name} {version(name)}" for name in case.peer.split()),
        "peer_device": peers.DEVICE,
        "peer_s": median(peer) if peer else None,
        "ratio": median(peer) / median(ours) if peer else None,
        "ratio_of_best": min(peer) / min(ours) if peer else None,
        "target": case.target,
        "law_checked": verdict.same,
        "law": verdict.why,
        "ours_peak_bytes": peaks.get("ours"),
        "peer_peak_bytes": peaks.get("peers"),
        "ours_calls": asked and asked[0],
        "peer_calls": asked and asked[1],
        "peer_note": case.note,
    }


# Memory


def probe(case: Case, side: str, backend: str) -> int | None:
    """The bytes that `peak` finds in a fresh process of one side."""
    command = [sys.executable, __file__, "--probe", str(CASES.index(case)), side, "--backend", backend]
    limits = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # what is freed leaves the process
    environ = os.environ if case.whole_process else os.environ | limits
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, text=True)
    found: int | None = json.loads(done.stdout.splitlines()[-1])
    return found


def peak(case: Case, side: str) -> int | None:
    """See MEMORY; None where the system does not say."""
    call = build(case.operation, side, case.inputs(**case.sizes))
    call()
    if case.whole_process:
        return _resident("VmHWM")
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    except OSError:
        return None
    before = _resident("VmRSS")
    call()
    after = _resident("VmHWM")
    return None if before is None or after is None else max(0, after - before)


def _resident(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


# The machine


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "cpu": next(iter(_cpuinfo("model name")), platform.processor()),
        "cores": _CORES,
        "avx512": _avx512(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        **{name: _version(name) for name in ("dfm_ref", "numba", "torch", "flow_matching", "zuko", "jax")},
        "gpu": _gpu(),
        "threads": {name: os.environ.get(name) for name in _THREADS},
        _CORETYPE: os.environ.get(_CORETYPE),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cpuinfo(field: str) -> list[str]:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(field)][:1]


def _avx512() -> bool:
    return any("avx512f" in flags.split() for flags in _cpuinfo("flags"))


def _gpu() -> dict[str, Any] | None:
    """The device of CuPy, where there is one."""
    try:
        import cupy

        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        return {"name": name, "cupy": cupy.__version__, "cuda": cupy.cuda.runtime.runtimeGetVersion()}
    except Exception:  # no CuPy, no device, or a broken installation
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def use(backend: str) -> None:
    """Our side runs on this backend; raises BackendError, a RuntimeError of one line, where it cannot.

    Beside CuPy the peers run on its device, where their PyTorch can.
    """
    import ours

    from dfm_ref import backends

    ours.BACKEND = backends.load(backend)
    if backend == "cupy" and find_spec("torch"):
        import torch

        peers.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def again(suites: Sequence[str], memory: bool, *arguments: str, **environ: str) -> list[dict[str, Any]]:
    """The rows of suites from a process of its own, as what it is to use must be chosen before NumPy is imported."""
    print(*suites, "again:", *arguments, *environ.items(), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, __file__, *suites, "--json", str(file), *([] if memory else ["--no-memory"])]
        subprocess.run([*command, *arguments], env=os.environ | environ, stdout=subprocess.DEVNULL, check=False)
        rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    return rows


def with_coretype(suites: Sequence[str], memory: bool) -> list[dict[str, Any]]:
    """The rows of suites under OpenBLAS kernels for AVX-512."""
    rows = again(suites, memory, **{_CORETYPE: "SkylakeX"})
    return [{**row, "target": 1.3 if row["suite"] == "train" else None} for row in rows]


# Reports


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for people, aligned."""

    def megabytes(count: int | None) -> str:
        return "-" if count is None else f"{count / 2**20:.1f}"

    def cells(row: dict[str, Any]) -> list[str]:
        asked = f" (>= {row['target']:g})" if row["target"] else ""
        return [
            row["suite"],
            f"{row['operation']} {row['kind']}".rstrip(),
            row["case"],
            row["backend"] + (f" {row['openblas_coretype']}" if row["openblas_coretype"] else ""),
            f"{1e3 * row['ours_s']:.3f}",
            "-" if row["peer_s"] is None else f"{1e3 * row['peer_s']:.3f}",
            "-" if row["ratio"] is None else f"{row['ratio']:.3g}x{asked}",
            {True: "same", False: "DIFFERS", None: "-"}[row["law_checked"]],
            "-" if row["ours_calls"] is None else f"{row['ours_calls']:g}/{row['peer_calls']:g}",
            megabytes(row["ours_peak_bytes"]),
            megabytes(row["peer_peak_bytes"]),
            row["peer"],
        ]

    head = [
        "suite",
        "operation",
        "case",
        "backend",
        "ours ms",
        "peer ms",
        "ratio",
        "law",
        "calls",
        "ours MB",
        "peer MB",
        "peer",
    ]
    lines = [head, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = "<<<<>>><>>><"
    text = ("  ".join(f"{c:{a}{w}}" for c, a, w in zip(line, aligned, widths, strict=True)) for line in lines)
    laws = dict.fromkeys(f"{row['operation']}: {row['law']}" for row in rows)
    notes = dict.fromkeys(f"{row['operation']} {row['case']}: {row['peer_note']}" for row in rows if row["peer_note"])
    return "\n".join(
        [
            *(line.rstrip() for line in text),
            "",
            f"MB: {MEMORY}.",
            "calls: of the model, for a sequence or all points, ours/peer's.",
            *notes,
            "",
            "Laws:",
            *laws,
        ]
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _Parser(prog="run.py", description=__doc__.splitlines()[0], epilog=f"suites: {', '.join(SUITES)}")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="default: all but gpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the machine there")
    parser.add_argument("--no-memory", action="store_true", help="leave out memory, which takes a process a side")
    parser.add_argument(
        "--backend", help="ours; without it numpy, the suite continuous again with numba, and gpu on cupy"
    )
    parser.add_argument("--probe", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    suites = options.suites or [suite for suite in SUITES if suite != "gpu"]
    backend = options.backend or ("cupy" if "gpu" in suites else "numpy")
    if not options.probe or options.probe[1] == "ours":  # of the peer's memory, our backend has no say
        try:
            use(backend)
        except RuntimeError as error:
            parser.error(str(error))
    if options.probe:
        print(json.dumps(peak(CASES[int(options.probe[0])], options.probe[1])))
        return 0
    for suite in options.suites:
        if suite not in SUITES:
            parser.error(f"SUITE: expected one of {', '.join(SUITES)}, got {suite!r}")
    if options.json and not (options.json.parent.is_dir() and os.access(options.json.parent, os.W_OK)):
        parser.error(f"--json: expected a file in a folder that can be written, got {options.json}")
    rows = []
    for case in (case for case in CASES if case.suite in suites):
        print(f"{case.suite} {case.operation} {case.name}", end=" ", file=sys.stderr, flush=True)
        rows.append(row(case, budget=_BUDGET, memory=not options.no_memory, backend=backend))
        print("-" if rows[-1]["ratio"] is None else f"{rows[-1]['ratio']:.3g}x", file=sys.stderr, flush=True)
    other_kernels = _avx512() and "openblas" in machine()["blas"] and _CORETYPE not in os.environ
    asked = [suite for suite in ("train", "forward") if suite in suites]
    if asked and other_kernels and not options.backend:
        rows += with_coretype(asked, not options.no_memory)
    if not options.backend and "continuous" in suites and find_spec("numba"):
        rows += again(["continuous"], not options.no_memory, "--backend", "numba")
    print(table(rows))
    if options.json:
        from dfm_ref.checkpoints import write

        date = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"date": date, "machine": machine(), "memory": MEMORY, "rows": rows}
        write(options.json, (json.dumps(content, indent=2) + "\n").encode())
    return 1 if any(row["law_checked"] is False for row in rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

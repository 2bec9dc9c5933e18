"""Tries the verifier itself: python benchmarks/verifier.py mutants|false_alarms [--json FILE] [--runs N]

`mutants` (three minutes on two cores): every wrong implementation must be rejected, every right one accepted, and the
time until the first law is broken is measured. `false_alarms` (about half an hour): runs of dfm_ref:numpy with as many
seeds as --runs says (200), and a tenth as many of each other right implementation; none may be rejected. Both use
quick runs. Exit 0; 1 where one goes wrong.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dfm_ref.checkpoints import write
from dfm_ref.verify import kit, mutants, targets


def reject(name: str) -> dict[str, Any]:
    """A quick run of a mutant: the laws that it breaks, and the seconds until the first."""
    begun, first = time.perf_counter(), []

    def watched(results: Iterator[kit.Result]) -> Iterator[kit.Result]:
        for result in results:
            if result.status == "broken" and not first:
                first.append(time.perf_counter() - begun)
            yield result

    report = kit.verify(mutants.mutant(name), quick=True, watch=watched)
    broken = [result.law.id for result in report.broken]
    return {"mutant": name, "laws": broken, "seconds": round(first[0], 3) if first else None}


def accept(target: str, seed: int) -> dict[str, Any]:
    """A quick run of a right implementation: the laws that it is said to break."""
    report = kit.verify(targets.resolve(target)[0].build, quick=True, seed=seed)
    broken = [result.law.id for result in report.broken]
    return {"target": target, "seed": seed, "broken": broken, "problem": report.problem, "seconds": report.seconds}


def right() -> list[str]:
    """The targets of the right implementations but dfm_ref."""
    return [f"dfm_ref.verify.mutants.{name}:build" for name in mutants.RIGHT]


def main() -> int:
    parser = argparse.ArgumentParser(prog="verifier.py", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("mutants", "false_alarms"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    parser.add_argument("--runs", type=int, default=200, help="seeds of dfm_ref:numpy (default: 200)")
    options = parser.parse_args()
    begun = time.perf_counter()
    with ProcessPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        if options.what == "mutants":
            rows = list(pool.map(reject, [mutant.id for mutant in mutants.MUTANTS]))
            accepted = list(pool.map(accept, right(), [0] * len(right())))
            times = [row["seconds"] for row in rows if row["seconds"]]
            survivors = [row["mutant"] for row in rows if not row["laws"]]
            alarms = [row for row in accepted if row["broken"] or row["problem"]]
            found = {"median_seconds": round(median(times), 3), "survivors": survivors, "mutants": rows}
            print(f"{len(rows) - len(survivors)} of {len(rows)} mutants rejected, in a median of {median(times):.2f} s")
        else:
            seeds = [("dfm_ref:numpy", seed) for seed in range(options.runs)]
            seeds += [(target, seed) for target in right() for seed in range(max(1, options.runs // 10))]
            accepted = list(pool.map(accept, *zip(*seeds, strict=True)))
            survivors, alarms = [], [row for row in accepted if row["broken"] or row["problem"]]
            counts = {target: sum(row["target"] == target for row in accepted) for target, _ in seeds}
            found = {"runs": counts, "median_seconds": round(median(row["seconds"] for row in accepted), 2)}
    found["false_alarms"] = alarms
    seconds = time.perf_counter() - begun
    print(f"{len(accepted)} runs of right implementations, {len(alarms)} false alarms, {seconds:.0f} s")
    for row in (*survivors, *alarms):
        print(row, file=sys.stderr)
    if options.json:
        machine = {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count()}
        write(options.json, (json.dumps({"machine": machine, **found}, indent=1) + "\n").encode())
    return int(bool(survivors or alarms))


if __name__ == "__main__":
    sys.exit(main())

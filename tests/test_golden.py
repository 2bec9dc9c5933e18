"""The tokens of seed 0, pinned: a change of them is a change that users must be told of.

`golden.json` holds inputs and outputs. To accept new tokens on purpose: `python tests/test_golden.py`, and say in
CHANGELOG.md that, and why, seeds give other tokens from this version on.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from dfm_ref import paths, random, samplers, schedules, sources

FILE = Path(__file__).with_name("golden.json")
CASES = json.loads(FILE.read_text(encoding="utf-8"))
SAY_SO = "the tokens of a seed changed: if on purpose, record it in CHANGELOG.md and run python tests/test_golden.py"


def a_source(case):
    return sources.Marginal(tuple(case["probs"])) if "probs" in case else sources.Masked(case["vocab_size"])


def a_path(case):
    """A linear mask path, or the path of three components with the weights (1-t)^2, 2t(1-t), t^2."""
    if "mask" in case:
        return paths.Mixture(schedules.Linear(), mask=case["mask"])
    corners = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    schedule = schedules.Convex(tuple(schedules.Bernstein(c) for c in corners))
    return paths.Mixture(schedule, components=(paths.X0(), paths.Fixed(tuple(case["fixed"])), paths.X1()))


def tokens(case):
    """What the library gives for a case, int[B, N] as lists."""
    key = random.key(case["seed"])
    if case["function"] == "sources.sample":
        x = sources.sample(a_source(case), key, tuple(case["shape"]), first=case["first"])
    elif case["function"] == "paths.sample":
        x_0, x_1 = np.asarray(case["x_0"]), np.asarray(case["x_1"])
        x = paths.sample(a_path(case), key, x_0, x_1, np.asarray(case["t"]), first=case["first"])
    else:
        with np.errstate(divide="ignore"):
            table = np.log(np.asarray(case["posterior"]))  # of each token, by its place
        model = lambda x_t, t: np.broadcast_to(table, (*x_t.shape, table.shape[-1]))  # noqa: E731
        x = samplers.sample(a_path(case), model, key, np.asarray(case["x_0"]), case["times"], first=case["first"])
    return x.tolist()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_seed_0_gives_the_pinned_tokens(case):
    assert tokens(case) == case["tokens"], SAY_SO


def test_every_door_is_pinned():
    assert {case["function"] for case in CASES} == {"sources.sample", "paths.sample", "samplers.sample"}
    assert all(case["seed"] == 0 for case in CASES)


def compact(value):
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    for case in CASES:
        case["tokens"] = tokens(case)
    rows = (",\n  ".join(f"{compact(k)}: {compact(v)}" for k, v in case.items()) for case in CASES)
    FILE.write_text("[\n" + ",\n".join(f" {{\n  {row}\n }}" for row in rows) + "\n]\n", encoding="utf-8")

"""The named cases: what is timed on both sides, and how we know that both sides do the same.

A case names an operation, a function of `ours` and of `peers` that takes the same NumPy inputs and returns the call
to time. Every operation has a check on a small case, which compares the two sides with each other or both with the
exact law by enumeration.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

SIDES = ("ours", "peers")
FALSE_ALARM = 1e-6  # of each comparison of a sampled law, by a bound that holds for every number of draws


class Verdict(NamedTuple):
    """Whether both sides follow the same law (None: it could not be asked), and what was compared."""

    same: bool | None
    why: str


class Case(NamedTuple):
    suite: str
    operation: str
    sizes: dict[str, int]
    peer: str
    """The packages of the peer, separated by spaces."""
    inputs: Callable[..., dict[str, Any]]
    """The arguments of the operation, from the sizes."""
    target: float | None = None
    """The ratio that we ask for."""
    share: float = 1.0
    """The part of the work that the peer does; its time is divided by it."""
    note: str = ""
    whole_process: bool = False
    """Timed as a fresh process: imports, training, sampling."""

    @property
    def name(self) -> str:
        return ",".join(f"{letter}={self.sizes[letter]}" for letter in "BNV")


def build(operation: str, side: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """The call of one side; nothing of the other side is imported."""
    call: Callable[[], Any] = getattr(import_module(side), operation)(**inputs)
    return call


def missing(case: Case) -> list[str]:
    """The packages of the peer that are not installed."""
    return [name for name in case.peer.split() if find_spec(name) is None]


@cache
def law(operation: str) -> Verdict:
    """The verdict of an operation's check on a small case."""
    return _CHECKS[operation]()


# Inputs. Sizes: B sequences of N tokens out of V, the mask counted where there is one.


def _probs(B: int, N: int, V: int) -> np.ndarray:
    """Random PMFs float32[B, N, V] that give the mask, the last token, nothing."""
    probs = np.exp(np.random.default_rng(0).standard_normal((B, N, V), dtype=np.float32))
    probs[..., -1] = 0
    probs /= np.sum(probs, axis=-1, keepdims=True)
    return probs


def _sampler(B: int, N: int, V: int, done: int = 64) -> dict[str, Any]:
    return {"probs": _probs(B, N, V), "steps": 64, "done": done}


def _path(B: int, N: int, V: int) -> dict[str, Any]:
    g = np.random.default_rng(0)
    x_1 = g.integers(0, V - 1, (B, N))
    return {"x_0": np.full_like(x_1, V - 1), "x_1": x_1, "t": g.random(B)}


def _loss(B: int, N: int, V: int) -> dict[str, Any]:
    g = np.random.default_rng(0)
    t = (0.95 * g.random(B)).astype(np.float32)
    x_1, x_0 = g.integers(0, V, (2, B, N))
    x_t = np.where(g.random((B, N)) < t[:, None], x_1, x_0)
    return {"logits": g.standard_normal((B, N, V), dtype=np.float32), "x_1": x_1, "x_t": x_t, "t": t}


def _shape(B: int, N: int, V: int) -> dict[str, Any]:
    return {"shape": (B, N)}


def _categorical(B: int, N: int, V: int) -> dict[str, Any]:
    return {"probs": _probs(B, N, V)}


def _network(B: int, N: int, V: int, dim: int = 128, depth: int = 4, heads: int = 4) -> dict[str, Any]:
    """One set of weights for both sides, away from the zeros of the start, so that every gradient is alive."""
    from dfm_ref import random
    from dfm_ref.nn.transformer import Transformer

    g, sizes = np.random.default_rng(0), {"vocab_size": V, "dim": dim, "depth": depth, "heads": heads}
    start = Transformer(**sizes).init(random.key(0))
    params = {name: p + 0.02 * g.standard_normal(p.shape, dtype=np.float32) for name, p in start.items()}
    x_1, t = g.integers(0, V - 1, (B, N)), g.random(B, dtype=np.float32)
    return {"params": params, "x_1": x_1, "x_t": np.where(g.random((B, N)) < t[:, None], x_1, V - 1), "t": t, **sizes}


def _chains(B: int, N: int, V: int, steps: int = 150, num: int = 64, dim: int = 64) -> dict[str, Any]:
    """Data to learn: a walk on a circle of V - 1 tokens that stays or goes up by one, with equal chances."""
    g = np.random.default_rng(0)
    x_1 = (g.integers(0, V - 1, (4096, 1)) + np.cumsum(g.integers(0, 2, (4096, N)), axis=-1)) % (V - 1)
    sizes = {"vocab_size": V, "steps": steps, "batch": B, "dim": dim, "depth": 2, "heads": 2}
    return {"x_1": x_1, "num": num, "grid_steps": 64, **sizes}


# Checks


def distance_to(p: np.ndarray, x: Any) -> tuple[float, float]:
    """Total variation between states int[n, N] and their exact law p, [V, ..., V]; and its bound.

    The bound holds for any n, with a false alarm in at most one of 1 / FALSE_ALARM checks: Weissman et al. 2003,
    P(|p_hat - p|_1 >= e) <= 2^S exp(-n e^2 / 2) on S states. A state of probability 0 has distance infinity.
    """
    x = np.asarray(x)
    counts = np.bincount(np.ravel_multi_index(tuple(x.T), p.shape), minlength=p.size).reshape(p.shape)
    bound = 0.5 * np.sqrt(2 / len(x) * (np.count_nonzero(p) * np.log(2) - np.log(FALSE_ALARM)))
    distance = 0.5 * np.sum(np.abs(counts / len(x) - p))
    return (np.inf if np.any(counts[p == 0]) else float(distance)), float(bound)


def _against(p: np.ndarray, draws: dict[str, Any], what: str) -> Verdict:
    found = {side: distance_to(p, x) for side, x in draws.items()}
    told = ", ".join(f"{side} {distance:.4f}" for side, (distance, _) in found.items())
    _, bound = found["ours"]
    return Verdict(
        all(distance <= bound for distance, bound in found.values()),
        f"{what}: total variation to the exact law of {np.count_nonzero(p)} states: {told}; bound {bound:.4f} "
        f"at {len(draws['ours'])} draws, false alarms <= {FALSE_ALARM:g}",
    )


def _product(pmfs: np.ndarray) -> np.ndarray:
    """The law of independent tokens, [N, V] -> [V, ..., V], enumerated by the oracle."""
    from dfm_ref.verify import oracle

    return oracle.product(pmfs).reshape(pmfs.shape[1:] * len(pmfs))


def _both(operation: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {side: build(operation, side, inputs)() for side in SIDES}


def _check_sample() -> Verdict:
    pmfs = _probs(1, 2, 4)
    draws = _both("sample", {"probs": np.tile(pmfs, (40_000, 1, 1)), "steps": 8, "done": 8})
    verdict = _against(_product(pmfs[0].astype(np.float64)), draws, "tokens at t=1, posteriors of no state")
    earlier = (
        "before t=1 the schemes differ: an event has probability h/(1-t) with ours, 1-exp(-h/(1-t)) with the peer, "
        "which redraws all tokens in its last step"
    )
    return verdict._replace(why=f"{verdict.why}; {earlier}")


def _check_path() -> Verdict:
    verdicts = []
    x_0, x_1 = (np.tile(x, (40_000, 1)) for x in ([3, 1], [0, 2]))
    for t in (0.1, 0.5, 0.9):
        pmfs = (1 - t) * np.eye(4)[[3, 1]] + t * np.eye(4)[[0, 2]]
        draws = _both("path", {"x_0": x_0, "x_1": x_1, "t": np.full(len(x_0), t)})
        verdicts.append(_against(_product(pmfs), draws, f"x_t at t={t}"))
    return Verdict(all(v.same for v in verdicts), verdicts[1].why)


def _check_values(operation: str, inputs: dict[str, Any], what: str, bound: float = 1e-5) -> Verdict:
    """Equal values, as far as float32 can tell: |ours - peer| / |peer| in Euclidean norm, array by array."""
    ours, theirs = (_arrays(result) for result in _both(operation, inputs).values())
    pairs = zip(ours, theirs, strict=True)
    worst = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs)
    return Verdict(bool(worst <= bound), f"{what}: relative difference {worst:.1e}, bound {bound:g}")


def _arrays(result: Any) -> list[np.ndarray]:
    """The arrays of a nested result, the entries of a dict as one long vector in the order of their names."""
    if isinstance(result, tuple):
        return [array for part in result for array in _arrays(part)]
    if isinstance(result, dict):
        return [np.concatenate([np.ravel(np.asarray(result[name])) for name in sorted(result)])]
    return [np.asarray(result)]


def _check_uniform() -> Verdict:
    draws = {side: (64 * np.ravel(u)).astype(int)[:, None] for side, u in _both("uniform", _shape(512, 512, 1)).items()}
    return _against(np.full(64, 1 / 64), draws, "64 equal bins")


def _check_bits() -> Verdict:
    ours, theirs = (np.asarray(words) for words in _both("bits", _shape(64, 65, 1)).values())
    return Verdict(bool(np.array_equal(ours, theirs)), f"{ours.size} words equal bit for bit")


def _check_categorical() -> Verdict:
    pmfs = _probs(1, 1, 16)[0]
    draws = _both("categorical", {"probs": np.tile(pmfs, (40_000, 1))})
    return _against(pmfs[0].astype(np.float64), {side: x[:, None] for side, x in draws.items()}, "tokens")


def _check_train_step() -> Verdict:
    inputs = _network(3, 5, 7, dim=16, depth=2)
    ours, theirs = (_arrays(result) for result in _both("train_step", inputs).values())
    start = _arrays(inputs["params"])[0]
    names = ("loss", "clipped gradient", "update", "averaged update")
    bounds = (1e-5, 1e-4, 1e-2, 1e-2)  # Adam divides the gradient by itself: its rounding errors grow
    origins = (0.0, 0.0, start, start)
    off = [
        float(np.linalg.norm(a - b) / np.linalg.norm(b - origin))
        for a, b, origin in zip(ours, theirs, origins, strict=True)
    ]
    told = ", ".join(f"{name} {d:.1e}" for name, d in zip(names, off, strict=True))
    return Verdict(
        all(d <= bound for d, bound in zip(off, bounds, strict=True)),
        f"one step from the same weights: relative differences of {told}; bounds {bounds}",
    )


def _check_end_to_end() -> Verdict:
    V, bound, steps = 5, 0.1, 1000  # at 300 steps either side is over or under the bound by the luck of its seed
    inputs = _chains(64, 2, V, steps=steps, num=4096, dim=32)
    stay = np.eye(V - 1)
    p = np.pad((stay + np.roll(stay, 1, axis=1)) / (2 * (V - 1)), (0, 1))
    off = {side: distance_to(p + 1e-300, x)[0] for side, x in _both("end_to_end", inputs).items()}
    told = ", ".join(f"{side} {distance:.3f}" for side, distance in off.items())
    return Verdict(
        all(distance <= bound for distance in off.values()),
        f"samples after {steps} steps of training on {np.count_nonzero(p)} states: total variation to the data's law: "
        f"{told}; bound {bound}",
    )


_CHECKS: dict[str, Callable[[], Verdict]] = {
    "sample": _check_sample,
    "path": _check_path,
    "cross_entropy": lambda: _check_values("cross_entropy", _loss(8, 8, 16), "loss and gradient"),
    "generalized_kl": lambda: _check_values("generalized_kl", _loss(8, 8, 16), "loss and gradient"),
    "uniform": _check_uniform,
    "bits": _check_bits,
    "categorical": _check_categorical,
    "forward": lambda: _check_values("forward", _network(3, 5, 7, dim=16, depth=2), "logits"),
    "train_step": _check_train_step,
    "end_to_end": _check_end_to_end,
}


# The cases


def _size(B: int, N: int, V: int) -> dict[str, int]:
    return {"B": B, "N": N, "V": V}


_SMALL, _MIDDLE, _LARGE = _size(64, 64, 32), _size(16, 256, 1024), _size(4, 256, 32768)
_BATCH = _size(32, 64, 98)

CASES = (
    Case("sampler", "sample", _SMALL, "torch flow_matching", _sampler, target=30),
    Case("sampler", "sample", _MIDDLE, "torch flow_matching", _sampler, target=200),
    Case(
        "sampler", "sample", _LARGE, "torch flow_matching", lambda **sizes: _sampler(**sizes, done=4),
        target=500, share=4 / 64,
        note="peer: 4 of its 64 steps timed, scaled by 16; its last step, the cheapest, is one of the 4",
    ),
    Case("path", "path", _SMALL, "torch flow_matching", _path),
    Case("path", "path", _size(256, 1024, 32768), "torch flow_matching", _path),
    *(
        Case("loss", operation, sizes, peer, _loss)
        for operation, peer in (("cross_entropy", "torch"), ("generalized_kl", "torch flow_matching"))
        for sizes in (_SMALL, _MIDDLE)
    ),
    Case("random", "uniform", _size(1024, 1024, 1), "torch", _shape),
    Case("random", "bits", _size(1024, 1024, 1), "jax", _shape),
    Case("random", "categorical", _SMALL, "torch flow_matching", _categorical),
    Case("random", "categorical", _MIDDLE, "torch flow_matching", _categorical),
    Case("train", "train_step", _BATCH, "torch", _network, target=0.9),
    Case("forward", "forward", _BATCH, "torch", _network),
    Case("end_to_end", "end_to_end", _size(32, 32, 28), "torch flow_matching", _chains, whole_process=True,
         note="a fresh process each: imports, 150 training steps, 64 samples; equal work, not equal quality"),
)  # fmt: skip
SUITES = tuple(dict.fromkeys(case.suite for case in CASES))

"""The named cases: what is timed on both sides, and how we know that both sides do the same.

A case names an operation, a function of `ours` and of `peers` that takes the same NumPy inputs and returns the call
to time. Every operation has a check on a small case, which compares the two sides with each other or both with the
exact law by enumeration.
"""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

SIDES = ("ours", "peers")
TARGET = 0.01  # total variation that the suite `exact` asks of both sides
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
    kind: str = ""
    """What tells cases of one operation and size apart."""
    whole_process: bool = False
    """Timed as a fresh process: imports, training, sampling."""

    @property
    def name(self) -> str:
        return ",".join(f"{letter}={size}" for letter, size in self.sizes.items())


def build(operation: str, side: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """The call of one side, on its own arrays, which ends when they are there; nothing of the other is imported."""
    module = import_module(side)
    call = getattr(module, operation)(**{name: _each(module.asarray, value) for name, value in inputs.items()})

    def awaited() -> Any:
        result = call()
        module.synchronize()
        return result

    return awaited


def _each(f: Callable[[Any], Any], value: Any) -> Any:
    """The value with f of every array in its dicts and tuples."""
    if isinstance(value, dict):
        return {name: _each(f, part) for name, part in value.items()}
    if type(value) is tuple:
        return tuple(_each(f, part) for part in value)
    return f(value) if hasattr(value, "ndim") else value


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


def _copy(B: int, N: int, V: int) -> dict[str, Any]:
    return {"x": _probs(B, N, V)}


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


class Bayes(NamedTuple):
    """The exact posterior of x_1 for data of law q[V**N] and an independent source pmf[V] on the linear path."""

    q: np.ndarray
    pmf: np.ndarray
    length: int

    def __call__(self, x_t: np.ndarray, t: np.ndarray) -> np.ndarray:
        from dfm_ref.verify import oracle

        x_1 = oracle.states(len(self.pmf), self.length)
        rows = np.eye(len(self.pmf))[x_1]  # [S, N, V]
        kappa = t[:, None, None]
        likelihood = (1 - kappa) * self.pmf[x_t][:, None] + kappa * (x_t[:, None] == x_1)  # [B, S, N]
        weights = self.q * np.prod(likelihood, axis=-1)
        total = np.sum(weights, axis=-1, keepdims=True)
        weights = np.where(total > 0, weights / np.where(total > 0, total, 1), self.q)  # states that are never met
        with np.errstate(divide="ignore"):
            return np.log(np.einsum("bs,snv->bnv", weights, rows))


def _chain(B: int, N: int, V: int, kind: str = "mask") -> dict[str, Any]:
    """A model, and the number of the peer's steps whose law is within TARGET of that of the model's chain."""
    model, mask, p, start = _problem(kind, N, V)
    g = np.random.default_rng(0)
    x_0 = np.full((B, N), V - 1) if mask is not None else g.integers(0, V, (B, N))
    steps = next(k for k in (2**i for i in range(1, 13)) if _off(model, start, p, k, N, V) <= TARGET)
    return {"model": model, "mask": mask, "x_0": x_0, "steps": steps}


@cache
def _problem(kind: str, N: int, V: int) -> tuple[Any, int | None, np.ndarray, np.ndarray]:
    """A model, the mask, the law of its chain at t = 1 and of its start, on all V**N states."""
    from dfm_ref import likelihoods, sources
    from dfm_ref.paths import Mixture
    from dfm_ref.verify import oracle

    source = sources.Uniform(V) if kind == "uniform" else sources.Masked(V)
    mask = None if kind == "uniform" else V - 1
    start = oracle.product(np.broadcast_to(source.pmf(), (N, V)))
    if kind == "text":
        model = _trained(N, V)
        return model, mask, likelihoods.law(Mixture(mask=mask), source, model, length=N), start
    q = np.random.default_rng(1).dirichlet(np.full(V**N, 0.3))
    if mask is not None:
        q = np.where(np.any(oracle.states(V, N) == mask, axis=-1), 0.0, q)
    return Bayes(q / q.sum(), source.pmf(), N), mask, q / q.sum(), start


def _trained(N: int, V: int) -> Any:
    """A network trained on N neighbouring characters of real English: the V - 2 most frequent ones, and the rest."""
    from dfm_ref import data, paths
    from dfm_ref.nn import train

    x_1 = data.load("pydoc", length=N).x_1
    rank = np.argsort(np.argsort(-np.bincount(np.ravel(x_1)), kind="stable"), kind="stable")
    config = train.Config(V, N, model="mlp", dim=64, depth=2, steps=600, batch=256)
    *_, (state, _) = train.train(config, np.minimum(rank[x_1], V - 2), train.init(config))
    model, path = train.Trained(config, state.average), train.path(config)
    return lambda x_t, t: paths.reveal(path, model(x_t, t), x_t)  # both sides know what is known


def _off(model: Any, start: np.ndarray, target: np.ndarray, steps: int, N: int, V: int) -> float:
    """The total variation of the peer's law after so many steps, its last one a draw of x_1, by exact propagation."""
    from dfm_ref import transitions
    from dfm_ref.arrays import log_softmax
    from dfm_ref.schedules import Linear
    from dfm_ref.verify import oracle

    x, p = oracle.states(V, N), start
    for k in range(steps):
        probs_1 = np.exp(log_softmax(np.asarray(model(x, np.full(len(x), k / steps)), dtype=np.float64)))
        law = probs_1 if k == steps - 1 else transitions.flow_matching(Linear(), probs_1, x, k / steps, 1 / steps)
        p = p @ oracle.product(law)
    return float(oracle.total_variation(p, target))


def _network_from_masks(B: int, N: int, V: int) -> dict[str, Any]:
    inputs = _network(1, N, V, dim=32, depth=1, heads=1)
    sizes = {name: inputs[name] for name in ("vocab_size", "dim", "depth", "heads")}
    return {"params": inputs["params"], "x_0": np.full((B, N), V - 1), "steps": 1024, **sizes}


def _flow(B: int, D: int, kind: str) -> dict[str, Any]:
    """Points, and one set of weights for both sides, near the identity: there both mean the same by them."""
    from dfm_ref import random
    from dfm_ref.continuous import coupling
    from dfm_ref.nn.perceptron import _masks

    g, depth = np.random.default_rng(0), 3
    flow = getattr(coupling, kind)(D, depth=depth)
    start = flow.init(random.key(0), dtype=np.float32)
    params = {name: p + 0.02 * g.standard_normal(p.shape, dtype=np.float32) for name, p in start.items()}
    masks = [_masks(layer.net) for layer in flow.flow.flows] if kind == "maf" else []
    return {"kind": kind, "depth": depth, "params": params, "masks": masks, "x": _normal(B, D)}


def _normal(B: int, D: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((B, D), dtype=np.float32)


def _field_step(B: int, D: int) -> dict[str, Any]:
    from dfm_ref import random, times

    t = times.low_discrepancy(random.split(random.key(0))[0], B).astype(np.float32)  # as `matching.gradients` has them
    return {"params": _learned(D), "hidden": 256, "x_0": _normal(B, D), "x_1": _clusters(B, D), "t": t}


def _field_sample(B: int, D: int, steps: int) -> dict[str, Any]:
    return {"params": _learned(D), "hidden": 256, "x_0": _normal(B, D), "steps": steps}


def _field_log_prob(B: int, D: int) -> dict[str, Any]:
    return {"params": _learned(D), "hidden": 256, "x_1": _clusters(B, D)}


def _clusters(B: int, D: int) -> np.ndarray:
    """Data of eight round clusters, of about unit variance."""
    g = np.random.default_rng(2)
    centres = g.standard_normal((8, D))
    return (centres[g.integers(0, 8, B)] + 0.3 * g.standard_normal((B, D))).astype(np.float32)


@cache
def _learned(D: int) -> dict[str, Any]:
    """The weights of a velocity that has seen the clusters for a moment, which makes solvers take real steps."""
    from dfm_ref import random
    from dfm_ref.continuous import gaussian_paths, matching, training
    from dfm_ref.nn.field import Field

    net, path, x_1 = Field(D, 256), gaussian_paths.OptimalTransport(), _clusters(128, D)

    def loss(params: dict[str, Any], key: Any, step: int) -> tuple[Any, dict[str, Any]]:
        x_0 = random.normal(random.fold_in(key, 1), x_1.shape).astype(np.float32)
        return matching.gradients(path, net, params, key, x_0, x_1)

    *_, (state, _) = training.train(training.Recipe(steps=200, learning_rate=3e-3), loss, net.init(random.key(0)))
    return state.average


def calls(case: Case, inputs: dict[str, Any]) -> tuple[float, float] | None:
    """How often each side asks the model for a sequence, or for all points, where that is what a case is about."""
    if case.operation in ("field_sample", "field_log_prob") and not missing(case):
        ours, theirs = (float(build(case.operation, side, inputs)()[-1]) for side in SIDES)
        return ours, theirs
    if case.suite != "exact":
        return None
    asked = dict.fromkeys(SIDES, 0)
    x_0, steps = inputs["x_0"], inputs["steps"]

    def counting(side: str, model: Any) -> Any:
        def answer(x_t: np.ndarray, t: np.ndarray) -> Any:
            asked[side] += len(x_t)
            return model(x_t, t)

        return answer

    if case.operation == "events":  # which happen whatever the model, so that none is needed to count them
        from dfm_ref import exact, paths, random, samplers, times

        V = case.sizes["V"]
        path = paths.Mixture(mask=V - 1)
        for side, walk, grid in (("ours", exact.sample, [0.0, 1.0]), ("peers", samplers.sample, times.grid(steps))):
            walk(path, counting(side, lambda x_t, t: np.zeros((*x_t.shape, V))), random.key(0), x_0, grid)
        return asked["ours"] / len(x_0), asked["peers"] / len(x_0)
    build(case.operation, "ours", {**inputs, "model": counting("ours", inputs["model"])})()
    return asked["ours"] / len(x_0), float(steps)


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
    return {side: _each(import_module(side).to_numpy, build(operation, side, inputs)()) for side in SIDES}


def _check_sample() -> Verdict:
    pmfs = _probs(1, 2, 4)
    draws = _both("sample", {"probs": np.tile(pmfs, (40_000, 1, 1)), "steps": 8, "done": 8})
    verdict = _against(_product(pmfs[0].astype(np.float64)), draws, "tokens at t=1, posteriors of no state")
    earlier = (
        "before t=1 the schemes differ: an event has probability h/(1-t) with ours, 1-exp(-h/(1-t)) with the peer, "
        "which redraws all tokens in its last step"
    )
    return verdict._replace(why=f"{verdict.why}; {earlier}")


def _check_chain() -> Verdict:
    verdicts = []
    for kind in ("mask", "uniform"):
        inputs, (_, _, p, _) = _chain(40_000, 2, 3, kind), _problem(kind, 2, 3)
        verdicts.append(_near(p.reshape(3, 3), _both("chain", inputs), f"{kind}, peer at {inputs['steps']} steps"))
    return Verdict(all(v.same for v in verdicts), "; ".join(v.why for v in verdicts))


def _near(p: np.ndarray, draws: dict[str, Any], what: str) -> Verdict:
    """Ours follows the law; the peer's, which is within TARGET of it, may be off by so much more."""
    found = {side: distance_to(p + 1e-300, x)[0] for side, x in draws.items()}
    bound = distance_to(p, draws["ours"])[1]
    told = ", ".join(f"{side} {distance:.4f}" for side, distance in found.items())
    same = found["ours"] <= bound and found.get("peers", 0.0) <= bound + TARGET
    return Verdict(same, f"{what}: total variation: {told}; bound {bound:.4f}, and {TARGET} more for the peer")


def _check_events() -> Verdict:
    """The same tokens are revealed at the same times; both laws tend to one another as the grid becomes fine."""
    inputs = _network_from_masks(512, 2, 4)
    found = {side: np.asarray(x) for side, x in _both("events", inputs).items()}
    share = float(np.mean(found["ours"] == found["peers"]))
    return Verdict(
        share > 0.99, f"{share:.2%} of the tokens are equal under one key, as the grid's model is 1/1024 late"
    )


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
    return _check_step("train_step", _network(3, 5, 7, dim=16, depth=2))


def _check_step(
    operation: str, inputs: dict[str, Any], bounds: tuple[float, ...] = (1e-5, 1e-4, 1e-2, 1e-2)
) -> Verdict:
    ours, theirs = (_arrays(result) for result in _both(operation, inputs).values())
    start = _arrays(inputs["params"])[0]
    names = ("loss", "clipped gradient", "update", "averaged update")
    origins = (0.0, 0.0, start, start)  # Adam divides the gradient by itself: its rounding errors grow
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


FLOWS = ("maf", "neural_spline", "real_nvp")
_FLOORS = "zuko's splines have no least width or height of a bin, ours 1/1000 of the whole"


def _check_flow_log_prob() -> Verdict:
    off = {}
    for kind in FLOWS:
        inputs = _flow(512, 3, kind)
        ours, theirs = (np.asarray(values) for values in _both("flow_log_prob", inputs).values())
        base = -np.sum(inputs["x"] ** 2 + np.log(2 * np.pi), axis=-1) / 2
        off[kind] = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs - base))
    return _of_flows(off, "log-densities of the same weights, relative to what they add to N(0, I)")


def _check_flow_sample() -> Verdict:
    import torch
    import zuko_flows

    from dfm_ref import random
    from dfm_ref.continuous import coupling

    off, verdicts = {}, []
    for kind in FLOWS:
        inputs = _flow(40_000, 2, kind)
        draws = _both("flow_sample", inputs)
        back = zuko_flows.build(kind, 2, inputs["depth"], inputs["params"], inputs["masks"])().transform
        with torch.inference_mode():
            z = back(torch.from_numpy(draws["ours"])).numpy()
        noise = random.normal(random.key(0), z.shape)
        off[kind] = float(np.linalg.norm(z - noise) / np.linalg.norm(noise))
        flow = getattr(coupling, kind)(2, depth=inputs["depth"])
        cells = {side: _cells(flow.inverse(inputs["params"], np.asarray(x))[0]) for side, x in draws.items()}
        verdicts.append(_against(np.full((8, 8), 1 / 64), cells, "draws of both, taken back by our inverse"))
    same, why = _of_flows(off, "our draws, taken back by zuko, beside our noise")
    return Verdict(same and all(v.same for v in verdicts), f"{why}; {verdicts[0].why}")


def _cells(z: np.ndarray) -> np.ndarray:
    """Which of 8 equally likely parts of the line each coordinate of a normal point is in."""
    return np.searchsorted([-1.15034938, -0.67448975, -0.31863936, 0.0, 0.31863936, 0.67448975, 1.15034938], z)


def _of_flows(off: dict[str, float], what: str) -> Verdict:
    told = ", ".join(f"{kind} {d:.1e}" for kind, d in off.items())
    bounds = {"maf": 1e-3, "neural_spline": 2e-2, "real_nvp": 1e-3}
    same = all(d <= bounds[kind] for kind, d in off.items())
    return Verdict(same, f"{what}: {told}; bounds {tuple(bounds.values())}, as {_FLOORS}")


def _check_flow_step() -> Verdict:
    bounds = {
        "maf": (1e-4, 1e-3, 2e-2, 2e-2),
        "neural_spline": (1e-3, 2e-2, 0.2, 0.2),
        "real_nvp": (1e-4, 1e-3, 2e-2, 2e-2),
    }
    verdicts = {kind: _check_step("flow_step", _flow(512, 3, kind), bounds[kind]) for kind in FLOWS}
    why = "; ".join(f"{kind}: {v.why}" for kind, v in verdicts.items())
    return Verdict(all(v.same for v in verdicts.values()), f"{why}; {_FLOORS}")


def _check_field_sample() -> Verdict:
    verdicts = [
        _check_ends("field_sample", _field_sample(256, 2, steps), what, bound)
        for steps, what, bound in ((0, "ends of the same noise by adaptive steps", 3e-3), (20, "by 20 steps", 1e-4))
    ]
    return Verdict(all(v.same for v in verdicts), "; ".join(v.why for v in verdicts))


def _check_ends(operation: str, inputs: dict[str, Any], what: str, bound: float) -> Verdict:
    """All that the two sides give but the number of evaluations, which is the last."""
    ours, theirs = (_arrays(result)[:-1] for result in _both(operation, inputs).values())
    worst = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours, theirs, strict=True))
    return Verdict(bool(worst <= bound), f"{what}: relative difference {worst:.1e}, bound {bound:g}")


_CHECKS: dict[str, Callable[[], Verdict]] = {
    "copy": lambda: _check_values("copy", _copy(2, 3, 4), "the copies", 0.0),
    "sample": _check_sample,
    "path": _check_path,
    "chain": _check_chain,
    "events": _check_events,
    "cross_entropy": lambda: _check_values("cross_entropy", _loss(8, 8, 16), "loss and gradient"),
    "generalized_kl": lambda: _check_values("generalized_kl", _loss(8, 8, 16), "loss and gradient"),
    "uniform": _check_uniform,
    "bits": _check_bits,
    "categorical": _check_categorical,
    "forward": lambda: _check_values("forward", _network(3, 5, 7, dim=16, depth=2), "logits"),
    "train_step": _check_train_step,
    "end_to_end": _check_end_to_end,
    "flow_log_prob": _check_flow_log_prob,
    "flow_sample": _check_flow_sample,
    "flow_step": _check_flow_step,
    "field_step": lambda: _check_step("field_step", _field_step(256, 2)),
    "field_sample": _check_field_sample,
    "field_log_prob": lambda: _check_ends(
        "field_log_prob", _field_log_prob(64, 2), "noise behind the same points, and log-density", 3e-3
    ),
}


# The cases


def _size(B: int, N: int, V: int) -> dict[str, int]:
    return {"B": B, "N": N, "V": V}


_SMALL, _MIDDLE, _LARGE = _size(64, 64, 32), _size(16, 256, 1024), _size(4, 256, 32768)
_BATCH = _size(32, 64, 98)
_PLANE, _MANY = {"B": 4096, "D": 2}, {"B": 4096, "D": 64}

CASES = (
    Case("sampler", "sample", _SMALL, "torch flow_matching", _sampler, target=30),
    Case("sampler", "sample", _MIDDLE, "torch flow_matching", _sampler, target=200),
    Case(
        "sampler", "sample", _LARGE, "torch flow_matching", lambda **sizes: _sampler(**sizes, done=4),
        target=500, share=4 / 64,
        note="peer: 4 of its 64 steps timed, scaled by 16; its last step, the cheapest, is one of the 4",
    ),
    *(
        Case("exact", "chain", sizes, "torch flow_matching", partial(_chain, kind=kind), kind=kind,
             note=f"{kind}: the peer takes the least power of 2 of steps whose law is within {TARGET} of the chain's")
        for kind, sizes in (("mask", _size(4096, 2, 3)), ("uniform", _size(4096, 2, 3)), ("text", _size(4096, 2, 28)))
    ),
    Case("exact", "events", _size(32, 64, 28), "dfm_ref", _network_from_masks,
         note="peer: our own grid of 1024 steps, which leaves out the steps that have no event in the batch"),
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
    *(
        Case("continuous", operation, sizes, "torch zuko", partial(_flow, kind=kind), target=1, kind=kind)
        for operation in ("flow_log_prob", "flow_sample", "flow_step") for kind in FLOWS for sizes in (_PLANE, _MANY)
    ),
    *(
        case for sizes in (_PLANE, _MANY) for case in (
            Case("continuous", "field_step", sizes, "torch flow_matching", _field_step, target=1),
            Case("continuous", "field_sample", sizes, "torch flow_matching", partial(_field_sample, steps=0),
                 target=1, kind="adaptive"),
            Case("continuous", "field_sample", sizes, "torch flow_matching", partial(_field_sample, steps=20),
                 target=1, kind="midpoint"),
        )
    ),
    Case("continuous", "field_log_prob", _PLANE, "torch flow_matching", _field_log_prob, target=1),
    Case("continuous", "field_log_prob", {"B": 64, "D": 64}, "torch flow_matching", _field_log_prob, target=1,
         note="a small batch: the peer differentiates once a coordinate and evaluation"),
)  # fmt: skip
_GIB = _size(64, 1024, 4096)  # of float32, which no cache holds
CASES += (
    Case("gpu", "copy", _GIB, "torch", _copy, note="1 GiB read and 1 GiB written, a measure for the rows below"),
    Case("gpu", "categorical", _GIB, "torch flow_matching", _categorical),
    Case("gpu", "uniform", _size(8192, 8192, 1), "torch", _shape),
    Case("gpu", "train_step", _size(256, 256, 98), "torch", partial(_network, dim=512)),
    *(
        case._replace(suite="gpu", target=None) for case in CASES
        if case.suite not in ("exact", "end_to_end") and case.sizes.get("D") != 2
    ),
)  # fmt: skip
SUITES = tuple(dict.fromkeys(case.suite for case in CASES))

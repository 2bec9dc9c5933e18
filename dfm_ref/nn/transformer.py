"""The attention model of the field: a transformer whose norms the time shifts, scales and gates (DDiT).

Parameters are named as in Meta's flow_matching text example, so that a state dict trained there loads here.
Sources: Peebles and Xie 2022 (DiT); Lou et al. 2023 (SEDD), Sahoo et al. 2024 (MDLM), Gat et al. 2024 (DFM).
"""

import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import device

from .. import random
from ..arrays import namespace, one_hot, put
from ..protocols import Array, Key, Params
from .layers import (
    adaptive_norm,
    adaptive_norm_backward,
    attention,
    attention_backward,
    embedding,
    embedding_backward,
    flatten,
    gate,
    gate_backward,
    gelu_tanh,
    gelu_tanh_backward,
    initialised,
    join_heads,
    label_rows,
    linear,
    linear_backward,
    nest,
    rotary,
    rotary_backward,
    rotary_table,
    silu,
    silu_backward,
    split_heads,
    time_features,
)

__all__ = ["Transformer"]

_TIME_SIZE = 256  # how many sinusoids describe a time


@dataclass(frozen=True)
class Transformer:
    """Logits of p(x_1 | x_t) from a stack of attention blocks: x_t int[B, N], t float[B] -> float[B, N, V].

    `dim` is the width of a token, `depth` the number of blocks, `heads` the number of attention heads in each
    (dim / heads is even), `cond_dim` the width of the time condition. Tokens know their place by rotation alone,
    so that any length N will do. With `classes` labels the embedding of a sequence's label, int[B] or one for all, is
    added to the time condition before its last SiLU; the label `classes`, or None, is none.

    >>> import numpy as np
    >>> model = Transformer(vocab_size=3, dim=8, depth=1, heads=2, cond_dim=4)
    >>> params = model.init(random.key(0))
    >>> model(params, np.array([[0, 2]]), np.array([0.5])).shape
    (1, 2, 3)
    """

    vocab_size: int
    dim: int = 128
    depth: int = 4
    heads: int = 4
    cond_dim: int = 128
    classes: int = 0

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim: expected a multiple of 2 heads = {2 * self.heads}, got {self.dim}")
        if self.depth < 1:
            raise ValueError(f"depth: expected at least 1, got {self.depth}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every parameter.

        >>> Transformer(vocab_size=3).shapes()["blocks.3.mlp.0.weight"]
        (512, 128)
        """

        def dense(size_out: int, size_in: int) -> dict[str, tuple[int, ...]]:
            return {"weight": (size_out, size_in), "bias": (size_out,)}

        dim, cond_dim = self.dim, self.cond_dim
        norm, square = {"weight": (dim,)}, {"weight": (dim, dim)}
        block = {
            "norm1": norm,
            "qw": square,
            "kw": square,
            "vw": square,
            "attn_out": square,
            "norm2": norm,
            "mlp": {"0": dense(4 * dim, dim), "2": dense(dim, 4 * dim)},
            "adaLN_modulation": dense(6 * dim, cond_dim),
        }
        return flatten(
            {
                "vocab_embed": {"weight": (self.vocab_size, dim)},
                "time_embedding": {"mlp": {"0": dense(cond_dim, _TIME_SIZE), "2": dense(cond_dim, cond_dim)}},
                "blocks": {str(i): block for i in range(self.depth)},
                "output_layer": {
                    "norm_final": norm,
                    "linear": dense(self.vocab_size, dim),
                    "adaLN_modulation": dense(2 * dim, cond_dim),
                },
                **({"label_embedding": {"weight": (self.classes + 1, cond_dim)}} if self.classes else {}),
            }
        )

    def init(self, key: Key, *, dtype: Any = "float32") -> Params:
        """Parameters to start from, NumPy: matrices uniform with variance 1 / fan-in, norms 1, biases 0.

        Modulations and head are 0: at first the blocks change nothing and the logits are 0.

        >>> float(Transformer(vocab_size=3).init(random.key(0))["blocks.0.norm1.weight"].mean())
        1.0
        """

        def initial(key: Key, name: str, shape: tuple[int, ...]) -> Array:
            still = "adaLN_modulation" in name or name == "output_layer.linear.weight"
            bound = 0.0 if still else math.sqrt(3 / shape[-1])
            noise = bound * (2 * random.uniform(key, shape) - 1)
            return noise if len(shape) > 1 else 0 * noise + ("norm" in name)

        return initialised(key, self.shapes(), initial, dtype=dtype)

    def __call__(self, params: Params, x_t: Array, t: Array, *, label: Array | int | None = None) -> Array:
        """The logits alone: `functools.partial(transformer, params)` is a `Model`, and with `label=` one of a class."""
        return self._run(params, x_t, t, label, None, keep=False)[0]

    def at(self, params: Params, x_t: Array, t: Array, sites: Array, *, label: Array | int | None = None) -> Array:
        """The logits at chosen tokens, those of ``reshape(x_t, -1)[sites]``: sites int[E] -> float[E, V].

        After the last attention tokens no longer see each other: what follows, three quarters of the last block and
        the head, is computed for these tokens alone. A matrix product of fewer rows may differ by ulps.
        """
        return self._run(params, x_t, t, label, sites, keep=False)[0]

    def forward(
        self,
        params: Params,
        x_t: Array,
        t: Array,
        *,
        label: Array | int | None = None,
        sites: Array | None = None,
    ) -> tuple[Array, Any]:
        """The logits and the residuals for `backward`, in the dtype of the parameters; t is cast to it.

        With sites the logits are those of `at`; they increase strictly where `backward` is to follow.
        """
        return self._run(params, x_t, t, label, sites, keep=True)

    def backward(self, params: Params, residuals: Any, dlogits: Array) -> Params:
        """dL/dparams from dL/dlogits, float[B, N, V] or [E, V]: the same names and shapes as the parameters."""
        tree = nest(params)
        tokens, time, blocks, adaptive, head, sites = residuals
        dtree: dict[str, Any] = {"blocks": {}}
        if sites is not None:
            dlogits = dlogits[:, None, :]
        dtree["output_layer"], dx, dmodulation = _head_backward(tree["output_layer"], head, dlogits)
        if sites is not None:
            dmodulation = _of_sequences_backward(dmodulation, sites, tokens.shape)
        dtree["output_layer"]["adaLN_modulation"], dc = linear_backward(
            tree["output_layer"]["adaLN_modulation"], adaptive, dmodulation
        )
        for i in reversed(range(self.depth)):
            dtree["blocks"][str(i)], dx, dc_i = _block_backward(tree["blocks"][str(i)], blocks[i], dx)
            dc = dc + dc_i
        dtime, dlabel = _condition_backward(tree, time, dc)
        dtree |= {"time_embedding": {"mlp": dtime}} | dlabel
        dtree["vocab_embed"] = embedding_backward(tree["vocab_embed"], tokens, dx)
        dparams = flatten(dtree)
        return {name: dparams[name] for name in params}

    def _run(
        self, params: Params, x_t: Array, t: Array, label: Array | int | None, sites: Array | None, *, keep: bool
    ) -> tuple[Array, Any]:
        """The logits, and the residuals if they are to be kept."""
        if len(x_t.shape) != 2 or t.shape != x_t.shape[:1]:
            raise ValueError(f"x_t, t: expected shapes (B, N) and (B,), got {x_t.shape} and {t.shape}")
        tree = nest(params)
        x, tokens = embedding(tree["vocab_embed"], x_t)
        c, time = _condition(tree, namespace(t).astype(t, x.dtype), label_rows(label, self.classes, x_t))
        table = rotary_table(split_heads(x, self.heads))
        blocks = []
        for i in range(self.depth):
            x, block = _block(tree["blocks"][str(i)], x, c, table, sites if i == self.depth - 1 else None)
            if keep:
                blocks.append(block)
        modulation, adaptive = linear(tree["output_layer"]["adaLN_modulation"], c)
        if sites is not None:
            modulation = _of_sequences(modulation, sites, x_t.shape)
        logits, head = _head(tree["output_layer"], x, modulation)
        if sites is not None:
            logits = logits[:, 0, :]
        return logits, (tokens, time, blocks, adaptive, head, sites)


# Parts: forward and backward pairs, as in layers.py. x float[B, N, dim], c float[B, 1, cond_dim].


def _condition(tree: dict[str, Any], t: Array, labels: Array) -> tuple[Array, Any]:
    """c = SiLU(Linear(SiLU(Linear(features of t))) + embedding of the label): float[B] -> float[B, 1, cond_dim]."""
    params = tree["time_embedding"]["mlp"]
    c, r_0 = linear(params["0"], time_features(t, size=_TIME_SIZE)[:, None, :])
    c, r_1 = silu(c)
    c, r_2 = linear(params["2"], c)
    if "label_embedding" in tree:
        c = c + embedding(tree["label_embedding"], labels)[0][:, None, :]
    c, r_3 = silu(c)
    return c, (r_0, r_1, r_2, labels, r_3)


def _condition_backward(tree: dict[str, Any], residuals: Any, dc: Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """The gradients of the layers of the time, and of the label embedding where there is one."""
    params = tree["time_embedding"]["mlp"]
    r_0, r_1, r_2, labels, r_3 = residuals
    dc = silu_backward(r_3, dc)
    known = "label_embedding" in tree
    dlabel = {"label_embedding": embedding_backward(tree["label_embedding"], labels, dc)} if known else {}
    d2, dc = linear_backward(params["2"], r_2, dc)
    dc = silu_backward(r_1, dc)
    d0, _ = linear_backward(params["0"], r_0, dc)
    return {"0": d0, "2": d2}, dlabel


def _block(
    params: dict[str, Any], x: Array, c: Array, table: Any, sites: Array | None = None
) -> tuple[Array, dict[str, Any]]:
    """x <- x + gate W_out Attention(norm x), then x <- x + gate MLP(norm x); norms and gates modulated by c.

    With sites, x is that of these tokens alone from the attention on: float[E, 1, dim], each a sequence of its own.
    """
    r: dict[str, Any] = {"sites": sites, "shape": x.shape}
    modulation, r["adaLN_modulation"] = linear(params["adaLN_modulation"], c)
    shift_1, scale_1 = _chunks(modulation[..., : 2 * x.shape[-1]], 2)
    rest = modulation[..., 2 * x.shape[-1] :]
    y, r["norm1"] = adaptive_norm(params["norm1"], x, shift_1, scale_1)
    y, r["attention"] = _self_attention(params, y, table)
    if sites is not None:
        rest = _of_sequences(rest, sites, x.shape)
        x, y = _chosen(x, sites), _chosen(y, sites)
    gate_1, shift_2, scale_2, gate_2 = _chunks(rest, 4)
    y, r["attn_out"] = linear(params["attn_out"], y)
    y, r["gate1"] = gate(y, gate_1)
    x = x + y
    y, r["norm2"] = adaptive_norm(params["norm2"], x, shift_2, scale_2)
    y, r["mlp"] = _mlp(params["mlp"], y)
    y, r["gate2"] = gate(y, gate_2)
    return x + y, r


def _block_backward(params: dict[str, Any], r: Any, dx: Array) -> tuple[dict[str, Any], Array, Array]:
    xp = namespace(dx)
    d: dict[str, Any] = {}
    dy, dgate_2 = gate_backward(r["gate2"], dx)
    d["mlp"], dy = _mlp_backward(params["mlp"], r["mlp"], dy)
    d["norm2"], dy, dshift_2, dscale_2 = adaptive_norm_backward(params["norm2"], r["norm2"], dy)
    dx = dx + dy
    dy, dgate_1 = gate_backward(r["gate1"], dx)
    d["attn_out"], dy = linear_backward(params["attn_out"], r["attn_out"], dy)
    drest = xp.concat([dgate_1, dshift_2, dscale_2, dgate_2], axis=-1)
    if r["sites"] is not None:
        dx, dy = (_chosen_backward(dz, r["sites"], r["shape"]) for dz in (dx, dy))
        drest = _of_sequences_backward(drest, r["sites"], r["shape"])
    dattention, dy = _self_attention_backward(params, r["attention"], dy)
    d["norm1"], dy, dshift_1, dscale_1 = adaptive_norm_backward(params["norm1"], r["norm1"], dy)
    dx = dx + dy
    dmodulation = xp.concat([dshift_1, dscale_1, drest], axis=-1)
    d["adaLN_modulation"], dc = linear_backward(params["adaLN_modulation"], r["adaLN_modulation"], dmodulation)
    return d | dattention, dx, dc


def _chosen(x: Array, sites: Array) -> Array:
    """The tokens at sites of the flat batch, each as a sequence of its own: float[B, N, dim] -> float[E, 1, dim]."""
    xp = namespace(x)
    return xp.take(xp.reshape(x, (-1, x.shape[-1])), sites, axis=0)[:, None, :]


def _chosen_backward(dy: Array, sites: Array, shape: tuple[int, ...]) -> Array:
    """dx = dy at the sites, which increase strictly, and 0 elsewhere."""
    xp = namespace(dy)
    dx = xp.zeros((shape[0] * shape[1], shape[2]), dtype=dy.dtype, device=device(dy))
    return xp.reshape(put(dx, sites, dy[:, 0, :]), shape)


def _of_sequences(rows: Array, sites: Array, shape: tuple[int, ...]) -> Array:
    """For each site the row of its sequence, float[B, 1, k] -> float[E, 1, k]; shape (B, N, ...) of the batch."""
    return _chosen(rows, sites // shape[1])


def _of_sequences_backward(dy: Array, sites: Array, shape: tuple[int, ...]) -> Array:
    """The sum over the sites of each sequence."""
    of_sequence = one_hot(sites // shape[1], shape[0], dtype=dy.dtype)
    return (of_sequence.T @ dy[:, 0, :])[:, None, :]


def _self_attention(params: dict[str, Any], x: Array, table: Any) -> tuple[Array, Any]:
    """y = Attention(R W_q x, R W_k x, W_v x), with R the rotation by position."""
    heads = x.shape[-1] // table[0].shape[-1]
    q, k, v = (split_heads(linear(params[name], x)[0], heads) for name in ("qw", "kw", "vw"))
    y, r_attention = attention(rotary(q, table), rotary(k, table), v)
    return join_heads(y), (x, table, r_attention)


def _self_attention_backward(params: dict[str, Any], residuals: Any, dy: Array) -> tuple[dict[str, Any], Array]:
    x, table, r_attention = residuals
    d: dict[str, Any] = {}
    dq, dk, dv = attention_backward(r_attention, split_heads(dy, x.shape[-1] // table[0].shape[-1]))
    d["qw"], dx_q = linear_backward(params["qw"], x, join_heads(rotary_backward(table, dq)))
    d["kw"], dx_k = linear_backward(params["kw"], x, join_heads(rotary_backward(table, dk)))
    d["vw"], dx_v = linear_backward(params["vw"], x, join_heads(dv))
    return d, dx_q + dx_k + dx_v


def _mlp(params: dict[str, Any], x: Array) -> tuple[Array, Any]:
    """y = Linear(GELU(Linear(x)))."""
    y, r_0 = linear(params["0"], x)
    y, r_1 = gelu_tanh(y)
    y, r_2 = linear(params["2"], y)
    return y, (r_0, r_1, r_2)


def _mlp_backward(params: dict[str, Any], residuals: Any, dy: Array) -> tuple[dict[str, Any], Array]:
    r_0, r_1, r_2 = residuals
    d2, dy = linear_backward(params["2"], r_2, dy)
    dy = gelu_tanh_backward(r_1, dy)
    d0, dx = linear_backward(params["0"], r_0, dy)
    return {"0": d0, "2": d2}, dx


def _head(params: dict[str, Any], x: Array, modulation: Array) -> tuple[Array, Any]:
    """logits = Linear(norm x): x float[..., dim], modulation float[..., 2 dim] -> float[..., V]."""
    shift, scale = _chunks(modulation, 2)
    y, r_norm = adaptive_norm(params["norm_final"], x, shift, scale)
    logits, r_linear = linear(params["linear"], y)
    return logits, (r_norm, r_linear)


def _head_backward(params: dict[str, Any], residuals: Any, dlogits: Array) -> tuple[dict[str, Any], Array, Array]:
    r_norm, r_linear = residuals
    d: dict[str, Any] = {}
    d["linear"], dy = linear_backward(params["linear"], r_linear, dlogits)
    d["norm_final"], dx, dshift, dscale = adaptive_norm_backward(params["norm_final"], r_norm, dy)
    return d, dx, namespace(dx).concat([dshift, dscale], axis=-1)


def _chunks(x: Array, num: int) -> list[Array]:
    """Equal parts of the last axis."""
    size = x.shape[-1] // num
    return [x[..., i * size : (i + 1) * size] for i in range(num)]

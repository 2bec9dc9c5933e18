"""The flows of `dfm_ref.continuous.coupling` as the package zuko has them, with the same layers and weights."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import zuko
from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

Shapes = Sequence[tuple[int, ...]]
SLOPE = 1e-300  # zuko bends theta by about theta^2 / log(1 / slope), which this makes as good as nothing


def affine(log_scale: torch.Tensor, shift: torch.Tensor) -> MonotonicAffineTransform:
    """The parameters in our order."""
    return MonotonicAffineTransform(shift, log_scale, slope=SLOPE)


def build(
    kind: str, dim: int, depth: int, params: dict[str, np.ndarray], masks: Sequence[Sequence[np.ndarray]] = ()
) -> zuko.flows.Flow:
    """The law of data, whose transform goes from data to noise as our weights are made for (copied)."""
    first = torch.arange(dim) < dim // 2
    maps: dict[str, tuple[Any, Shapes]] = {
        "spline": (partial(MonotonicRQSTransform, slope=SLOPE), [(8,), (8,), (7,)]),
        "affine": (affine, [(), ()]),
    }
    univariate, shapes = maps["spline" if kind == "neural_spline" else "affine"]
    common = {"univariate": univariate, "shapes": shapes, "hidden_features": (64, 64), "activation": torch.nn.SiLU}
    if kind == "maf":
        orders = [torch.arange(dim), torch.arange(dim).flip(0)]
        layers = [zuko.flows.MaskedAutoregressiveTransform(dim, order=orders[k % 2], **common) for k in range(depth)]
    else:
        layers = [
            zuko.flows.GeneralCouplingTransform(dim, mask=first if k % 2 == 0 else ~first, **common)
            for k in range(depth)
        ]
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(dim), torch.ones(dim), buffer=True
    )
    flow = zuko.flows.Flow(layers, base)
    with torch.no_grad():
        for p, value in zip(flow.parameters(), params.values(), strict=True):
            p.copy_(torch.from_numpy(value))
        for layer, rows in zip(layers, masks, strict=False):
            for linear, mask in zip(list(layer.hyper)[::2], rows, strict=True):
                linear.mask.copy_(torch.from_numpy(mask))
    return flow

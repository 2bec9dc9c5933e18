"""The time-conditioned DDiT of dfm_ref.nn as an ordinary eager PyTorch module: the peer that it is timed against.

Parameters have the names of `dfm_ref.nn.transformer`, so that one set of weights serves both.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, None, 1e-5)


class TimeEmbedding(nn.Module):
    def __init__(self, cond_dim: int, size: int = 256):
        super().__init__()
        self.size = size
        self.mlp = nn.Sequential(nn.Linear(size, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, t: Tensor) -> Tensor:
        half = self.size // 2
        angles = t[:, None] * torch.exp(-math.log(10000.0) * torch.arange(half, dtype=t.dtype, device=t.device) / half)
        return self.mlp(torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, cond_dim: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.qw, self.kw, self.vw, self.attn_out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.adaLN_modulation = nn.Linear(cond_dim, 6 * dim)

    def forward(self, x: Tensor, c: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        h = self.norm1(x) * (1 + scale_1) + shift_1
        q, k, v = (w(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.qw, self.kw, self.vw))
        a = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = x + gate_1 * self.attn_out(a.transpose(1, 2).flatten(-2))
        return x + gate_2 * self.mlp(self.norm2(x) * (1 + scale_2) + shift_2)


class OutputLayer(nn.Module):
    def __init__(self, dim: int, vocab_size: int, cond_dim: int):
        super().__init__()
        self.norm_final = LayerNorm(dim)
        self.linear = nn.Linear(dim, vocab_size)
        self.adaLN_modulation = nn.Linear(cond_dim, 2 * dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class DDiT(nn.Module):
    def __init__(self, vocab_size: int, dim: int = 128, depth: int = 4, heads: int = 4, cond_dim: int = 128):
        super().__init__()
        self.head_dim = dim // heads
        self.vocab_embed = nn.Embedding(vocab_size, dim)
        self.time_embedding = TimeEmbedding(cond_dim)
        self.blocks = nn.ModuleList([Block(dim, heads, cond_dim) for _ in range(depth)])
        self.output_layer = OutputLayer(dim, vocab_size, cond_dim)
        with torch.no_grad():  # at first the blocks change nothing and the logits are 0
            for name, p in self.named_parameters():
                if "adaLN" in name or "output_layer.linear" in name:
                    p.zero_()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x = self.vocab_embed(x_t)
        c = F.silu(self.time_embedding(t))
        freqs = 10000.0 ** (-torch.arange(0, self.head_dim, 2, dtype=x.dtype, device=x.device) / self.head_dim)
        angles = torch.arange(x_t.shape[1], dtype=x.dtype, device=x.device)[:, None] * freqs
        cos, sin = torch.cos(angles).repeat(1, 2), torch.sin(angles).repeat(1, 2)
        for block in self.blocks:
            x = block(x, c, cos, sin)
        return self.output_layer(x, c)


def load(model: DDiT, params: dict[str, Any]) -> DDiT:
    """The model with a flat dict of arrays as its parameters (copied)."""
    model.load_state_dict({name: torch.tensor(value) for name, value in params.items()})
    return model


def trainer(model: DDiT, learning_rate: float = 3e-4) -> Callable[..., list[Tensor]]:
    """step(loss, decay): backward, clip to 1, AdamW (decay on matrices alone), EMA; gives the averaged parameters."""
    params = list(model.parameters())
    matrices, vectors = [p for p in params if p.ndim > 1], [p for p in params if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))
    average = [p.detach().clone() for p in params]

    def step(loss: Tensor, decay: float = 0.999, factor: float = 1.0) -> list[Tensor]:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * factor
        optimiser.step()
        with torch.no_grad():
            for a, p in zip(average, params, strict=True):
                a.lerp_(p, 1 - decay)
        return average

    return step

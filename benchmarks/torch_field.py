"""The velocity network of dfm_ref.nn.field in PyTorch, to time it against."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Field(nn.Module):
    """Two hidden layers, whose biases are cosine series of the time; the parameters are copied."""

    def __init__(self, params: dict[str, Any]):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.tensor(value)) for value in params.values()])
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        phi = torch.cos(math.pi * torch.arange(16, device=x.device) * t.reshape(-1, 1))
        for k, (matrix, a) in enumerate(zip(self.weights[:3], self.weights[3:], strict=True)):
            x = torch.addmm(phi @ a.T, F.silu(x) if k else x, matrix.T)
        return x

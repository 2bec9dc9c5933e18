"""A cosine schedule in a PyTorch module, in float32, with one mistake of arithmetic; then without it.

dfm-ref verify verify_torch:build --quick
dfm-ref verify verify_torch:corrected --quick
"""

import math
from itertools import pairwise

import torch
from torch.nn import functional as F

from dfm_ref.verify.adapters import torch_module


class CosineMask(torch.nn.Module):
    """kappa = sin(pi t / 2)^2 and masked tokens; reveals them by the finite step, exact given x_1."""

    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size = vocab_size

    def kappa(self, t):
        return 1 - self.remaining(t)

    def kappa_dot(self, t):
        self.check_times(t)
        return math.pi * torch.sin(math.pi / 2 * t) * torch.cos(math.pi / 2 * t)

    def remaining(self, t):
        """1 - kappa."""
        self.check_times(t)
        return torch.cos(math.pi / 2 * t) ** 2

    def sample_path(self, x_0, x_1, t, seed):
        self.check(t, x_0, x_1)
        coins = torch.rand(x_0.shape, generator=torch.Generator().manual_seed(seed))
        return torch.where(coins < self.kappa(t)[:, None], x_1, x_0)

    def velocity(self, probs_1, x_t, t):
        self.check(t, x_t)
        self.check_probs(probs_1, x_t)
        rate = self.kappa_dot(t) / self.remaining(t)
        return rate[:, None, None] * (probs_1 - F.one_hot(x_t, self.vocab_size))

    def cross_entropy(self, logits, x_1, x_t, t):
        self.check(t, x_t, x_1)
        expect(logits.shape == (*x_t.shape, self.vocab_size), "logits[B, N, V]")
        return F.cross_entropy(logits.movedim(-1, 1), x_1, reduction="none")

    def sample(self, model, x_0, times, seed):
        self.check(torch.zeros(len(x_0)), x_0)
        self.check_times(times)
        expect(torch.all(times[1:] > times[:-1]), "increasing times")
        generator = torch.Generator().manual_seed(seed)
        frames = [x_0]
        for t, s in pairwise(times):
            x_t = frames[-1]
            probs_1 = model(x_t, t.expand(len(x_t)))
            self.check_probs(probs_1, x_t)
            stay = self.remaining(s) / self.remaining(t)
            value = draw(probs_1, generator)
            coins = torch.rand(x_t.shape, generator=generator)
            frames.append(torch.where((x_t == self.vocab_size - 1) & (coins >= stay), value, x_t))
        return torch.stack(frames)

    def check(self, t, *tokens):
        for x in tokens:
            expect(x.ndim == 2 and x.shape == tokens[0].shape, "tokens[B, N], all of one shape")
            expect(torch.all((x >= 0) & (x < self.vocab_size)), f"tokens in [0, {self.vocab_size})")
        expect(t.shape == tokens[0].shape[:1], "a time a row")
        self.check_times(t)

    def check_times(self, t):
        expect(torch.all((t >= 0) & (t <= 1)), "times in [0, 1]")  # NaN is not

    def check_probs(self, probs_1, x_t):
        expect(probs_1.shape == (*x_t.shape, self.vocab_size), "probs_1[B, N, V]")
        expect(torch.all(probs_1 >= -1e-6), "probabilities that are not negative")
        expect(torch.all((probs_1.sum(dim=-1) - 1).abs() <= 1e-4), "probabilities that sum to 1")


def expect(holds, what):
    if not holds:
        raise ValueError(f"expected {what}")


def draw(probs, generator):
    """Tokens by float64 probabilities, none of probability 0."""
    up_to = probs.double().cumsum(dim=-1)
    level = torch.rand((*probs.shape[:-1], 1), generator=generator, dtype=torch.float64) * up_to[..., -1:]
    return (up_to <= level).sum(dim=-1)


build = torch_module.wrap(
    lambda case: CosineMask(case.vocab_size), dtype="float32", covers={"schedule": "cosine", "source": "mask"}
)


class Corrected(CosineMask):
    """Each of kappa and 1 - kappa is a square of a small sine where it is small, and no difference from 1."""

    def kappa(self, t):
        self.check_times(t)
        return torch.sin(math.pi / 2 * t) ** 2

    def kappa_dot(self, t):
        self.check_times(t)
        return math.pi * torch.sin(math.pi / 2 * t) * torch.sin(math.pi / 2 * (1 - t))

    def remaining(self, t):
        self.check_times(t)
        return torch.sin(math.pi / 2 * (1 - t)) ** 2


corrected = torch_module.wrap(
    lambda case: Corrected(case.vocab_size), dtype="float32", covers={"schedule": "cosine", "source": "mask"}
)

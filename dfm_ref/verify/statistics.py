"""Tests of sampled laws whose rate of false alarms holds for every sample size, and what they can see.

No approximation enters a verdict: each test bounds the probability of what was seen, or worse, under its null
hypothesis. A `Look` is spent on some draws: the first on few, so that a gross error is seen at once, the last on many;
the looks of one test share its rate. What a test would see is computed too: the probability that it rejects a stated
departure.
"""

from math import exp, inf, log
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.special import kl_div

__all__ = ["Evidence", "Look", "departure_seen", "distance_test", "equality_test", "looks", "power", "share_test"]

Table: TypeAlias = np.ndarray[Any, Any]


class Look(NamedTuple):
    """A number of draws, and the rate of false alarms that may be spent on it."""

    draws: int
    alpha: float


class Evidence(NamedTuple):
    """log_p bounds the logarithm of the probability of such draws under the null; what else says what was tested."""

    log_p: float
    test: str
    """equality, distance or share."""
    draws: int
    outcomes: int

    def rejects(self, alpha: float) -> bool:
        """Whether the null hypothesis is false, but for a rate of false alarms.

        >>> equality_test(np.array([50, 50]), np.array([0.9, 0.1])).rejects(1e-9)
        True
        """
        return self.log_p <= log(alpha)


def looks(most: int, alpha: float, *, first: int = 512, factor: int = 4) -> list[Look]:
    """Draws that grow from few to `most`, each with half of the rate that is left; the last has the same as the last
    but one, so that the rates sum to alpha.

    Source: Lan and DeMets 1983, alpha spending.

    >>> [look.draws for look in looks(32768, 1e-6)], sum(look.alpha for look in looks(32768, 1e-6))
    ([512, 2048, 8192, 32768], 1e-06)
    """
    draws = [most]
    while draws[0] // factor >= first:
        draws.insert(0, draws[0] // factor)
    shares = [2.0 ** -(k + 1) for k in range(len(draws))]
    shares[-1] *= 2
    return [Look(n, alpha * share) for n, share in zip(draws, shares, strict=True)]


def equality_test(counts: Table, law: Table) -> Evidence:
    """Evidence that counts int[k] are not draws of the law float[k]; an outcome of probability 0 is impossible.

    The G test with the bound P(KL >= e) <= exp(-n e) (e n e / (k - 1))^(k - 1), valid for any n.
    Source: Agrawal 2020, "Finite-sample concentration of the multinomial in relative entropy".

    >>> equality_test(np.array([1, 0]), np.array([0.0, 1.0])).log_p
    -inf
    """
    n, k = int(counts.sum()), int(np.sum(law > 0))
    if np.any(counts[law <= 0]):
        return Evidence(-inf, "equality", n, k)
    divergence = float(kl_div(counts / max(1, n), law)[law > 0].sum()) if n else 0.0
    return Evidence(_tail(n * divergence, k), "equality", n, k)


def distance_test(counts: Table, law: Table, within: float) -> Evidence:
    """Evidence that counts int[k] are draws of no law within a total variation of the law float[k].

    By P(TV(frequencies, law) >= d) <= 2^k exp(-2 n d^2).
    Source: Bretagnolle and Huber 1979; Weissman et al. 2003, "Inequalities for the L1 deviation".

    >>> distance_test(np.array([5000, 5000]), np.array([0.9, 0.1]), 0.1).rejects(1e-9)
    True
    """
    if within <= 0:
        return equality_test(counts, law)
    n = int(counts.sum())
    excess = max(0.0, float(np.abs(counts / max(1, n) - law).sum() / 2) - within)
    return Evidence(min(0.0, len(law) * log(2) - 2 * n * excess**2), "distance", n, len(law))


def share_test(hits: int, draws: int, low: float, high: float) -> Evidence:
    """Evidence that hits in independent draws have a probability outside of [low, high], by Chernoff's bound.

    >>> share_test(0, 1000, 0.4, 0.6).rejects(1e-9), share_test(500, 1000, 0.4, 0.6).rejects(1e-9)
    (True, False)
    """
    share = hits / max(1, draws)
    nearest = min(max(share, low), high)
    divergence = float(kl_div(share, nearest) + kl_div(1 - share, 1 - nearest))
    return Evidence(min(0.0, log(2) - draws * divergence), "share", draws, 2)


def power(evidence: Evidence, alpha: float, departure: float) -> float:
    """The least probability that a test of so many draws rejects a law that is off by `departure`.

    In total variation for laws, beyond the distance that is allowed; in probability for a share. By Hoeffding's
    inequality on the outcomes that show the departure; of equality by the noncentral chi-squared law of its statistic
    at the relative entropy 2 departure^2 (Pinsker), an approximation that no verdict rests on.

    >>> evidence = equality_test(np.array([1024, 1024, 1024, 1024]), np.full(4, 0.25))
    >>> power(evidence, 1e-9, 0.1) > 0.999, power(evidence, 1e-9, 0.01) < 0.01
    (True, True)
    """
    draws, outcomes = evidence.draws, evidence.outcomes
    if evidence.test == "equality":
        from scipy.stats import ncx2  # slow to import, and asked for by few

        low, high = 0.0, 1e9
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if _tail(middle, outcomes) > log(alpha) else (low, middle)
        return float(ncx2.sf(2 * high, max(1, outcomes - 1), 4 * draws * departure**2))
    spread = outcomes * log(2) if evidence.test == "distance" else log(2)
    needed = ((spread - log(alpha)) / (2 * max(1, draws))) ** 0.5
    return 0.0 if departure <= needed else 1 - exp(-2 * draws * (departure - needed) ** 2)


def departure_seen(evidence: Evidence, alpha: float, *, sure: float = 0.99) -> float:
    """The least departure that a test rejects with a probability of `sure`, to a thousandth.

    >>> departure_seen(equality_test(np.array([2048, 2048]), np.full(2, 0.5)), 1e-9)
    0.074
    """
    low, high = 0, 1000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(evidence, alpha, middle / 1000) >= sure else (middle, high)
    return high / 1000


def _tail(x: float, outcomes: int) -> float:
    """log P(n KL >= x) at most, over k outcomes: -x + (k - 1) log(e x / (k - 1)) where x > k - 1."""
    freedom = outcomes - 1
    if freedom <= 0 or x <= freedom:
        return 0.0
    return min(0.0, -x + freedom * log(exp(1) * x / freedom))

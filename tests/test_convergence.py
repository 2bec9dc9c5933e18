"""Orders of accuracy by exact propagation, and the caveats: clamps, diagonals, wrong models."""

import runpy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from dfm_ref import transitions, velocities
from dfm_ref.kinetic import Metric, Odds, hamming
from dfm_ref.paths import Mixture
from dfm_ref.schedules import Linear
from dfm_ref.verify import oracle
from dfm_ref.verify.convergence import (
    RULES,
    OfMetric,
    OfMixture,
    chain,
    examples,
    exponential,
    finite,
    law,
    predictor_corrector,
    table,
    trapezoidal,
)

EXAMPLES = examples()
rows = cache(partial(table, steps=(4, 8, 16, 32, 64)))


def errors(example, rule, steps, *, t_0=0.0, T=0.9):
    """TV to p_T after K steps of an exact model."""
    return np.array([oracle.total_variation(law(example, rule, k, t_0=t_0, T=T), example.p(T)) for k in steps])


def orders(tv):
    return np.log2(tv[:-1] / tv[1:])


def test_every_rule_stands_in_the_table_and_the_simple_ones_are_of_order_1():
    found = {(row.path, row.rule): row for row in rows()}
    assert len(found) == 25
    for (_, rule), row in found.items():
        assert row.calls == RULES[rule][1]
        assert all(a > b for a, b in zip(row.tv.values(), list(row.tv.values())[1:], strict=False))
        if rule != "trapezoidal":
            assert 0.9 < row.order < 1.15, row


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_trapezoid_is_below_euler_and_loses_its_second_order_to_the_clamp(name):
    found = {row.rule: row for row in rows() if row.path == name}
    assert found["trapezoidal"].tv[64] < found["euler"].tv[64] / 3
    assert found["trapezoidal"].order < 1.6


def mild():
    """Masked data that are nearly independent: no rate falls to a half after a jump, and the clamp has no work."""
    q = np.pad(np.array([[0.26, 0.24], [0.24, 0.26]]), (0, 1)).ravel()
    pi = oracle.prompted(q, np.eye(3)[[2, 2]], np.zeros(2, bool))
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]).astype(float))
    return OfMixture(Mixture(Linear(), mask=2), problem)


def test_the_trapezoid_is_of_order_2_where_the_clamp_does_nothing():
    tv = errors(mild(), trapezoidal, (8, 16, 32, 64), T=0.7)
    assert np.all(np.abs(orders(tv) - 2) < 0.15), tv
    assert np.all(np.abs(orders(errors(mild(), exponential, (8, 16, 32, 64), T=0.7)) - 1) < 0.15)


def two_stages(example, t, s, *, second, stage=transitions.exponential, theta=0.5):
    """The trapezoid with other rates, or other stages, for the second half."""
    x, h = example.x, s - t
    u_x, u_y = example.u(t), example.u(t + theta * h)
    kernel = np.zeros((len(x), len(x)))
    for z, start in enumerate(oracle.product(stage(u_x, x, theta * h))):
        rates = second(np.broadcast_to(u_x[z], u_y.shape), u_y, np.broadcast_to(x[z], x.shape), x)
        kernel[:, z] = start @ oracle.product(stage(rates, x, (1 - theta) * h))
    return kernel


def test_signed_rates_are_of_order_2_on_any_path():
    """Without max(0, .) the second stage is no law, but its expansion is: the clamp alone costs the order."""

    def signed(u_x, u_y, x, y):
        others = [u * (1 - oracle.delta(z, u.shape[-1])) for u, z in ((u_x, x), (u_y, y))]
        return (2.0 * others[1] - others[0]) * (1 - oracle.delta(y, u_y.shape[-1]))

    def stage(u, x, h):
        here = oracle.delta(x, u.shape[-1])
        total = np.sum(u * (1 - here), axis=-1, keepdims=True)
        share = np.where(total == 0, h, -np.expm1(-h * total) / np.where(total == 0, 1, total))
        return share * u * (1 - here) + np.exp(-h * total) * here

    for name in ("uniform", "correlated"):
        tv = errors(EXAMPLES[name], partial(two_stages, second=signed, stage=stage), (16, 32, 64), t_0=0.2, T=0.7)
        assert np.all(np.abs(orders(tv) - 2) < 0.2), (name, tv)


def test_a_diagonal_taken_for_a_rate_back_or_linear_stages_are_of_order_1():
    def with_diagonal(u_x, u_y, x, y):
        return np.maximum(0.0, 2.0 * u_y - u_x) * (1 - oracle.delta(y, u_y.shape[-1]))

    right = partial(transitions.trapezoid_rates, theta=0.5)
    example = EXAMPLES["uniform"]
    best = errors(example, trapezoidal, (32, 64), t_0=0.2, T=0.7)
    for other in (
        partial(two_stages, second=with_diagonal),
        partial(two_stages, second=right, stage=transitions.euler),
    ):
        tv = errors(example, other, (32, 64), t_0=0.2, T=0.7)
        assert tv[-1] > 1.5 * best[-1], (tv, best)
        assert orders(tv)[-1] < 1.15
    assert np.allclose(errors(example, partial(two_stages, second=right), (32, 64), t_0=0.2, T=0.7), best, atol=1e-14)


def shifted(w):
    """Posteriors of a model that believes too much in the first token."""
    base = np.zeros(w.shape[-1])
    base[0] = 1.0
    return 0.7 * w + 0.3 * base


def test_with_a_wrong_model_the_corrector_stalls_and_the_finite_step_does_not():
    """The corrector leaves the true p_t, not the model's: its law does not tend to that of the model's chain."""
    wrong = replace(EXAMPLES["uniform"], distort=shifted)
    target = chain(wrong, wrong.p(0.2), 0.2, 0.8)

    def tv(rule, k):
        return float(oracle.total_variation(law(wrong, rule, k, t_0=0.2, T=0.8), target))

    assert tv(finite, 128) < 0.3 * tv(finite, 32)
    assert tv(predictor_corrector, 128) > 0.8 * tv(predictor_corrector, 32) > 0.01


def test_an_euler_corrector_moves_p_t_by_the_square_of_its_step():
    example = EXAMPLES["correlated"]
    p, posteriors = example.p(0.5), example.posteriors(0.5)
    u = velocities.corrected(example.path, posteriors, example.x, 0.5, alpha=1.0, beta=1.0)
    moved = [
        oracle.total_variation(oracle.joint_kernel(np.swapaxes(transitions.euler(u, example.x, eta), 0, 1)) @ p, p)
        for eta in (0.1, 0.05, 0.025)
    ]
    np.testing.assert_allclose(np.log2(np.divide(moved[:-1], moved[1:])), 2.0, atol=1e-6)


def test_one_masked_token_is_exact_in_one_step():
    pi = oracle.prompted(np.array([0.3, 0.7, 0.0]), np.eye(3)[[2]], np.zeros(1, bool))
    problem = oracle.enumerate_pairs(pi, np.stack([oracle.at_x_0(3), oracle.at_x_1(3)]).astype(float))
    example = OfMixture(Mixture(mask=2), problem)
    np.testing.assert_allclose(law(example, finite, 1, t_0=0.0, T=1.0), [0.3, 0.7, 0.0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_chain_of_exact_posteriors_has_the_law_of_the_path(name):
    example = EXAMPLES[name]
    np.testing.assert_allclose(chain(example, example.p(0.1), 0.1, 0.85), example.p(0.85), rtol=0, atol=1e-9)


def test_a_metric_example_ends_at_its_data():
    example = OfMetric(Metric(hamming(2), Odds()), np.array([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(example.p(1 - 1e-9), [0.1, 0.2, 0.3, 0.4], atol=1e-6)
    assert np.allclose(example.p(0.0), 0.25)


def test_the_table_in_the_documentation_is_this_one():
    docs = Path(__file__).parent.parent / "docs"
    if not docs.is_dir():
        pytest.skip("an installed package has no documentation")
    names = runpy.run_path(str(docs / "samplers.py"), run_name="docs")
    assert names["table"](rows()) in (docs / "samplers.md").read_text(encoding="utf-8")

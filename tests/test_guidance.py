"""Guidance: both spaces of classifier-free and their clocks, predictors against the oracle, shaping and its laws."""

from fractions import Fraction
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from strategies import BACKENDS, backend, follows, logits, pmfs

from dfm_ref import guidance, random, samplers
from dfm_ref.arrays import to_numpy
from dfm_ref.guidance import Guided, Hidden, Labelled, Shaped, Steered
from dfm_ref.paths import Mixture, reveal
from dfm_ref.schedules import Cosine, Linear, Polynomial
from dfm_ref.velocities import forward
from dfm_ref.verify import oracle

V, N = 4, 2
STATES = oracle.states(V, N)
MASKED = Mixture(Polynomial(2.0), mask=V - 1)
strengths = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0])


def softmax(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def posteriors(seed, *, mask=True, path=MASKED):
    """Two random posteriors at every state, float64[S, N, V]: of a mask path, or of any."""
    rng = np.random.default_rng(seed)
    both = (rng.standard_normal((len(STATES), N, V)) for _ in range(2))
    return tuple(softmax(reveal(path, x, STATES) if mask else x) for x in both)


# Classifier-free


@given(seed=st.integers(0, 2**32 - 1), strength=strengths)
def test_guided_rates_are_the_geometric_mean_of_two_and_conserve(seed, strength):
    here = np.eye(V)[STATES]
    rates = np.random.default_rng(seed).exponential(size=(2, *STATES.shape, V))
    u_c, u_u = (r * (1 - here) - here * (r * (1 - here)).sum(-1, keepdims=True) for r in rates)
    u = guidance.of_rates(u_c, u_u, STATES, strength=strength)
    expected = rates[0] ** strength * rates[1] ** (1 - strength) * (1 - here)
    np.testing.assert_allclose(u * (1 - here), expected, rtol=1e-12)
    np.testing.assert_allclose(u.sum(-1), 0, atol=1e-12 * (1 + u.max()))
    if strength in (0, 1):
        np.testing.assert_allclose(u, u_c if strength else u_u, rtol=1e-13)


@given(pair=st.tuples(pmfs(4), pmfs(4)), strength=st.sampled_from([0, 1, 2, 3]))
def test_guided_posteriors_are_those_of_exact_arithmetic(pair, strength):
    p_c, p_u = pair
    if strength > 1 and np.any((p_c > 0) & (p_u == 0)):
        with pytest.raises(ValueError, match="zero unconditional probability"):
            guidance.of_posteriors(logits(p_c.astype(float)), logits(p_u.astype(float)), strength=strength)
        return
    zero = Fraction(0)
    weights = [c**strength * (u ** (1 - strength) if u or strength < 2 else zero) for c, u in zip(*pair, strict=True)]
    ours = guidance.of_posteriors(logits(p_c.astype(float)), logits(p_u.astype(float)), strength=strength)
    expected = [float(w / sum(weights)) for w in weights]
    np.testing.assert_allclose(softmax(ours), expected, rtol=1e-13)
    assert np.array_equal(np.isinf(ours), np.asarray(expected) == 0)


def test_between_0_and_1_a_token_must_be_possible_in_both():
    p_c, p_u = np.log([0.5, 0.5, 1e-300]), logits(np.array([0.0, 0.5, 0.5]))
    assert np.array_equal(softmax(guidance.of_posteriors(p_c, p_u, strength=0.5)) > 0, [False, True, True])
    with pytest.raises(ValueError, match="possible in both"):
        guidance.of_posteriors(logits(np.eye(2)[0]), logits(np.eye(2)[1]), strength=0.5)


@pytest.mark.parametrize("strength", [-0.1, np.nan, np.inf])
def test_strengths_outside_of_the_domain_raise(strength):
    u, x = np.array([[-1.0, 1.0]]), np.array([0])
    for call in (
        lambda: guidance.of_rates(u, u, x, strength=strength),
        lambda: guidance.of_posteriors(u, u, strength=strength),
        lambda: guidance.by_predictor(u, u, x, strength=strength),
        lambda: Steered(dense, dense, strength),
        lambda: Guided(dense, dense, strength),
    ):
        with pytest.raises(ValueError, match="strength: expected a number >= 0"):
            call()


def test_a_rate_that_is_zero_in_one_of_two():
    u_c, u_u, x = np.array([[-1.0, 1.0, 0.0]]), np.array([[-2.0, 0.0, 2.0]]), np.array([0])
    assert guidance.of_rates(u_c, u_u, x, strength=0.5).tolist() == [[0.0, 0.0, 0.0]]
    assert guidance.of_rates(u_c, u_c, x, strength=3.0).tolist() == u_c.tolist()
    with pytest.raises(ValueError, match="zero unconditional rate"):
        guidance.of_rates(u_c, u_u, x, strength=1.5)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 3.0])
def test_the_two_spaces_differ_by_the_factor_z_on_the_clock(strength):
    p_c, p_u = posteriors(1)
    p_g = softmax(guidance.of_posteriors(logits(p_c), logits(p_u), strength=strength))
    both = (forward(MASKED, p, STATES, 0.3) for p in (p_c, p_u))
    u = guidance.of_rates(*both, STATES, strength=strength)
    z = np.where(p_c > 0, p_c**strength * np.where(p_u > 0, p_u, 1) ** (1 - strength), 0).sum(-1, keepdims=True)
    np.testing.assert_allclose(u, z * forward(MASKED, p_g, STATES, 0.3), rtol=1e-12, atol=1e-14)
    assert (strength == 1) == bool(np.all(np.abs(z - 1) < 1e-12))


@pytest.mark.parametrize("schedule", [Linear(), Polynomial(3.0), Cosine()])
@pytest.mark.parametrize("strength", [0.5, 2.0, 3.0])
def test_rate_space_reveals_by_1_minus_1_minus_kappa_to_the_z_and_posterior_space_by_kappa(schedule, strength):
    """Exact propagation of one masked token: u_t = c_t A, so the law at t is expm(-A log(1 - kappa_t)) delta_mask."""
    path, x = Mixture(schedule, mask=3), np.arange(4)[:, None]
    p_c, p_u = np.array([0.6, 0.3, 0.1, 0.0]), np.array([0.2, 0.3, 0.5, 0.0])
    rows = [softmax(reveal(path, logits(np.tile(p, (4, 1, 1))), x)) for p in (p_c, p_u)]
    p_g = softmax(guidance.of_posteriors(*map(logits, rows), strength=strength))
    z = float(np.sum(p_c[:3] ** strength * p_u[:3] ** (1 - strength)))
    c = schedule.kappa_dot(0.4) / schedule.one_minus_kappa(0.4)
    in_rates = guidance.of_rates(*(forward(path, p, x, 0.4) for p in rows), x, strength=strength) / c
    in_posteriors = forward(path, p_g, x, 0.4) / c
    for t in (0.1, 0.5, 0.9):
        clock = -np.log(schedule.one_minus_kappa(t))
        for u, factor in ((in_rates, z), (in_posteriors, 1.0)):
            law = expm(clock * oracle.generator(np.swapaxes(u, 0, 1)))[:, 3]
            np.testing.assert_allclose(law[3], schedule.one_minus_kappa(t) ** factor, rtol=1e-12)
            np.testing.assert_allclose(law[:3], (1 - law[3]) * p_g[3, 0, :3], rtol=1e-12)
    assert abs(z - 1) > 0.05


# Predictors


def test_neighbours_are_the_states_that_differ_in_one_token():
    around = guidance.neighbours(STATES, vocab_size=V)
    assert around.shape == (len(STATES), N, V - 1, N) and around.dtype == STATES.dtype
    for x, states in zip(STATES, around, strict=True):
        assert np.all((states != x).sum(-1) == 1) and len(np.unique(states.reshape(-1, N), axis=0)) == N * (V - 1)
        for i in range(N):
            assert np.all(states[i, :, i] != x[i]), "by place"
            assert states[i, :, i].tolist() == sorted(states[i, :, i]), "and by token"


def classes(seed, source, coefficients, t):
    """Two classes: states, posteriors of X1 of both and of class 0, log p(y = 0|x_t), and p_t(.|y = 0) with its dot."""
    rng = np.random.default_rng(seed)
    d = 3
    x = oracle.states(d, N)
    possible = np.all(x < d - 1, axis=-1) if source == "mask" else np.ones(len(x), bool)
    q = rng.dirichlet(np.ones(len(x)), 2) * possible
    q /= q.sum(-1, keepdims=True)
    p_y = rng.dirichlet(np.ones(2))
    rows = np.tile(np.eye(d)[d - 1] if source == "mask" else np.full(d, 1 / d), (N, 1))
    components = np.stack([oracle.at_x_0(d), oracle.at_x_1(d)])
    prompt = np.array([False, False])
    both, one = (oracle.enumerate_pairs(oracle.prompted(law, rows, prompt), components) for law in (p_y @ q, q[0]))
    kappa = np.stack([coefficients.one_minus_kappa(t), coefficients.kappa(t)]) * np.ones((N, 1))
    kappa_dot = np.stack([-coefficients.kappa_dot(t), coefficients.kappa_dot(t)]) * np.ones((N, 1))
    p, p_0 = oracle.marginal(both, kappa), p_y[0] * oracle.marginal(one, kappa)
    log_p = logits(np.divide(p_0, p, out=np.zeros_like(p), where=p > 0))
    probs_1, probs_1_of_0 = (np.swapaxes(oracle.posteriors(law, kappa).w_hat[1], 0, 1) for law in (both, one))
    return x, probs_1, probs_1_of_0, log_p, (oracle.marginal_dot(one, kappa, kappa_dot), p_0 / p_y[0])


def residual(u, path):
    p_dot, p = path
    return float(np.max(np.abs(oracle.kolmogorov_residual(p_dot, oracle.generator(np.swapaxes(u, 0, 1)), p))))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), t=st.sampled_from([0.05, 0.3, 0.6, 0.95]))
def test_the_true_predictor_on_a_mask_path_generates_the_conditional_path(seed, t):
    schedule = Polynomial(2.0)
    x, probs_1, _, log_p, path = classes(seed, "mask", schedule, t)
    asked = []

    def predictor(states, times):
        asked.append(len(states))
        assert times.shape == (len(states),) and np.all(times == t)
        return log_p[states @ [3, 1]]

    u = forward(Mixture(schedule, mask=2), probs_1, x, t)
    log_ratios = guidance.ratios(predictor, x, np.full(len(x), t), vocab_size=3)
    assert asked == [len(x) * (N * 2 + 1)], "one call, of every neighbour and the state itself"
    guided = guidance.by_predictor(u, log_ratios, x, strength=1.0)
    assert residual(guided, path) < 1e-12 * (1 + np.max(np.abs(u)))
    assert residual(u, path) > 1e-6, "unguided it does not"
    steered = Steered(lambda x, t: logits(probs_1), partial(guidance.ratios, predictor, vocab_size=3), strength=1.0)
    rows = np.exp(steered(x, np.full(len(x), t)))
    reached = path[1] > 0
    np.testing.assert_allclose(rows[reached].sum(-1), 1.0, rtol=1e-12, err_msg="on a mask path Z is 1")
    np.testing.assert_allclose(
        forward(Mixture(schedule, mask=2), rows, x, t)[reached], guided[reached], atol=1e-12 * np.max(np.abs(u))
    )


def test_off_a_mask_path_the_true_predictor_is_not_exact():
    """What the docstring gives up: p(y|x_t) does not solve the backward equation of the forward velocity there."""
    x, probs_1, _, log_p, path = classes(0, "uniform", Linear(), 0.4)
    log_ratios = guidance.ratios(lambda states, _: log_p[states @ [3, 1]], x, np.full(len(x), 0.4), vocab_size=3)
    u = forward(Mixture(), probs_1, x, 0.4)
    guided = guidance.by_predictor(u, log_ratios, x, strength=1.0)
    assert 1e-3 < residual(guided, path) < residual(u, path)


@given(seed=st.integers(0, 2**32 - 1), strength=strengths)
def test_the_first_order_form_is_exact_for_a_log_linear_predictor(seed, strength):
    weight = np.random.default_rng(seed).standard_normal((N, V))
    log_linear = lambda x, t: t + weight[np.arange(N), x].sum(-1)  # noqa: E731
    t = np.full(len(STATES), 0.5)
    exact = guidance.ratios(log_linear, STATES, t, vocab_size=V)
    first = guidance.taylor_ratios(lambda x, t: np.broadcast_to(weight, (*x.shape, V)), STATES, t)
    np.testing.assert_allclose(first, exact, atol=1e-13)
    assert np.all(np.take_along_axis(exact, STATES[..., None], -1) == 0)
    u = np.random.default_rng(seed).exponential(size=exact.shape)
    guided = guidance.by_predictor(u, exact, STATES, strength=strength)
    away = 1 - np.eye(V)[STATES]
    np.testing.assert_allclose(guided * away, u * away * np.exp(strength * exact), rtol=1e-13)
    np.testing.assert_allclose(guided.sum(-1), 0, atol=1e-12 * np.max(np.abs(guided)))


def test_the_first_order_form_takes_the_gradient_at_the_state():
    """A predictor quadratic in the one-hot tokens, differentiated by torch: off by the second order, and no more."""
    torch = pytest.importorskip("torch")
    coupling = np.random.default_rng(0).standard_normal((N * V, N * V))

    def quadratic(hot):
        flat = hot.reshape(len(hot), -1)
        return ((flat @ torch.from_numpy(coupling)) * flat).sum(-1)

    def gradient(x, t):
        hot = torch.from_numpy(np.eye(V)[x]).requires_grad_()
        quadratic(hot).sum().backward()
        return hot.grad.numpy()

    t = np.full(len(STATES), 0.5)
    first = guidance.taylor_ratios(gradient, STATES, t)
    exact = guidance.ratios(lambda x, t: quadratic(torch.from_numpy(np.eye(V)[x])).numpy(), STATES, t, vocab_size=V)
    blocks = coupling.reshape(N, V, N, V)
    second = np.zeros_like(first)
    for s, x in enumerate(STATES):
        for i in range(N):
            step = np.eye(V) - np.eye(V)[x[i]]
            second[s, i] = np.einsum("va,ab,vb->v", step, blocks[i, :, i], step)
    np.testing.assert_allclose(exact, first + second, atol=1e-12)


def test_impossible_neighbours_and_an_impossible_state():
    log_p = logits(np.array([0.5, 0.0, 0.25, 1.0]))
    log_ratios = guidance.ratios(lambda x, t: log_p[x[:, 0]], np.array([[0], [1]]), np.zeros(2), vocab_size=4)
    assert np.exp(log_ratios).tolist() == [[[1.0, 0.0, 0.5, 2.0]], [[1.0, 1.0, 1.0, 1.0]]]
    u = np.array([[[-3.0, 1.0, 1.0, 1.0]]])
    assert guidance.by_predictor(u, log_ratios[:1], np.array([[0]]), strength=2.0).tolist() == [[[-4.25, 0, 0.25, 4]]]
    assert guidance.by_predictor(u, log_ratios[:1], np.array([[0]]), strength=0.0).tolist() == u.tolist()


# Shaping


@given(p=pmfs(4), temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_temperature_is_a_power_of_the_probabilities(p, temperature):
    p = p.astype(float)
    expected = p ** (1 / temperature) / np.sum(p ** (1 / temperature))
    np.testing.assert_allclose(softmax(guidance.temper(logits(p), temperature=temperature)), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1e-300, 1e-5])
def test_the_coldest_temperature_takes_the_most_probable_token(temperature):
    cold = guidance.temper(np.array([1e4, 1e4 - 1, -1e4, -np.inf]), temperature=temperature)
    assert softmax(cold).tolist() == [1, 0, 0, 0]


@given(p=pmfs(5), mass=st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.6, 0.75, 0.9, 0.999, 1.0]))
def test_the_nucleus_is_the_smallest_set_of_its_mass(p, mass):
    kept = set(np.flatnonzero(guidance.top_p(logits(p.astype(float)), p=mass) > -np.inf).tolist())
    exact = Fraction(mass) - Fraction(1, 10**12)
    sets = [c for k in range(1, 6) for c in combinations(range(5), k) if sum(p[list(c)]) >= exact]
    size = min(map(len, sets))
    smallest = [c for c in sets if len(c) == size]
    heaviest = max(sum(p[list(c)]) for c in smallest)
    first = min(c for c in smallest if sum(p[list(c)]) == heaviest)  # ties: the first of the vocabulary
    assert kept == (set(first) if mass < 1 else set(np.flatnonzero(p).tolist()))


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_ties_of_a_nucleus_are_the_same_on_every_library(backend_name):
    b = backend(backend_name)
    flat = b.asarray(np.zeros((2, 10), dtype=np.float32))
    for count in range(1, 11):
        kept = b.to_numpy(guidance.top_p(flat, p=count / 10)) > -np.inf
        assert kept.tolist() == [[v < count for v in range(10)]] * 2


@pytest.mark.parametrize("mass", [5e-324, 1e-300, 1e-12])
def test_the_least_nucleus_is_the_most_probable_token(mass):
    assert np.isfinite(guidance.top_p(np.log([0.25, 0.5, 0.25]), p=mass)).tolist() == [False, True, False]


def test_a_mass_of_1_keeps_every_tail():
    log_p = np.log([1.0, 1e-300, 1e-15])
    assert np.array_equal(guidance.top_p(log_p, p=1.0), log_p)
    assert np.isinf(guidance.top_p(log_p, p=1 - 1e-9)).tolist() == [False, True, True]


@pytest.mark.parametrize("shape", [{"temperature": 0.0}, {"top_p": 0.0}])
def test_a_model_of_an_impossible_shape_raises_before_it_is_asked(shape):
    with pytest.raises(ValueError, match="expected"):
        Shaped(dense, **shape)


def test_bans():
    assert np.array_equal(guidance.ban(np.zeros((2, 3)), tokens=(0, 2)), [[-np.inf, 0, -np.inf]] * 2)
    assert guidance.ban(np.arange(3.0), tokens=()).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (partial(guidance.temper, temperature=0.0), "temperature: expected a number > 0"),
        (partial(guidance.temper, temperature=np.nan), "temperature: expected a number > 0"),
        (partial(guidance.temper, temperature=np.inf), "temperature: expected a number > 0"),
        (partial(guidance.top_p, p=0.0), "top_p: expected a mass in"),
        (partial(guidance.top_p, p=1.1), "top_p: expected a mass in"),
        (partial(guidance.top_p, p=np.nan), "top_p: expected a mass in"),
        (partial(guidance.ban, tokens=(0, 1, 2)), "banned: expected at least one"),
        (partial(guidance.ban, tokens=(3,)), r"banned: expected tokens in \[0, 3\), got 3"),
        (partial(guidance.ban, tokens=(-1,)), r"banned: expected tokens in \[0, 3\), got -1"),
    ],
)
def test_shapes_that_cannot_be_used_raise(call, says):
    with pytest.raises(ValueError, match=says):
        call(np.zeros((2, 3)))


def test_a_ban_of_all_that_is_possible_raises():
    with pytest.raises(ValueError, match="banned: expected at least one"):
        guidance.ban(np.array([[0.0, 0.0], [0.0, -np.inf]]), tokens=(0,))


@pytest.mark.parametrize(
    "shape", [{"temperature": 0.5}, {"temperature": 2.0}, {"top_p": 0.6}, {"banned": (0,)}], ids=str
)
@pytest.mark.parametrize("source", ["mask", "uniform"])
def test_what_shaping_gives_up_and_what_it_keeps(source, shape):
    """It keeps signs, conservation and, behind a mask, the clock; the velocity no longer generates the path."""
    x, _, probs_1, _, path = classes(3, source, Linear(), 0.4)
    mixture, shaken = (Mixture(mask=2), x == 2) if source == "mask" else (Mixture(), x >= 0)
    assert residual(forward(mixture, probs_1, x, 0.4), path) < 1e-12
    rows = probs_1.copy()
    rows[shaken] = softmax(Shaped(lambda x, t: logits(probs_1[shaken]), **shape)(x, 0.4))
    u = forward(mixture, rows, x, 0.4)
    here = np.eye(3)[x].astype(bool)
    assert np.all(u[~here] >= 0)
    np.testing.assert_allclose(u.sum(-1), 0, atol=1e-14)
    assert residual(u, path) > 1e-3
    if source == "mask":
        np.testing.assert_allclose(-u[..., 2][x == 2], 1 / (1 - 0.4), rtol=1e-14)


# Models made of models


TABLE, OTHER = (np.random.default_rng(i).standard_normal((N, V)) for i in range(2))


class Tabled:
    """A model with `at`: logits by the place and the token that is there, and by the time."""

    def __init__(self, table, asarray=np.asarray):
        self.table, self.asarray = table, asarray

    def __call__(self, x_t, t, *, label=0):
        x_t, t = to_numpy(x_t), to_numpy(t)
        return self.asarray(self.table * (1 + t[:, None, None]) + 0.3 * np.eye(V)[x_t] + label * np.arange(V))

    def at(self, x_t, t, sites, *, label=0):
        return self.asarray(to_numpy(self(x_t, t, label=label)).reshape(-1, V)[to_numpy(sites)])


def dense(model):
    return lambda x_t, t, **options: model(x_t, t, **options)


def log_ratios(x_t, t):
    return np.broadcast_to(OTHER, (*x_t.shape, V)) * t[:, None, None]


WRAPPERS = {
    "guided": (lambda a, b: Guided(a, b, 2.5), lambda x, t, a, b: guidance.of_posteriors(a, b, strength=2.5)),
    "shaped": (
        lambda a, b: Shaped(a, temperature=0.7, top_p=0.8, banned=(1, 3)),
        lambda x, t, a, b: guidance.top_p(guidance.temper(guidance.ban(a, tokens=(1, 3)), temperature=0.7), p=0.8),
    ),
    "steered": (lambda a, b: Steered(a, log_ratios, 1.5), lambda x, t, a, b: a + 1.5 * log_ratios(x, t)),
    "labelled": (lambda a, b: Labelled(a, 2), lambda x, t, a, b: a + 2 * np.arange(V)),
    "hidden": (
        lambda a, b: Hidden(a, np.array([True, False]), V - 1),
        lambda x, t, a, b: Tabled(TABLE)(np.where([True, False], V - 1, x), t),
    ),
    "both": (
        lambda a, b: Shaped(Guided(Labelled(a, 1), b, 2.0), top_p=0.5, banned=(V - 1,)),
        lambda x, t, a, b: guidance.top_p(
            guidance.ban(guidance.of_posteriors(a + np.arange(V), b, strength=2.0), tokens=(V - 1,)), p=0.5
        ),
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_model_is_the_plain_functions_and_offers_at_iff_the_model_does(name):
    wrap, plain = WRAPPERS[name]
    one, other = Tabled(TABLE), Tabled(OTHER)
    t = np.linspace(0.1, 0.9, len(STATES))
    whole = wrap(one, other)(STATES, t)
    np.testing.assert_allclose(whole, plain(STATES, t, one(STATES, t), other(STATES, t)), rtol=1e-13)
    sites = np.array([0, 5, 6, 2 * len(STATES) - 1])
    np.testing.assert_array_equal(wrap(one, other).at(STATES, t, sites), whole.reshape(-1, V)[sites])
    assert not hasattr(wrap(dense(one), dense(other)), "at")
    if name in ("guided", "both"):
        assert not hasattr(wrap(one, dense(other)), "at") and not hasattr(wrap(dense(one), other), "at")


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("path", [Mixture(mask=V - 1), Mixture()], ids=["mask", "uniform"])
def test_samplers_draw_the_same_tokens_lazily_and_densely(name, path):
    wrap, _ = WRAPPERS[name]
    one, other = Tabled(TABLE), Tabled(OTHER)
    x_0 = np.full((40, N), V - 1) if path.mask else np.random.default_rng(0).integers(0, V, (40, N))
    times = [0.0, 0.3, 0.7, 1.0]
    lazy = samplers.sample(path, wrap(one, other), random.key(0), x_0, times)
    assert np.array_equal(lazy, samplers.sample(path, wrap(dense(one), dense(other)), random.key(0), x_0, times))
    if name == "shaped":
        assert not np.any(np.isin(lazy, (1, 3))), "banned"


@pytest.mark.parametrize("name", BACKENDS)
def test_every_library_guides_shapes_and_samples_as_numpy(name):
    b = backend(name)
    x_0 = np.full((16, N), V - 1)

    def tokens(asarray):
        one, other = Tabled(TABLE, asarray), Tabled(OTHER, asarray)
        hidden = Hidden(other, asarray(np.array([True, False])), V - 1)
        model = Shaped(Guided(one, hidden, 2.0), temperature=0.8, top_p=0.9, banned=(1, V - 1))
        return samplers.sample(Mixture(mask=V - 1), model, random.key(1), asarray(x_0), [0.0, 0.5, 1.0])

    assert np.array_equal(b.to_numpy(tokens(b.asarray)), tokens(np.asarray))
    probs = np.random.default_rng(0).dirichlet(np.ones(V), (2, *STATES.shape))
    x, t = STATES, np.full(len(STATES), 0.5)
    u = forward(Mixture(), probs[0], x, 0.5), forward(Mixture(), probs[1], x, 0.5)
    f = lambda x, t: b.asarray(np.log(1.0 + np.asarray(b.to_numpy(x)).sum(-1)))  # noqa: E731
    ours = guidance.of_rates(*map(b.asarray, u), b.asarray(x), strength=2.0)
    np.testing.assert_allclose(b.to_numpy(ours), guidance.of_rates(*u, x, strength=2.0), rtol=1e-12)
    there = guidance.ratios(f, b.asarray(x), b.asarray(t), vocab_size=V)
    here = guidance.ratios(lambda x, t: np.log(1.0 + x.sum(-1)), x, t, vocab_size=V)
    np.testing.assert_allclose(b.to_numpy(there), here, rtol=1e-12)
    guided = guidance.by_predictor(b.asarray(u[0]), there, b.asarray(x), strength=1.5)
    np.testing.assert_allclose(b.to_numpy(guided), guidance.by_predictor(u[0], here, x, strength=1.5), rtol=1e-12)


def test_guided_samples_follow_the_guided_law():
    p_c, p_u = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    models = [lambda x, t, p=p: np.broadcast_to(np.log(p), (*x.shape, 3)) for p in (p_c, p_u)]
    model = Shaped(Guided(*models, strength=2.0), banned=(2,))
    x = samplers.sample(Mixture(mask=3), model, random.key(0), np.full((20000, 1), 3), [0.0, 1.0])[:, 0]
    law = np.append((p_c**2 / p_u)[:2] / np.sum((p_c**2 / p_u)[:2]), 0.0)
    assert follows(x, law) and not follows(x, np.append(p_c[:2] / p_c[:2].sum(), 0.0))


def test_guided_logits_are_float64_and_arguments_stay_as_they_were():
    half = np.array([[11.0, 0.0, -11.0]], dtype=np.float16)
    before = half.copy()
    assert guidance.of_posteriors(half, -half, strength=3.0).dtype == np.float64
    assert np.all(np.isfinite(guidance.of_posteriors(half, -half, strength=1e300))), "no strength overflows"
    for call in (
        partial(guidance.temper, temperature=0.5),
        partial(guidance.top_p, p=0.5),
        partial(guidance.ban, tokens=(0,)),
    ):
        call(half)
    assert np.array_equal(half, before)


def test_of_a_tuple_every_posterior_is_guided_and_shaped():
    a, b = Tabled(TABLE), Tabled(OTHER)
    t = np.full(len(STATES), 0.5)
    two, three = (lambda x, t, m=m, n=n: (None, m(x, t), n(x, t)) for m, n in ((a, b), (b, a)))
    none, first, last = Shaped(Guided(two, three, 2.0), temperature=2.0)(STATES, t)
    assert none is None
    np.testing.assert_array_equal(first, Shaped(Guided(a, b, 2.0), temperature=2.0)(STATES, t))
    np.testing.assert_array_equal(last, Shaped(Guided(b, a, 2.0), temperature=2.0)(STATES, t))


def test_empty_batches():
    none = np.zeros((0, N), dtype=np.int64)
    assert guidance.neighbours(none, vocab_size=V).shape == (0, N, V - 1, N)
    assert guidance.ratios(lambda x, t: t, none, np.zeros(0), vocab_size=V).shape == (0, N, V)
    assert Shaped(Guided(Tabled(TABLE), Tabled(OTHER), 2.0), top_p=0.5)(none, np.zeros(0)).shape == (0, N, V)

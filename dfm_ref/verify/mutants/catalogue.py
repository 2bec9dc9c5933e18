"""The catalogue of wrong implementations: each is the right one with one line replaced, as a real mistake would.

Every mutant breaks a formula or a duty at legal input, or accepts input that must raise; none is merely another valid
choice. Several show only with one schedule, one source, one size or one grid.
"""

import textwrap
from collections.abc import Callable
from importlib import resources
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["AREAS", "MUTANTS", "Mutant", "built", "mutant"]

AREAS = (
    "schedules",
    "paths",
    "velocities",
    "losses",
    "samplers",
    "randomness",
    "batching",
    "precision",
    "boundaries",
    "inputs",
)
"""What mistakes are about."""


class Mutant(NamedTuple):
    """One mistake: the line of `right.py`, what stands there instead, and how that happens.

    >>> Mutant("losses_in_bits", "losses", "return nats", "return nats / np.log(2)", "Bits are reported.").area
    'losses'
    """

    id: str
    area: str
    line: str
    wrong: str
    why: str


MUTANTS = (
    Mutant(
        "schedules_cosine_not_squared",
        "schedules",
        '"cosine": lambda t: np.sin(np.pi / 2 * t) ** 2,',
        '"cosine": lambda t: np.sin(np.pi / 2 * t),',
        "The square of the cosine schedule is forgotten.",
    ),
    Mutant(
        "schedules_cosine_of_another_family",
        "schedules",
        '"cosine": lambda t: np.sin(np.pi / 2 * t) ** 2,',
        '"cosine": lambda t: 1 - np.cos(np.pi / 2 * t),',
        "Another schedule goes by the same name; both ends are right.",
    ),
    Mutant(
        "schedules_quadratic_dot_forgets_the_factor",
        "schedules",
        '"quadratic": lambda t: 2.0 * t,',
        '"quadratic": lambda t: 1.0 * t,',
        "The exponent is not brought down.",
    ),
    Mutant(
        "schedules_cubic_dot_of_the_quadratic",
        "schedules",
        '"cubic": lambda t: 3.0 * t * t,',
        '"cubic": lambda t: 2.0 * t,',
        "The line above is copied and not changed.",
    ),
    Mutant(
        "schedules_cosine_dot_without_chain_rule",
        "schedules",
        '"cosine": lambda t: np.pi * np.sin(np.pi / 2 * t) * np.sin(np.pi / 2 * (1 - t)),',
        '"cosine": lambda t: 2 * np.sin(np.pi / 2 * t) * np.sin(np.pi / 2 * (1 - t)),',
        "The inner derivative pi / 2 is forgotten.",
    ),
    Mutant(
        "schedules_cubic_remaining_misfactored",
        "schedules",
        '"cubic": lambda t: (1 - t) * (1 + t + t * t),',
        '"cubic": lambda t: (1 - t) * (1 + t * t),',
        "A term of the factorisation of 1 - t^3 is lost.",
    ),
    Mutant(
        "schedules_cubic_remaining_power_inside",
        "schedules",
        '"cubic": lambda t: (1 - t) * (1 + t + t * t),',
        '"cubic": lambda t: (1 - t) ** 3,',
        "1 - t^3 is taken for (1 - t)^3.",
    ),
    Mutant(
        "schedules_cosine_inverse_in_radians",
        "schedules",
        '"cosine": lambda k: 2 / np.pi * np.arctan2(np.sqrt(k), np.sqrt(1 - k)),',
        '"cosine": lambda k: np.arctan2(np.sqrt(k), np.sqrt(1 - k)),',
        "The angle is not turned into a time.",
    ),
    Mutant(
        "schedules_cosine_inverse_from_the_end",
        "schedules",
        '"cosine": lambda k: 2 / np.pi * np.arctan2(np.sqrt(k), np.sqrt(1 - k)),',
        '"cosine": lambda k: 2 / np.pi * np.arctan2(np.sqrt(1 - k), np.sqrt(k)),',
        "The formula is of a code whose time runs from data to noise.",
    ),
    Mutant(
        "schedules_cubic_inverse_is_square_root",
        "schedules",
        '"cubic": lambda k: np.cbrt(k),',
        '"cubic": lambda k: np.sqrt(k),',
        "The inverse of another schedule is used.",
    ),
    Mutant(
        "schedules_quadratic_inverse_squares",
        "schedules",
        '"quadratic": lambda k: np.sqrt(k),',
        '"quadratic": lambda k: k * k,',
        "The schedule is applied again instead of undone.",
    ),
    Mutant(
        "schedules_run_backwards",
        "schedules",
        "return KAPPA[self.schedule](t)",
        "return KAPPA[self.schedule](1 - t)",
        "The code it is taken from has the data at t = 0.",
    ),
    Mutant(
        "paths_ends_swapped",
        "paths",
        "return np.where(arrived, x_1, x_0)",
        "return np.where(arrived, x_0, x_1)",
        "The arguments of where are swapped.",
    ),
    Mutant(
        "paths_coin_inverted",
        "paths",
        "arrived = uniforms < kappa",
        "arrived = uniforms > kappa",
        "Tokens are hidden with probability kappa, as if it were the noise level.",
    ),
    Mutant(
        "paths_schedule_ignored",
        "paths",
        "kappa = self.kappa(t)[:, None]",
        "kappa = t[:, None]",
        "The linear schedule is wired in.",
    ),
    Mutant(
        "paths_rate_for_probability",
        "paths",
        "kappa = self.kappa(t)[:, None]",
        "kappa = self.kappa_dot(t)[:, None]",
        "The wrong field of the scheduler's output is read.",
    ),
    Mutant(
        "paths_tokens_interpolated",
        "paths",
        "return np.where(arrived, x_1, x_0)",
        "return np.rint(x_0 + kappa * (x_1 - x_0)).astype(np.int64)",
        "The path of continuous flow matching is applied to token numbers.",
    ),
    Mutant(
        "paths_noise_drawn_anew",
        "paths",
        'x_0 = self._tokens(x_0, "x_0")',
        "x_0 = np.random.default_rng(seed + 1).choice(self.vocab_size, self._tokens(x_0, '').shape, p=self.source_pmf)",
        "The source is sampled inside, and the x_0 that is given is not used.",
    ),
    Mutant(
        "paths_one_coin_a_row",
        "paths",
        "uniforms = np.random.default_rng(seed).random(x_0.shape, dtype=self.real)",
        "uniforms = np.random.default_rng(seed).random((len(x_0), 1))",
        "One coin decides for the whole sequence.",
    ),
    Mutant(
        "paths_last_token_left_out",
        "paths",
        "arrived = uniforms < kappa",
        "arrived = (uniforms < kappa) & (np.arange(self.length) < self.length - 1)",
        "A slice meant for an end token is off by one.",
    ),
    Mutant(
        "paths_write_into_x_0",
        "paths",
        "return np.where(arrived, x_1, x_0)",
        "np.copyto(x_0, x_1, where=arrived); return x_0",
        "The noise is overwritten in place to save memory.",
    ),
    Mutant(
        "velocity_divides_by_kappa",
        "velocities",
        "remaining = self._one_minus_kappa(t)",
        "remaining = self.kappa(t)",
        "The printed formula divides by the weight of the wrong component.",
    ),
    Mutant(
        "velocity_without_kappa_dot",
        "velocities",
        "return np.asarray(self.kappa_dot(t) / remaining)",
        "return np.asarray(1 / remaining)",
        "The formula of the linear schedule is copied, where kappa_dot is 1.",
    ),
    Mutant(
        "velocity_not_divided",
        "velocities",
        "return np.asarray(self.kappa_dot(t) / remaining)",
        "return np.asarray(self.kappa_dot(t))",
        "The derivative of the path is taken for its velocity.",
    ),
    Mutant(
        "velocity_without_diagonal",
        "velocities",
        "return np.where(here, 0.0 - total, leaving)",
        "return leaving",
        "Only rates of leaving are written, and the rate of staying is forgotten.",
    ),
    Mutant(
        "velocity_diagonal_positive",
        "velocities",
        "return np.where(here, 0.0 - total, leaving)",
        "return np.where(here, total, leaving)",
        "The sign of the diagonal is lost.",
    ),
    Mutant(
        "velocity_diagonal_is_the_full_rate",
        "velocities",
        "return self._balance(rate * probs_1, x_t)",
        "return np.where(self._one_hot(x_t), -rate, rate * probs_1)",
        "The posterior of the present value is left out of the diagonal.",
    ),
    Mutant(
        "velocity_toward_the_likeliest",
        "velocities",
        "return self._balance(rate * probs_1, x_t)",
        "return self._balance(rate * self._one_hot(probs_1.argmax(axis=-1)), x_t)",
        "A denoised guess is used where the posterior belongs.",
    ),
    Mutant(
        "velocity_balanced_over_tokens",
        "velocities",
        "total = leaving.sum(axis=-1, keepdims=True)",
        "total = leaving.sum(axis=-2, keepdims=True)",
        "The sum runs over the axis of tokens.",
    ),
    Mutant(
        "velocity_overwrites_the_posteriors",
        "velocities",
        "return self._balance(rate * probs_1, x_t)",
        "return self._balance(np.multiply(rate, probs_1, out=probs_1), x_t)",
        "The product is stored in the argument.",
    ),
    Mutant(
        "corrector_forward_once",
        "velocities",
        "alpha, beta = 1 + float(strength), float(strength)",
        "alpha, beta = 1.0, float(strength)",
        "Noise is added and its way forward is not.",
    ),
    Mutant(
        "corrector_strength_unused",
        "velocities",
        "alpha, beta = 1 + float(strength), float(strength)",
        "alpha, beta = 1.0, 0.0",
        "The strength is taken and not used.",
    ),
    Mutant(
        "corrector_without_way_back",
        "velocities",
        "alpha, beta = 1 + float(strength), float(strength)",
        "alpha, beta = 1 + float(strength), 0.0",
        "The forward velocity is scaled and nothing is taken back.",
    ),
    Mutant(
        "corrector_rate_of_the_forward",
        "velocities",
        "backward = self._backward_rate(t)[:, None, None] * self._noise_posterior(probs_1, x_t, t)",
        "backward = self._forward_rate(t)[:, None, None] * self._noise_posterior(probs_1, x_t, t)",
        "The rate of the line above is copied; at kappa = 1/2 both agree.",
    ),
    Mutant(
        "corrector_back_to_the_data",
        "velocities",
        "backward = self._backward_rate(t)[:, None, None] * self._noise_posterior(probs_1, x_t, t)",
        "backward = self._backward_rate(t)[:, None, None] * probs_1",
        "The posterior of the data is used both ways.",
    ),
    Mutant(
        "noise_posterior_without_remaining",
        "velocities",
        "evidence = remaining * self.source_pmf[x_t][..., None] + kappa",
        "evidence = self.source_pmf[x_t][..., None] + kappa",
        "The factor 1 - kappa is dropped, which a mask does not show.",
    ),
    Mutant(
        "noise_posterior_swapped",
        "velocities",
        "likelihood = remaining * here + kappa",
        "likelihood = kappa * here + remaining",
        "kappa is taken for the weight of the noise.",
    ),
    Mutant(
        "noise_posterior_evidence_elsewhere",
        "velocities",
        "evidence = remaining * self.source_pmf[x_t][..., None] + kappa",
        "evidence = remaining * self.source_pmf + kappa",
        "The denominator has p(x) for p(x_t), which a uniform source does not show.",
    ),
    Mutant(
        "noise_posterior_without_arrival",
        "velocities",
        "return np.asarray((1 - q) * here + q * noise_if_arrived)",
        "return np.asarray(noise_if_arrived)",
        "It is not asked whether the token has arrived, which a mask does not show.",
    ),
    Mutant(
        "mask_is_the_first_token",
        "velocities",
        "mask_only = np.eye(self.vocab_size)[self.vocab_size - 1]",
        "mask_only = np.eye(self.vocab_size)[0]",
        "The vocabulary of another code has the mask first.",
    ),
    Mutant(
        "uniform_over_the_others",
        "velocities",
        "uniform = np.full(self.vocab_size, 1 / self.vocab_size)",
        "uniform = np.full(self.vocab_size, 1 / (self.vocab_size - 1))",
        "The size of a vocabulary without its mask is used for a source that has none.",
    ),
    Mutant(
        "losses_in_bits",
        "losses",
        "return -self._at(log_probs, x_1)",
        "return -self._at(log_probs, x_1) / np.log(2)",
        "Bits are reported as nats.",
    ),
    Mutant(
        "losses_of_the_present_token",
        "losses",
        "return -self._at(log_probs, x_1)",
        "return -self._at(log_probs, x_t)",
        "The input is taken for the target.",
    ),
    Mutant(
        "losses_mean_over_tokens",
        "losses",
        "return -self._at(log_probs, x_1)",
        "return np.zeros_like(log_probs[..., 0]) - self._at(log_probs, x_1).mean(axis=-1, keepdims=True)",
        "The reduction of the training loop has moved into the loss.",
    ),
    Mutant(
        "losses_only_tokens_on_the_way",
        "losses",
        "return -self._at(log_probs, x_1)",
        "return np.where(x_t == x_1, 0.0, -self._at(log_probs, x_1))",
        "The loss of masks, which revealed tokens do not enter, is used for every source.",
    ),
    Mutant(
        "losses_weighted_by_the_rate",
        "losses",
        "return -self._at(log_probs, x_1)",
        "return -self._at(log_probs, x_1) * self._forward_rate(np.asarray(t))[:, None]",
        "The weight of the bound is put on the cross-entropy.",
    ),
    Mutant(
        "losses_labels_smoothed",
        "losses",
        "return -self._at(log_probs, x_1)",
        "return -0.99 * self._at(log_probs, x_1) - 0.01 * log_probs.mean(axis=-1)",
        "A default of label smoothing is left on.",
    ),
    Mutant(
        "losses_softmax_over_tokens",
        "losses",
        "normaliser = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))",
        "normaliser = np.log(np.exp(shifted).sum(axis=-2, keepdims=True))",
        "The softmax runs over the wrong axis.",
    ),
    Mutant(
        "losses_overwrite_the_logits",
        "losses",
        "shifted = logits - top",
        "shifted = np.subtract(logits, top, out=logits)",
        "The largest logit is subtracted in place.",
    ),
    Mutant(
        "kl_without_arrived_tokens",
        "losses",
        "if_arrived = -np.expm1(log_here)",
        "if_arrived = np.zeros_like(log_here)",
        "The term [x_t = x_1] is dropped, as if the source were a mask.",
    ),
    Mutant(
        "kl_arrived_sign",
        "losses",
        "if_arrived = -np.expm1(log_here)",
        "if_arrived = np.expm1(log_here)",
        "The minus in front of the bracket is applied to half of it.",
    ),
    Mutant(
        "kl_log_of_the_present_token",
        "losses",
        "log_target = self._at(log_probs, x_1)",
        "log_target = self._at(log_probs, x_t)",
        "log p is taken at x_t instead of x_1.",
    ),
    Mutant(
        "kl_without_the_present_probability",
        "losses",
        "if_on_the_way = -log_target - np.exp(log_here)",
        "if_on_the_way = -log_target",
        "The rate of the model's own jumps is left out, which a mask does not show.",
    ),
    Mutant(
        "kl_rate_over_kappa",
        "losses",
        "rate = self._forward_rate(t)[:, None]",
        "rate = self.kappa_dot(t)[:, None] / np.maximum(self.kappa(t), 1e-12)[:, None]",
        "kappa_dot is divided by kappa.",
    ),
    Mutant(
        "kl_weight_is_kappa_dot",
        "losses",
        "rate = self._forward_rate(t)[:, None]",
        "rate = self.kappa_dot(t)[:, None]",
        "1 - kappa is forgotten in the weight.",
    ),
    Mutant(
        "kl_of_whole_sequences",
        "losses",
        "nats = np.where(x_t == x_1, if_arrived, if_on_the_way)",
        "nats = np.where((x_t == x_1).all(axis=-1, keepdims=True), if_arrived, if_on_the_way)",
        "Sequences instead of tokens are compared.",
    ),
    Mutant(
        "samplers_stay_without_denominator",
        "samplers",
        "return self._one_minus_kappa(s) / self._one_minus_kappa(t)",
        "return self._one_minus_kappa(s)",
        "The step from t = 0 is used everywhere.",
    ),
    Mutant(
        "samplers_stay_by_kappa",
        "samplers",
        "return self._one_minus_kappa(s) / self._one_minus_kappa(t)",
        "return self.kappa(t) / self.kappa(s)",
        "kappa and 1 - kappa are confused.",
    ),
    Mutant(
        "samplers_stay_of_the_linear_schedule",
        "samplers",
        "return self._one_minus_kappa(s) / self._one_minus_kappa(t)",
        "return (1 - s) / (1 - t)",
        "The step of the linear schedule is wired in.",
    ),
    Mutant(
        "samplers_time_for_the_step",
        "samplers",
        "return self._one_minus_kappa(s) / self._one_minus_kappa(t)",
        "return 1 - np.minimum(1, t * self._forward_rate(t))",
        "Euler's step is t long instead of s - t.",
    ),
    Mutant(
        "samplers_events_inverted",
        "samplers",
        "events = coins >= stay",
        "events = coins < stay",
        "The coin is read the wrong way round.",
    ),
    Mutant(
        "samplers_move_masks_alone",
        "samplers",
        "events = coins >= stay",
        "events = (coins >= stay) & (x_t == self.vocab_size - 1)",
        "The sampler of masks is used for every source.",
    ),
    Mutant(
        "samplers_greedy",
        "samplers",
        "values = self._categorical(rng, probs_1)",
        "values = probs_1.argmax(axis=-1)",
        "The likeliest value is taken instead of a draw.",
    ),
    Mutant(
        "samplers_redraw_excludes_the_present",
        "samplers",
        "values = self._categorical(rng, probs_1)",
        "values = self._categorical(rng, np.where(self._one_hot(x_t), 1e-300, probs_1))",
        "An event is taken for a jump to another value, at the rate of events.",
    ),
    Mutant(
        "samplers_temperature_left_on",
        "samplers",
        "weights = np.maximum(probs, 0.0)",
        "weights = np.maximum(probs, 0.0) ** (1 / 0.9)",
        "A temperature of 0.9 is a default that nobody reads.",
    ),
    Mutant(
        "samplers_nucleus_left_on",
        "samplers",
        "weights = np.maximum(probs, 0.0)",
        "weights = np.where(probs >= 0.05, probs, 0.0)",
        "Rare values are cut off by default.",
    ),
    Mutant(
        "samplers_model_sees_the_first_frame",
        "samplers",
        "x_t = self._step(model, rng, x_t, t, s)",
        "x_t = self._step(lambda x, rows: model(frames[0].copy(), rows), rng, x_t, t, s)",
        "The posterior at the start is used in every step.",
    ),
    Mutant(
        "samplers_model_one_step_late",
        "samplers",
        "x_t = self._step(model, rng, x_t, t, s)",
        "x_t = self._step(lambda x, rows: model(frames[max(k - 1, 0)].copy(), rows), rng, x_t, t, s)",
        "The state before the last step is handed to the model.",
    ),
    Mutant(
        "samplers_model_asked_at_the_end",
        "samplers",
        "probs_1 = self._ask(model, x_t, t)",
        "probs_1 = self._ask(model, x_t, s)",
        "The model is asked at the end of the interval, and of the last one at T.",
    ),
    Mutant(
        "samplers_model_asked_twice",
        "samplers",
        "answer = model(x_t.copy(), rows)",
        "answer = (np.asarray(model(x_t.copy(), rows)) + np.asarray(model(x_t.copy(), rows))) / 2",
        "A call for guidance without a condition is left in, so that everything costs double.",
    ),
    Mutant(
        "samplers_steps_of_the_first_length",
        "samplers",
        "t, s = times[k], times[k + 1]",
        "t, s = times[k], min(times[k] + (times[1] - times[0]), 1.0)",
        "The grid is assumed to be even.",
    ),
    Mutant(
        "samplers_steps_counted_by_division",
        "samplers",
        "steps = len(times) - 1",
        "steps = int((times[-1] - times[0]) / (times[1] - times[0]))",
        "The number of steps is (T - t_0) / h, rounded down.",
    ),
    Mutant(
        "samplers_last_frame_missing",
        "samplers",
        "steps = len(times) - 1",
        "steps = len(times) - 2",
        "An index is off by one.",
    ),
    Mutant(
        "samplers_first_frame_missing",
        "samplers",
        "return np.stack(frames)",
        "return np.stack(frames[1:])",
        "Only what steps return is kept.",
    ),
    Mutant(
        "samplers_frames_late",
        "samplers",
        "return np.stack(frames)",
        "return np.stack([frames[0], *frames[:-1]])",
        "Frames are stored before the step instead of after it.",
    ),
    Mutant(
        "samplers_frames_reversed",
        "samplers",
        "return np.stack(frames)",
        "return np.stack(frames[::-1])",
        "The code it is taken from runs from 1 to 0.",
    ),
    Mutant(
        "samplers_frames_share_memory",
        "samplers",
        "return np.where(events, values, x_t)",
        "np.copyto(x_t, values, where=events); return x_t",
        "The state is updated in place: all frames are the last one, and x_0 too.",
    ),
    Mutant(
        "randomness_seed_ignored",
        "randomness",
        "rng = np.random.default_rng(seed)",
        "rng = np.random.default_rng()",
        "The seed is not passed on.",
    ),
    Mutant(
        "randomness_seed_zero_is_none",
        "randomness",
        "rng = np.random.default_rng(seed)",
        "rng = np.random.default_rng(seed or None)",
        "0 is taken for no seed.",
    ),
    Mutant(
        "randomness_generator_kept",
        "randomness",
        "rng = np.random.default_rng(seed)",
        'rng = self.__dict__.setdefault("_rng", np.random.default_rng(seed))',
        "The generator is made once and goes on in the next call.",
    ),
    Mutant(
        "randomness_global_coins",
        "randomness",
        "coins = rng.random(x_t.shape, dtype=self.real)",
        "coins = np.random.random(x_t.shape)",
        "The global generator is used.",
    ),
    Mutant(
        "randomness_one_coin_a_row",
        "randomness",
        "coins = rng.random(x_t.shape, dtype=self.real)",
        "coins = rng.random((len(x_t), 1))",
        "One coin decides for all tokens of a row.",
    ),
    Mutant(
        "randomness_one_coin_a_token",
        "randomness",
        "coins = rng.random(x_t.shape, dtype=self.real)",
        "coins = np.broadcast_to(rng.random(x_t.shape[1:]), x_t.shape)",
        "One coin decides for all rows.",
    ),
    Mutant(
        "randomness_coins_repeat_in_chunks",
        "randomness",
        "coins = rng.random(x_t.shape, dtype=self.real)",
        "coins = np.resize(rng.random((min(len(x_t), 64), self.length)), x_t.shape)",
        "Chunks of 64 rows start from the same seed.",
    ),
    Mutant(
        "randomness_seeded_every_step",
        "randomness",
        "x_t = self._step(model, rng, x_t, t, s)",
        "x_t = self._step(model, np.random.default_rng(seed), x_t, t, s)",
        "The generator is made anew in every step.",
    ),
    Mutant(
        "randomness_values_by_the_coin",
        "randomness",
        "values = self._categorical(rng, probs_1)",
        "values = np.sum(probs_1.cumsum(axis=-1)[..., :-1] <= coins[..., None], axis=-1)",
        "The number that decided the event also draws the value.",
    ),
    Mutant(
        "randomness_values_of_one_seed",
        "randomness",
        "values = self._categorical(rng, probs_1)",
        "values = self._categorical(np.random.default_rng(0), probs_1)",
        "A seed from debugging is left in.",
    ),
    Mutant(
        "randomness_one_value_a_row",
        "randomness",
        "threshold = rng.random(whole.shape, dtype=self.real) * whole",
        "threshold = rng.random((len(whole), 1, 1)) * whole",
        "One number draws the values of all tokens of a row.",
    ),
    Mutant(
        "randomness_path_seed_ignored",
        "randomness",
        "uniforms = np.random.default_rng(seed).random(x_0.shape, dtype=self.real)",
        "uniforms = np.random.default_rng().random(x_0.shape)",
        "The seed is not passed on.",
    ),
    Mutant(
        "randomness_path_global",
        "randomness",
        "uniforms = np.random.default_rng(seed).random(x_0.shape, dtype=self.real)",
        "uniforms = np.random.random(x_0.shape)",
        "The global generator is used.",
    ),
    Mutant(
        "randomness_path_rows_alike",
        "randomness",
        "uniforms = np.random.default_rng(seed).random(x_0.shape, dtype=self.real)",
        "uniforms = np.random.default_rng(seed).random(self.length)",
        "One sequence of coins serves the whole batch.",
    ),
    Mutant(
        "batching_first_time_for_all",
        "batching",
        "rate = self._forward_rate(t)[:, None, None]",
        "rate = self._forward_rate(t)[:1, None, None]",
        "A sampler's single time is assumed in training too.",
    ),
    Mutant(
        "batching_mean_rate_for_all",
        "batching",
        "rate = self._forward_rate(t)[:, None]",
        "rate = np.full((len(t), 1), self._forward_rate(t).sum() / max(len(t), 1))",
        "The weight is averaged over the batch before it is applied.",
    ),
    Mutant(
        "batching_path_first_time_for_all",
        "batching",
        "kappa = self.kappa(t)[:, None]",
        "kappa = self.kappa(t)[:1, None]",
        "One time is assumed for the whole batch.",
    ),
    Mutant(
        "batching_path_axis_guessed_by_size",
        "batching",
        "kappa = self.kappa(t)[:, None]",
        "kappa = self.kappa(t)[:, None] if len(t) != self.length else self.kappa(t)",
        "Times are aligned by size, which goes wrong where B = N.",
    ),
    Mutant(
        "batching_rate_axis_guessed_by_size",
        "batching",
        "rate = self._forward_rate(t)[:, None, None]",
        "rate = np.reshape(self._forward_rate(t), (-1, 1, 1) if len(t) != self.length else (1, -1, 1))",
        "Times are aligned by size, which goes wrong where B = N.",
    ),
    Mutant(
        "batching_loss_over_the_batch_size",
        "batching",
        "return -self._at(log_probs, x_1)",
        "return -self._at(log_probs, x_1) / max(len(x_1), 1)",
        "Losses are divided by the size of the batch, to be summed later.",
    ),
    Mutant(
        "batching_empty_crashes",
        "batching",
        "valid = (tokens >= 0) & (tokens < self.vocab_size)",
        "valid = np.full(tokens.shape, tokens.min() >= 0 and tokens.max() < self.vocab_size)",
        "The smallest token of an empty batch is asked for.",
    ),
    Mutant(
        "batching_frames_squeezed",
        "batching",
        "return np.stack(frames)",
        "return np.stack(frames).squeeze()",
        "Axes of length 1 are dropped.",
    ),
    Mutant(
        "batching_frames_behind_rows",
        "batching",
        "return np.stack(frames)",
        "return np.stack(frames, axis=1)",
        "Frames are stacked along the second axis.",
    ),
    Mutant(
        "batching_one_time_to_the_model",
        "batching",
        "rows = np.full(len(x_t), t)",
        "rows = np.full(1, t)",
        "The model is relied on to broadcast its time.",
    ),
    Mutant(
        "batching_first_row_to_the_model",
        "batching",
        "answer = model(x_t.copy(), rows)",
        "answer = np.repeat(np.asarray(model(x_t[:1].copy(), rows[:1])), len(x_t), axis=0)[: len(x_t)]",
        "The posterior of one sequence is used for the batch.",
    ),
    Mutant(
        "batching_model_asked_row_by_row",
        "batching",
        "answer = model(x_t.copy(), rows)",
        "answer = np.concatenate([model(x_t[b : b + 1].copy(), rows[b : b + 1]) for b in range(len(x_t))])",
        "The model is looped over rows, and an empty batch has none.",
    ),
    Mutant(
        "batching_odd_row_dropped",
        "batching",
        'x_t = self._tokens(x_0, "x_0")',
        'x_t = self._tokens(x_0, "x_0")[: max(len(x_0) // 2 * 2, 1)]',
        "An incomplete batch is dropped, here of two.",
    ),
    Mutant(
        "precision_velocity_in_half",
        "precision",
        "return self._balance(rate * probs_1, x_t)",
        "return self._balance((rate * probs_1).astype(np.float16).astype(np.float64), x_t)",
        "A cast to half precision is left in.",
    ),
    Mutant(
        "precision_times_in_half",
        "precision",
        "return numbers.astype(self.real)",
        "return numbers.astype(np.float16).astype(np.float64)",
        "Times take the type of the network.",
    ),
    Mutant(
        "precision_logits_in_half",
        "precision",
        "scores: Array = np.asarray(logits, dtype=self.real)",
        "scores = np.asarray(logits, dtype=np.float16).astype(np.float64)",
        "Losses are computed in the type of the network.",
    ),
    Mutant(
        "precision_remaining_in_single",
        "precision",
        "return ONE_MINUS_KAPPA[self.schedule](t)",
        "return np.asarray(1 - KAPPA[self.schedule](np.asarray(t, dtype=np.float32)), dtype=np.float64)",
        "1 - kappa is a difference of float32 numbers, which loses its digits near t = 1.",
    ),
    Mutant(
        "precision_cosine_remaining_by_subtraction",
        "precision",
        '"cosine": lambda t: np.sin(np.pi / 2 * (1 - t)) ** 2,',
        '"cosine": lambda t: 1 - np.sin(np.pi / 2 * t) ** 2,',
        "1 - kappa is computed by subtraction, which near t = 1 has no right digit.",
    ),
    Mutant(
        "precision_derivative_by_difference",
        "precision",
        "return KAPPA_DOT[self.schedule](t)",
        "return (KAPPA[self.schedule](t + 1e-4) - KAPPA[self.schedule](t)) / 1e-4",
        "The derivative is a difference quotient, of a length that suits float32.",
    ),
    Mutant(
        "precision_softmax_without_shift",
        "precision",
        "shifted = logits - top",
        "shifted = logits",
        "The largest logit is not subtracted, and exp overflows.",
    ),
    Mutant(
        "precision_probabilities_clamped",
        "precision",
        "return np.asarray(shifted - normaliser)",
        "return np.log(np.maximum(np.exp(shifted - normaliser), 1e-7))",
        "Probabilities are clamped before the logarithm.",
    ),
    Mutant(
        "precision_logarithm_with_epsilon",
        "precision",
        "return np.asarray(shifted - normaliser)",
        "return np.log(np.exp(shifted - normaliser) + 1e-5)",
        "An epsilon is added before the logarithm.",
    ),
    Mutant(
        "precision_rate_with_epsilon",
        "precision",
        "return np.asarray(self.kappa_dot(t) / remaining)",
        "return np.asarray(self.kappa_dot(t) / (remaining + 1e-4))",
        "An epsilon guards the division.",
    ),
    Mutant(
        "precision_weights_quantised",
        "precision",
        "weights = np.maximum(probs, 0.0)",
        "weights = np.round(np.maximum(probs, 0.0), 2)",
        "Probabilities are stored in hundredths, and rare values vanish.",
    ),
    Mutant(
        "boundaries_last_step_goes_to_one",
        "boundaries",
        "t, s = times[k], times[k + 1]",
        "t, s = times[k], (times[k + 1] if k < steps - 1 else times.dtype.type(1))",
        "The last step returns x_1 whatever its time, as in a sampler that always ends at 1.",
    ),
    Mutant(
        "boundaries_start_taken_for_zero",
        "boundaries",
        "t, s = times[k], times[k + 1]",
        "t, s = (times[k] if k else times.dtype.type(0)), times[k + 1]",
        "The first step is assumed to begin at t = 0.",
    ),
    Mutant(
        "boundaries_kappa_clipped",
        "boundaries",
        "kappa = self.kappa(t)[:, None]",
        "kappa = np.clip(self.kappa(t), 0.01, 0.99)[:, None]",
        "kappa is kept from its ends to be safe.",
    ),
    Mutant(
        "boundaries_times_clipped",
        "boundaries",
        "return numbers.astype(self.real)",
        "return np.clip(numbers, 1e-3, 1 - 1e-3).astype(self.real)",
        "Times are kept from the ends, where something was infinite.",
    ),
    Mutant(
        "boundaries_rate_clamped",
        "boundaries",
        "remaining = self._one_minus_kappa(t)",
        "remaining = np.maximum(self._one_minus_kappa(t), 1e-2)",
        "The denominator is clamped.",
    ),
    Mutant(
        "boundaries_never_all_arrive",
        "boundaries",
        "return self._one_minus_kappa(s) / self._one_minus_kappa(t)",
        "return (self._one_minus_kappa(s) + 1e-2) / (self._one_minus_kappa(t) + 1e-2)",
        "Epsilons in the ratio leave tokens behind at t = 1, however many steps there are.",
    ),
    Mutant(
        "boundaries_cosine_offset",
        "boundaries",
        '"cosine": lambda t: np.sin(np.pi / 2 * t) ** 2,',
        '"cosine": lambda t: np.sin(np.pi / 2 * (t + 0.008) / 1.008) ** 2,',
        "The offset of the cosine schedule of diffusion models is kept.",
    ),
    Mutant(
        "boundaries_last_token_unreachable",
        "boundaries",
        "return np.asarray(np.sum(cumulative <= threshold, axis=-1))",
        "return np.asarray(np.sum(cumulative[..., :-2] <= threshold, axis=-1))",
        "The largest value is cut by one too many, which a mask does not show.",
    ),
    Mutant(
        "boundaries_first_token_unreachable",
        "boundaries",
        "return np.asarray(np.sum(cumulative <= threshold, axis=-1))",
        "return np.asarray(1 + np.sum(cumulative[..., 1:] <= threshold, axis=-1))",
        "Token 0 is taken for padding.",
    ),
    Mutant(
        "boundaries_impossible_token_reachable",
        "boundaries",
        "weights = np.maximum(probs, 0.0)",
        "weights = np.maximum(probs, 1e-3)",
        "Probabilities are clamped from below, and what has none can come.",
    ),
    Mutant(
        "boundaries_kl_nan_where_impossible",
        "boundaries",
        "nats = np.where(x_t == x_1, if_arrived, if_on_the_way)",
        "nats = (x_t == x_1) * if_arrived + (x_t != x_1) * if_on_the_way",
        "Branches are joined by products, and 0 times infinity is no number.",
    ),
    Mutant(
        "inputs_nan_time_passes",
        "inputs",
        "inside = (numbers >= 0) & (numbers <= 1)",
        "inside = ~((numbers < 0) | (numbers > 1))",
        "NaN is not below 0 and not above 1.",
    ),
    Mutant(
        "inputs_time_above_one_passes",
        "inputs",
        "inside = (numbers >= 0) & (numbers <= 1)",
        "inside = numbers >= 0",
        "The upper end is not checked.",
    ),
    Mutant(
        "inputs_time_below_zero_passes",
        "inputs",
        "inside = (numbers >= 0) & (numbers <= 1)",
        "inside = numbers <= 1",
        "The lower end is not checked.",
    ),
    Mutant(
        "inputs_only_the_first_time_checked",
        "inputs",
        "if not np.all(inside):",
        "if not np.all(inside[:1]):",
        "One time stands for all.",
    ),
    Mutant(
        "inputs_one_time_is_broadcast",
        "inputs",
        "if times.shape != (len(x_t),):",
        "if times.ndim != 1 or len(times) not in (1, len(x_t)):",
        "A single time is taken for a batch of them.",
    ),
    Mutant(
        "inputs_times_by_their_ends",
        "inputs",
        "if not np.all(gaps > 0):",
        "if not grid[-1] > grid[0]:",
        "Only the ends of the grid are compared.",
    ),
    Mutant(
        "inputs_times_sorted",
        "inputs",
        "times = self._grid(times)",
        'times = np.sort(self._unit_interval(times, "times"))',
        "Times are sorted, and frames come in another order than asked.",
    ),
    Mutant(
        "inputs_repeated_times_dropped",
        "inputs",
        "times = self._grid(times)",
        'times = np.unique(self._unit_interval(times, "times"))',
        "Repeated times are dropped, and their frames too.",
    ),
    Mutant(
        "inputs_times_not_checked",
        "inputs",
        "times = self._grid(times)",
        "times = np.asarray(times, dtype=self.real)",
        "The grid is trusted.",
    ),
    Mutant(
        "inputs_negative_tokens_pass",
        "inputs",
        "valid = (tokens >= 0) & (tokens < self.vocab_size)",
        "valid = tokens < self.vocab_size",
        "-1 is a good index in Python.",
    ),
    Mutant(
        "inputs_token_at_the_size_passes",
        "inputs",
        "valid = (tokens >= 0) & (tokens < self.vocab_size)",
        "valid = (tokens >= 0) & (tokens <= self.vocab_size)",
        "An upper bound is off by one.",
    ),
    Mutant(
        "inputs_only_the_first_row_checked",
        "inputs",
        "if not np.all(valid):",
        "if not np.all(valid[:1]):",
        "One sequence stands for all.",
    ),
    Mutant(
        "inputs_one_pair_is_broadcast",
        "inputs",
        "if like is not None and tokens.shape != like.shape:",
        "if like is not None and tokens.shape[1:] != like.shape[1:]:",
        "The number of rows is not compared.",
    ),
    Mutant(
        "inputs_probabilities_renormalised",
        "inputs",
        "probs: Array = np.asarray(probs_1, dtype=self.real)",
        "probs = np.asarray(probs_1, dtype=self.real) / np.sum(probs_1, axis=-1, keepdims=True)",
        "Rows are silently made to sum to 1.",
    ),
    Mutant(
        "inputs_deficit_passes",
        "inputs",
        "excess = np.abs(probs.sum(axis=-1) - 1)",
        "excess = probs.sum(axis=-1) - 1",
        "The absolute value is forgotten, and a lack passes.",
    ),
    Mutant(
        "inputs_loose_sum",
        "inputs",
        "if not np.all(excess <= 1e-3):",
        "if not np.all(excess <= 0.1):",
        "A tolerance is loosened to silence an error.",
    ),
    Mutant(
        "inputs_negative_probabilities_pass",
        "inputs",
        "if not np.all(probs >= -1e-3):",
        "if not np.all(probs <= 1 + 1e-3):",
        "Only the upper end of probabilities is checked.",
    ),
    Mutant(
        "inputs_posteriors_of_one_token_broadcast",
        "inputs",
        "if probs.shape != (*x_t.shape, self.vocab_size):",
        "if probs.ndim != 3 or probs.shape[-1] != self.vocab_size:",
        "Only the last axis is compared.",
    ),
    Mutant(
        "inputs_logits_of_one_token_broadcast",
        "inputs",
        "if scores.shape != (*x_t.shape, self.vocab_size):",
        "if scores.ndim != 3 or scores.shape[-1] != self.vocab_size:",
        "Only the last axis is compared.",
    ),
    Mutant(
        "inputs_model_trusted",
        "inputs",
        "return self._pmfs(answer, x_t)",
        "return np.asarray(answer, dtype=self.real)",
        "What the model returns is not checked.",
    ),
    Mutant(
        "inputs_unused_time_unchecked",
        "inputs",
        "self._times(t, x_t)",
        "np.asarray(t)",
        "The cross-entropy does not use t, and does not look at it.",
    ),
)
"""The wrong implementations, by area."""


def mutant(id: str) -> Callable[[Any], Any]:
    """The `build` of the right implementation with the one line of this mutant replaced. ValueError for no such id.

    >>> from dfm_ref.verify import Case
    >>> build = mutant("velocity_without_diagonal")
    >>> wrong = build(Case(vocab_size=2, length=1, schedule="linear", source="uniform"))
    >>> wrong.velocity([[[0.25, 0.75]]], [[0]], [0.5]).tolist()
    [[[0.0, 1.5]]]
    """
    return built(id, MUTANTS)


def built(id: str, among: tuple[Mutant, ...], *, of: str = "right") -> Callable[[Any], Any]:
    """The `build` of a right implementation, the module `of`, with the line of a mutant among some replaced.

    >>> built("losses_in_bits", MUTANTS).__name__
    'build'
    """
    known = {m.id: m for m in among}
    if id not in known:
        raise ValueError(f"id must be that of a mutant, got {id!r}")
    module = ModuleType(f"{__package__}.{id}")
    exec(compile(_replaced(_right(of), known[id]), f"<{id}>", "exec"), module.__dict__)
    build: Callable[[Any], Any] = module.__dict__["build"]
    return build


def _right(name: str = "right") -> str:
    """The text of a right implementation."""
    return resources.files(__package__).joinpath(f"{name}.py").read_text(encoding="utf-8")


def _replaced(source: str, change: Mutant) -> str:
    """The text with the one line that is meant replaced, and its indentation kept."""
    lines = source.splitlines()
    places = [k for k, line in enumerate(lines) if line.strip() == change.line]
    if len(places) != 1:
        raise ValueError(f"the line of {change.id} must occur once, found {len(places)} times: {change.line}")
    [k] = places
    indent = lines[k][: len(lines[k]) - len(lines[k].lstrip())]
    lines[k] = textwrap.indent(change.wrong, indent)
    return "\n".join(lines) + "\n"

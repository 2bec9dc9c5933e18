"""Writes docs/formulas.md: python docs/formulas.py. Sources are read from the docstrings of the functions."""

import importlib
import re
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

from dfm_ref.checkpoints import write

HERE = Path(__file__).parent


class Row(NamedTuple):
    """A law, the functions that have it, with the module below dfm_ref, and the tests of it, with the file."""

    id: str
    law: str
    functions: str
    tests: str


class Item(NamedTuple):
    """A formula of the tutorial, rightly; the verdict on its print; functions and tests as above."""

    id: str
    law: str
    verdict: str
    functions: str
    tests: str


SECTIONS = {
    "1.1": "1 Paths and velocities",
    "2.1": "2 Two components",
    "3.1": "3 Posteriors",
    "4.1": "4 Losses and likelihoods",
    "5.1": "5 Samplers",
    "5a": "5a The finite step",
    "6.1": "6 Kinetic-optimal and metric paths",
    "7.1": "7 Guidance and shaping",
    "8.1": "8 Continuous flows",
}

FORMULAS = (
    Row(
        "1.1",
        "p_t(x|x_0, x_1) = prod_i sum_j κ_t^{i,j} w^j(x^i|x_0, x_1) with κ ≥ 0, sum_j κ^{i,j} = 1; all weight on x_0 "
        "at t = 0 and on x_1 at t = 1, so that p_0 = p and p_1 = q",
        "paths.pmf paths.Mixture schedules.Convex verify.oracle.marginal",
        "test_paths::test_the_law_given_a_pair_is_the_oracle_s test_paths::test_what_is_no_path_raises "
        "test_oracle::test_p_0_and_p_1_are_the_marginals_of_the_coupling",
    ),
    Row(
        "1.2",
        "dp_t(x|pair)/dt = sum_i [sum_j κ̇^{i,j} w^j(x^i)] prod_{l≠i} p_t(x^l)",
        "verify.oracle.marginal_dot",
        "test_oracle::test_marginal_dot_is_the_derivative_of_the_marginal "
        "test_oracle::test_product_is_the_law_of_independent_tokens_and_product_dot_its_derivative",
    ),
    Row(
        "1.3",
        "b = min_j κ̇^j/κ^j, reached at l; a^j = κ̇^j - κ^j b ≥ 0; the velocity of one pair, sum_j a^j w^j + b δ_z, "
        "closes (sum_j a^j + b = 0) and generates the path of the pair",
        "velocities.conditional events.intensity events.redraw_rates events.fastest",
        "test_symbolic::test_the_rates_close_and_that_of_the_fastest_component_is_0 "
        "test_symbolic::test_the_rates_have_their_signs "
        "test_symbolic::test_the_velocity_solves_the_forward_equation "
        "test_oracle::test_the_conditional_velocity_generates_the_path_of_its_pair "
        "test_velocities::test_given_a_pair_the_velocity_is_conditional_and_times_may_differ_by_row",
    ),
    Row(
        "1.4",
        "a^l = 0 exactly, in floating point too",
        "events.redraw_rates",
        "test_events::test_the_fastest_component_is_never_redrawn_not_even_by_rounding",
    ),
    Row(
        "1.4",
        "any r ≤ b in place of b gives another velocity of the same path, a^j = κ̇^j - κ^j r; b is the largest",
        "velocities.resampling",
        "test_velocities::test_any_ratio_below_the_least_generates_the_path_and_the_least_is_forward "
        "test_symbolic::test_any_ratio_solves_the_forward_equation_and_any_lower_one_has_valid_rates",
    ),
    Row(
        "1.5",
        "p_t(x_0, x_1|z) = p_t(z|x_0, x_1) π(x_0, x_1)/p_t(z), and ŵ^j(x^i, z) the mean of w^j over it",
        "verify.oracle.pair_posterior verify.oracle.posteriors",
        "test_oracle::test_posteriors_are_pmfs_that_average_back_to_the_pair "
        "test_oracle::test_unreachable_states_keep_their_tokens",
    ),
    Row(
        "1.5",
        "u^i(x^i, z) = sum_j a^{i,j} ŵ^j(x^i, z) + b^i δ_z(x^i), the mean of the velocities of the pairs given z, "
        "solves dp/dt = Q p",
        "velocities.forward",
        "test_velocities::test_the_marginal_velocity_is_the_oracle_s_and_solves_the_kolmogorov_equation "
        "test_velocities::test_the_marginal_velocity_is_the_mean_of_the_conditional_ones "
        "test_oracle::test_the_marginal_velocity_generates_the_path",
    ),
    Row(
        "1.6",
        "with argmax in place of argmin: a^j ≤ 0 ≤ b, off-diagonal entries ≤ 0, dp/dt = Q p still, and -u is the "
        "rate of the process from 1 to 0",
        "velocities.backward events.backward_intensity events.backward_rates",
        "test_velocities::test_the_backward_velocity_is_the_oracle_s_and_generates_the_path "
        "test_symbolic::test_the_backward_velocity_does_so_too "
        "test_events::test_backward_rates_are_the_oracle_s_with_the_derivative_reversed",
    ),
    Row(
        "1.7",
        "κ^j = 0 < κ̇^j: never the argmin, a^j = κ̇^j; κ^j = κ̇^j = 0: no say, a^j = 0; κ^j = 0 > κ̇^j: b = -∞",
        "events.redraw_rates events.intensity",
        "test_oracle::test_zeros_of_kappa "
        "test_events::test_components_that_never_have_weight_have_no_say "
        "test_events::test_the_intensity_is_infinite_where_a_component_vanishes_while_it_decreases",
    ),
    Row(
        "1.7",
        "where a weight touches 0 inside (0, 1), dp/dt = Q p holds before, at and after that time",
        "verify.oracle.coefficients",
        "test_oracle::test_kolmogorov_holds_where_a_component_touches_zero_inside",
    ),
    Row(
        "1.8",
        "tied components all have a = 0, and u does not depend on which of them is l",
        "verify.oracle.coefficients",
        "test_oracle::test_a_tie_gives_both_components_a_zero_and_the_lowest_index "
        "test_oracle::test_the_order_of_the_components_does_not_matter",
    ),
    Row(
        "1.9",
        "with a schedule of its own for each token, 1.3 holds token by token",
        "schedules.PerToken velocities.forward",
        "test_velocities::test_the_marginal_velocity_is_the_oracle_s_and_solves_the_kolmogorov_equation "
        "test_velocities::test_one_array_is_the_posterior_of_the_data "
        "test_schedules::test_each_token_has_the_schedule_of_its_own",
    ),
    Row(
        "2.1",
        "w = (δ_{x_0}, δ_{x_1}), κ of x_1 increasing: u = κ̇/(1-κ) [p_{1|t} - δ_z] for t < 1",
        "velocities.forward",
        "test_oracle::test_two_components_move_at_kdot_over_one_minus_kappa_and_back_at_kdot_over_kappa "
        "test_velocities::test_one_array_is_the_posterior_of_the_data",
    ),
    Row(
        "2.2",
        "backward: κ̇/κ [δ_z - p_{0|t}] for t > 0; the law p of the source in place of p_{0|t} is right for an "
        "independent coupling alone",
        "velocities.backward",
        "test_oracle::test_two_components_move_at_kdot_over_one_minus_kappa_and_back_at_kdot_over_kappa "
        "test_oracle::test_the_source_in_place_of_the_noise_posterior_goes_back_for_an_independent_coupling_alone",
    ),
    Row(
        "2.3",
        "independent factorised source, c = z^i, q = p_{1|t}(c|z): "
        "p_{0|t} = (1-q) δ_c + q p [(1-κ) δ_c + κ]/[(1-κ) p(c) + κ]",
        "velocities.noise_posterior",
        "test_velocities::test_noise_prediction_is_free_with_an_independent_source_and_wrong_with_a_correlated_one "
        "test_velocities::test_noise_prediction_does_not_hold_for_a_correlated_coupling",
    ),
    Row(
        "2.4",
        "α u_fwd - β u_bwd with α, β ≥ 0 generates the path if α - β = 1 and leaves p_t if α = β; α, β may depend on "
        "time and token, never on the state",
        "velocities.corrected",
        "test_velocities::test_corrected_velocities_generate_the_path_with_strengths_of_time_and_token "
        "test_velocities::test_a_strength_that_depends_on_the_state_breaks_the_path "
        "test_oracle::test_backward_velocities_generate_the_path_too_and_correctors_keep_it",
    ),
    Row(
        "2.4",
        "β = c t^a (1-t)^b with a, b ≥ 1 keeps the rates of a linear schedule's correction bounded at both ends",
        "samplers.Strength",
        "test_samplers::"
        "test_a_strength_of_degree_1_at_both_ends_keeps_the_correction_bounded_and_a_constant_one_does_not",
    ),
    Row(
        "2.5",
        "mask source: p_{0|t} = δ_M; hidden tokens are revealed at κ̇/(1-κ) + η κ/(1-κ) and others hidden again at η, "
        "which is 2.4 with β = η κ/κ̇",
        "remasking.velocity",
        "test_remasking::test_remasking_at_any_rate_solves_the_kolmogorov_equation_without_a_rest "
        "test_remasking::test_the_rate_form_is_the_corrected_velocity_and_the_limit_of_steps "
        "test_oracle::test_the_mask_posterior_does_not_depend_on_time_even_with_a_schedule_per_token",
    ),
    Row(
        "2.6",
        "prompt, x_0 = I x_1 + (1-I) x_0: on it p_t = δ_{x_1}, p_{1|t} = δ_z and u = 0",
        "couplings.prompted",
        "test_couplings::test_no_law_ever_moves_a_prompt test_oracle::test_a_prompt_never_changes",
    ),
    Row(
        "3.1",
        "mask source: p_{1|t}(.|z) is q given the revealed tokens, free of t and of the schedules, δ_z where "
        "revealed; of a uniform source it depends on t",
        "paths.reveal verify.oracle.posteriors",
        "test_oracle::test_the_mask_posterior_does_not_depend_on_time_even_with_a_schedule_per_token "
        "test_oracle::test_the_posterior_of_a_uniform_source_depends_on_time "
        "test_paths::test_a_mask_path_reveals_what_it_knows",
    ),
    Row(
        "3.2",
        "sum_j κ^j ŵ^j(.|z) is not δ_z, and the posterior of one component does not say that of another",
        "verify.oracle.posteriors",
        "test_oracle::test_the_posterior_of_x_1_does_not_say_that_of_x_0_nor_do_both_average_to_the_state",
    ),
    Row(
        "4.1",
        "L = -sum_{j,i} E log ŵ_θ^j(Y^{i,j}|X_t), Y^{i,j} ~ w^j(.|X_0, X_1) independent of X_t given the pair; "
        "L - min L = sum E KL(ŵ || ŵ_θ); a fixed component has nothing to learn",
        "losses.cross_entropy losses.mixture_cross_entropy losses.targets",
        "test_losses::test_the_excess_over_the_least_cross_entropy_is_the_divergence_from_the_posteriors "
        "test_losses::test_targets_have_the_law_of_their_component_given_the_pair_and_a_place_of_their_own "
        "test_losses::test_the_loss_of_components_is_the_sum_of_those_that_are_to_be_learnt",
    ),
    Row(
        "4.2",
        "per unit of t: sum_i sum_{x≠z^i} u log(u/v) - u + v; v where u = 0, +∞ where v = 0 < u",
        "losses.path_kl",
        "test_losses::test_path_kl_is_its_formula test_losses::test_rates_of_0",
    ),
    Row(
        "4.2",
        "-log p_θ(x_1) ≤ KL(π(x_0|x_1) || p(x_0)) + ∫_0^T E[4.2 of the pair's u and the model's v] dt + E[-log of "
        "the last draw], for any coupling and components",
        "likelihoods.bound",
        "test_likelihoods::test_the_bound_of_any_path_and_coupling_lies_above_the_exact_likelihood_of_a_wrong_model "
        "test_likelihoods::test_the_mean_of_bound_is_the_oracle_s_for_correlated_couplings_and_m_components",
    ),
    Row(
        "4.2",
        "the prior term is 0 for an independent coupling; its mean over x_1 is the mutual information I(X_0; X_1)",
        "verify.oracle.prior_divergence",
        "test_oracle::test_divergences",
    ),
    Row(
        "4.3",
        "the mean over pairs of 4.2 exceeds that of the marginal u by what no model changes, so it trains to the "
        "marginal u",
        "losses.path_kl",
        "test_losses::test_the_divergence_from_the_pair_exceeds_that_from_the_marginal_by_what_no_model_changes",
    ),
    Row(
        "4.4",
        "two components: κ̇/(1-κ) ([z = x_1] - p_θ(z) - [z ≠ x_1] log p_θ(x_1)) is the sum of 4.2 over x",
        "losses.generalized_kl",
        "test_losses::test_generalized_kl_is_the_path_kl_summed_over_the_other_tokens "
        "test_losses::test_generalized_kl_is_its_formula",
    ),
    Row(
        "4.5",
        "mask source: κ̇/(1-κ) sum over hidden i of -log p_θ(x_1^i|z)",
        "losses.masked_kl",
        "test_losses::test_masked_kl_is_the_generalized_kl_of_the_revealed_logits",
    ),
    Row(
        "4.5",
        "of a model free of time its integral is, whatever the schedule, the sum over hidden sets S of "
        "(|S|-1)! (N-|S|)!/N! sum_{i in S} -log p_θ(x_1^i | x_1 with S hidden)",
        "likelihoods.any_order_bound",
        "test_losses::test_the_integral_over_a_mask_path_is_the_any_order_bound_and_tight_for_the_exact_posterior "
        "test_likelihoods::test_without_time_law_and_bound_are_those_of_orders_whatever_the_schedule",
    ),
    Row(
        "4.6",
        "without a mask, for a model that is never sure, (1-t) times the integrand tends to a positive number: the "
        "bound diverges as -log(1-T), and T < 1 is needed",
        "likelihoods.bound",
        "test_likelihoods::test_without_a_mask_the_bound_of_a_model_that_is_never_sure_diverges_as_a_logarithm",
    ),
    Row(
        "4.7",
        "mask source: E[number hidden] κ̇/(1-κ) = N κ̇ is integrable; times of density κ̇ take κ̇ out of the integrand, "
        "and stratified ones lessen the variance further",
        "likelihoods.mask_bound times.low_discrepancy",
        "test_likelihoods::test_the_mean_of_mask_bound_is_the_integral "
        "test_likelihoods::test_every_choice_of_times_is_unbiased "
        "test_likelihoods::test_each_reduction_has_less_variance",
    ),
    Row(
        "5.1",
        "Euler: δ_z + h u^i, a PMF if h ≤ 1/|u^i(z^i, z)|, for which h ≤ 1/|b^i| suffices; order 1",
        "transitions.euler samplers.euler_step",
        "test_transitions::test_euler_is_the_oracle_s_kernel_and_a_pmf_up_to_its_bound "
        "test_convergence::test_every_rule_stands_in_the_table_and_the_simple_ones_are_of_order_1",
    ),
    Row(
        "5.2",
        "exponential: stay with e^{-hL}, L = sum_{x≠z} u, else x in proportion to u(x); always a PMF; order 1",
        "transitions.exponential samplers.exponential_step",
        "test_transitions::test_exponential_stays_with_the_chance_of_no_event_at_frozen_rates "
        "test_convergence::test_every_rule_stands_in_the_table_and_the_simple_ones_are_of_order_1",
    ),
    Row(
        "5.3",
        "flow_matching: x_1 ~ p_{1|t}, then 5.2 with c 1{x = x_1} + γ κ̇/(κ(1-κ)) [(1-κ) p(x) + κ 1{x = x_1}], "
        "c = κ̇/(1-κ); its last step returns x_1; order 1",
        "transitions.flow_matching samplers.flow_matching_step",
        "test_transitions::test_flow_matching_is_the_mean_over_x_1_of_exponential_steps "
        "test_samplers::test_flow_matching_s_rule_follows_its_table_and_ends_in_x_1 "
        "test_convergence::test_every_rule_stands_in_the_table_and_the_simple_ones_are_of_order_1",
    ),
    Row(
        "5.4",
        "s δ_z + (1-s) p_{1|t} with s = (1-κ_{t+h})/(1-κ_t): always a PMF, up to t = 1; exact for one masked token, "
        "of order 1 for more, which are drawn in parallel",
        "transitions.finite samplers.finite_step",
        "test_events::test_two_components_stay_with_the_ratio_of_the_complements "
        "test_convergence::test_one_masked_token_is_exact_in_one_step "
        "test_convergence::test_every_rule_stands_in_the_table_and_the_simple_ones_are_of_order_1 "
        "test_oracle::test_masked_steps_are_exact_for_one_token_and_err_in_parallel_for_two",
    ),
    Row(
        "5.5",
        "mask source, n hidden at t: the next is revealed at s with κ_s = 1 - (1-κ_t) U^{1/n}, uniform among them, "
        "from p_{1|s}; exact",
        "exact.first_hitting exact.hitting_time",
        "test_exact::test_the_hitting_time_has_the_law_of_the_least_of_n "
        "test_exact::test_the_frames_follow_the_law_of_the_chain",
    ),
    Row(
        "5.5",
        "a schedule per token: every token has its own time, P(T_i ≤ t) = κ_i(t); with t and t³ token 0 is first "
        "with probability 3/4",
        "exact.sample",
        "test_exact::test_with_schedules_t_and_t_cubed_token_0_is_revealed_first_three_times_in_four "
        "test_likelihoods::test_with_a_schedule_a_token_the_orders_are_not_alike",
    ),
    Row(
        "5.5",
        "final law of a model free of time: p_θ(x) = (1/N!) sum over orders of prod_k p_θ(x^{i_k} | those before), "
        "which is q for the exact posterior",
        "likelihoods.any_order",
        "test_likelihoods::test_without_time_law_and_bound_are_those_of_orders_whatever_the_schedule "
        "test_oracle::test_the_any_order_law_is_the_mean_over_orders_and_q_for_the_posterior",
    ),
    Row(
        "5.5",
        "at t < 1: P(R revealed, with its values) = κ^|R| (1-κ)^{N-|R|} mean over the orders of R; Q_t = c(t) A, "
        "hence P(t → s) = exp(A log((1-κ_t)/(1-κ_s)))",
        "exact.first_hitting",
        "test_oracle::test_a_mask_chain_free_of_time_is_one_matrix_and_reveals_sets_by_kappa_and_in_any_order "
        "test_exact::test_the_frames_follow_the_law_of_the_chain",
    ),
    Row(
        "5.6",
        "thinning: candidates at a rate M ≥ the total rate Λ, kept with Λ/M, then (i, x) in proportion to u^i(x, z)",
        "kinetic.thinning",
        "test_kinetic::test_thinning_follows_the_process_of_any_model_at_every_time "
        "test_kinetic::test_the_rate_bound_is_the_largest_rate_at_which_a_token_leaves",
    ),
    Row(
        "5.6",
        "uniformization: Poisson many candidates at sorted uniform times of the clock -log(1-κ), in which every "
        "token has rate 1; each draws from I + Q/M",
        "exact.uniformization",
        "test_exact::test_the_frames_follow_the_law_of_the_chain",
    ),
    Row(
        "5.7",
        "θ-trapezoid: 5.2 for θh to y, then 5.2 for (1-θ)h at [a_1 u_{t+θh}(., y) - a_2 u_t(., x)]_+, a_1 = "
        "1/(2θ(1-θ)), a_2 = ((1-θ)² + θ²)/(2θ(1-θ)), each u counted 0 at its own state",
        "transitions.trapezoid_rates samplers.trapezoidal_step",
        "test_transitions::test_the_second_stage_of_the_trapezoid_clamps_and_counts_each_diagonal_as_0 "
        "test_samplers::test_one_step_of_every_rule_from_every_state_follows_its_tables",
    ),
    Row(
        "5.7",
        "order 2 without the clamp, or where it does nothing; with it the order decays to 1; a diagonal read as a "
        "rate, or Euler stages, give order 1",
        "transitions.trapezoid_rates",
        "test_convergence::test_signed_rates_are_of_order_2_on_any_path "
        "test_convergence::test_the_trapezoid_is_of_order_2_where_the_clamp_does_nothing "
        "test_convergence::test_the_trapezoid_is_below_euler_and_loses_its_second_order_to_the_clamp "
        "test_convergence::test_a_diagonal_taken_for_a_rate_back_or_linear_stages_are_of_order_1",
    ),
    Row(
        "5.8",
        "predictor to t+h, then steps of u_fwd - u_bwd at t+h, each of which moves p_t by O(η²); order 1",
        "samplers.predictor_corrector_step samplers.corrector_step",
        "test_samplers::test_predictor_and_correctors_are_a_finite_step_and_corrector_steps "
        "test_convergence::test_an_euler_corrector_moves_p_t_by_the_square_of_its_step "
        "test_convergence::test_every_rule_stands_in_the_table_and_the_simple_ones_are_of_order_1",
    ),
    Row(
        "5.8",
        "with a wrong model it does not tend to the law of the model's chain",
        "samplers.predictor_corrector_step",
        "test_convergence::test_with_a_wrong_model_the_corrector_stalls_and_the_finite_step_does_not",
    ),
    Row(
        "5.9",
        "h ≤ min_i 1/|b^i|, with a corrector h ≤ 1/(α κ̇/(1-κ) + β κ̇/κ); tight: h ≤ min_i 1/|u^i(z^i, z)|",
        "events.step_bound transitions.step_bound samplers.bounded_times",
        "test_events::test_the_step_bound_is_one_over_the_intensity "
        "test_transitions::test_a_corrected_euler_step_is_a_pmf_up_to_the_bound_of_both_clocks "
        "test_transitions::test_euler_is_the_oracle_s_kernel_and_a_pmf_up_to_its_bound "
        "test_samplers::test_bounded_times_keep_euler_s_rule_a_pmf_and_events_rarer_than_the_share",
    ),
    Row(
        "5a",
        "stay = min_j κ_s^j/κ_t^j, c^j = κ_s^j - stay κ_t^j ≥ 0, stay + sum_j c^j = 1: stay δ_z + sum_j c^j w^j is a "
        "PMF for every t < s ≤ 1 and carries p_t(.|pair) to p_s(.|pair)",
        "transitions.finite events.stay events.redraw_weights",
        "test_symbolic::test_the_finite_step_carries_the_law_of_t_to_that_of_s "
        "test_symbolic::test_stay_is_a_probability_and_the_weights_are_not_negative "
        "test_oracle::test_the_finite_step_carries_the_law_of_every_pair "
        "test_oracle::test_the_finite_step_to_one_ends_at_x_1 "
        "test_transitions::test_finite_is_the_oracle_s_kernel",
    ),
    Row(
        "5a",
        "(K_{t→s} - I)/(s-t) tends to the velocity of 1.3",
        "transitions.finite",
        "test_symbolic::test_the_finite_step_tends_to_the_velocity "
        "test_oracle::test_the_derivative_of_the_finite_step_is_the_velocity",
    ),
    Row(
        "5a",
        "event form: a redraw has probability 1 - stay whatever the state and the model, so events are drawn first "
        "and logits are needed there alone",
        "samplers.finite_step",
        "test_samplers::test_a_lazy_model_gives_the_same_tokens_and_is_asked_only_where_there_is_an_event "
        "test_samplers::test_one_step_from_every_state_follows_the_oracle_s_kernel",
    ),
    Row(
        "5a",
        "in continuous time the events of a token are Poisson of intensity -b: drawn first they simulate the chain "
        "exactly, with at most N model calls for a mask source",
        "exact.sample",
        "test_exact::test_the_frames_follow_the_law_of_the_chain "
        "test_exact::test_a_mask_path_is_revealed_when_the_grid_says_so_with_at_most_n_calls",
    ),
    Row(
        "5a",
        "exp(∫_t^s b) is stay while l is constant, and its product over the intervals of constant l otherwise; stay "
        "alone does not multiply across a switch",
        "events.survival",
        "test_events::test_survival_is_the_integral_of_the_intensity_across_a_switch "
        "test_events::test_survival_is_multiplicative_and_stay_where_nothing_switches "
        "test_symbolic::test_stay_is_the_survival_of_the_events_while_one_component_decays_fastest",
    ),
    Row(
        "6.1",
        "any path p_t > 0 of one token: u(x, z) = [p(z) ṗ(x) - ṗ(z) p(x)]_+/p(z), x ≠ z, generates it",
        "kinetic.optimal",
        "test_kinetic::test_the_optimal_velocity_generates_any_path_and_moves_one_way_between_two_tokens "
        "test_kinetic::test_averaged_over_correlated_data_it_solves_the_kolmogorov_equation_without_a_rest",
    ),
    Row(
        "6.2",
        "p_t(x|x_1) = softmax(-β_t d(x, x_1)): u = p_t(x|x_1) β̇_t [d(z, x_1) - d(x, x_1)]_+, which is 6.1; averaged "
        "over p_{1|t} it solves dp/dt = Q p; uniform where β = 0, δ_{x_1} as β → ∞",
        "kinetic.conditional_velocity kinetic.velocity kinetic.pmf",
        "test_kinetic::test_the_conditional_velocity_is_the_formula_and_the_optimal_one "
        "test_kinetic::test_the_marginal_velocity_is_the_mean_and_solves_the_kolmogorov_equation "
        "test_kinetic::test_the_path_begins_uniform_and_ends_at_the_data",
    ),
    Row(
        "6.3",
        "for κ δ_{x_1} + (1-κ) p_0 6.1 is κ̇/(1-κ) 1{x = x_1}",
        "kinetic.optimal",
        "test_kinetic::test_on_a_mixture_path_it_is_that_of_the_mixture",
    ),
    Row(
        "7.1",
        "rates: u_c^g u_u^{1-g}, x ≠ z, diagonal minus the rest; p_u = 0 < p_c with g > 1 is an error, both 0 give 0",
        "guidance.of_rates",
        "test_guidance::test_guided_rates_are_the_geometric_mean_of_two_and_conserve "
        "test_guidance::test_a_rate_that_is_zero_in_one_of_two",
    ),
    Row(
        "7.1",
        "posteriors: p_g ∝ p_c^g p_u^{1-g}, the clock unchanged",
        "guidance.of_posteriors",
        "test_guidance::test_guided_posteriors_are_those_of_exact_arithmetic",
    ),
    Row(
        "7.1",
        "they differ by the factor Z = sum_x p_c^g p_u^{1-g} on the clock: a hidden token is revealed by t with "
        "probability 1 - (1-κ)^Z, or κ",
        "guidance.of_rates guidance.of_posteriors",
        "test_guidance::test_the_two_spaces_differ_by_the_factor_z_on_the_clock "
        "test_guidance::test_rate_space_reveals_by_1_minus_1_minus_kappa_to_the_z_and_posterior_space_by_kappa",
    ),
    Row(
        "7.2",
        "softmax(logits/τ); the velocity no longer generates p_t",
        "guidance.temper",
        "test_guidance::test_temperature_is_a_power_of_the_probabilities "
        "test_guidance::test_what_shaping_gives_up_and_what_it_keeps",
    ),
    Row(
        "8.1",
        "x = f(z): q'(x) = q(z) |det df/dz|^{-1} at z = f^{-1}(x); ln q_K = ln q_0 - sum_k ln|det df_k/dz_{k-1}|",
        "continuous.flows.log_prob continuous.flows.pushforward",
        "test_continuous_flows::test_a_density_has_mass_1_and_the_mean_of_the_law "
        "test_continuous_flows::test_the_two_ways_to_the_log_density_agree "
        "test_continuous_coupling::test_the_determinant_is_that_of_the_jacobian "
        "test_continuous_coupling::test_the_density_of_a_smooth_model_has_mass_1",
    ),
    Row(
        "8.2",
        "planar: f = z + u tanh(w.z + b), det = 1 + w.u (1 - tanh²), invertible where w.u > -1; "
        "û = u + (m(w.u) - w.u) w/|w|², m(a) = log(1 + e^a) - 1",
        "continuous.planar.planar",
        "test_continuous_planar::test_f_is_its_formula_in_50_digits "
        "test_continuous_planar::test_a_planar_flow_beyond_its_constraint_folds_and_raises "
        "test_continuous_planar::test_free_parameters_are_held_to_the_constraint",
    ),
    Row(
        "8.3",
        "radial: f = z + β h (z - z_0), h = 1/(α + r), det = (1 + β h)^{D-1} (1 + β h + β h' r), "
        "invertible where β ≥ -α",
        "continuous.planar.radial",
        "test_continuous_planar::test_f_is_its_formula_in_50_digits "
        "test_continuous_planar::test_at_its_bound_a_radial_flow_is_singular_at_its_centre_alone "
        "test_continuous_planar::test_free_parameters_are_held_to_the_constraint",
    ),
    Row(
        "8.4",
        "E_{q_K}[h] = E_{q_0}[h(f(z))] for every measurable f",
        "continuous.flows.expectation",
        "test_continuous_flows::test_the_expectation_needs_no_invertible_map "
        "test_continuous_flows::test_a_density_has_mass_1_and_the_mean_of_the_law",
    ),
    Row(
        "8.5",
        "log p(x) = log p_z(f^{-1}(x)) + log|det df^{-1}/dx|, whose mean over data is maximised",
        "continuous.flows.log_prob continuous.maximum_likelihood.gradients",
        "test_continuous_training::test_the_gradient_of_maximum_likelihood_is_that_of_its_loss "
        "test_continuous_training::test_the_gradient_vanishes_at_the_maximum_which_for_normal_data_is_known",
    ),
    Row(
        "8.6",
        "d log p_t(x_t)/dt = -div v_t(x_t); log p_1(x_1) = log p_0(x_0) - ∫ div v dt; e.J e estimates div v "
        "without bias, with variance 2 |S|² for normal e and 2 (|S|² - sum_i S_ii²) for signs, S = (J + J^T)/2",
        "continuous.cnf.transport continuous.cnf.log_prob continuous.cnf.pushforward continuous.cnf.hutchinson",
        "test_continuous_cnf::test_a_linear_flow_is_the_exponential_of_its_matrix "
        "test_continuous_cnf::test_the_marginal_velocity_carries_noise_to_the_exact_density "
        "test_continuous_cnf::test_log_det_is_that_of_the_jacobian_of_the_flow_map "
        "test_continuous_cnf::test_mass_is_one "
        "test_continuous_cnf::test_hutchinson_is_unbiased_and_has_the_stated_variance",
    ),
    Row(
        "8.7",
        "ψ_t(x_0) = σ_t x_0 + μ_t x_1: u_t(x|x_1) = (σ̇/σ)(x - μ x_1) + μ̇ x_1 solves the continuity equation; optimal "
        "transport, variance preserving and exploding, cosine",
        "continuous.gaussian_paths.interpolate continuous.gaussian_paths.interpolate_dot "
        "continuous.gaussian_paths.conditional_velocity",
        "test_continuous_gaussian_paths::test_interpolation_is_the_flow_and_its_rate_the_conditional_velocity "
        "test_continuous_gaussian_paths::test_optimal_transport_by_its_own_formula "
        "test_continuous_gaussian_paths::test_variance_preserving_by_its_own_formula "
        "test_continuous_gaussian_paths::test_cosine_and_exploding_by_their_own_formulas",
    ),
    Row(
        "8.8",
        "finite data: u_t(x) = sum_k r_k u_t(x|x_1k), r = softmax_k(log q_k + log N(x; μ x_1k, σ² I))",
        "continuous.gaussian_paths.marginal_velocity continuous.gaussian_paths.denoiser",
        "test_continuous_gaussian_paths::test_the_marginal_velocity_solves_the_continuity_equation "
        "test_continuous_gaussian_paths::test_the_denoiser_is_the_posterior_mean "
        "test_continuous_gaussian_paths::test_posteriors_are_exact_however_far_the_point",
    ),
    Row(
        "8.9",
        "L_FM and L_CFM have one gradient, and differ by a number without θ",
        "continuous.matching.marginal_loss continuous.matching.conditional_loss",
        "test_continuous_matching::test_both_losses_have_one_gradient_and_differ_by_what_no_theta_changes",
    ),
    Row(
        "8.10",
        "L_CFM = E |v_t(ψ_t(x_0)) - (σ̇ x_0 + μ̇ x_1)|²",
        "continuous.matching.conditional_loss continuous.matching.gradients",
        "test_continuous_matching::test_the_loss_of_the_right_velocity_is_nothing_or_the_variance_that_is_left "
        "test_continuous_matching::test_the_step_s_gradient_is_unbiased",
    ),
)

ARTICLE = {
    "1": "Normalizing flows",
    "4": "Flow generative models",
    "6": "Flow matching",
    "18": "Discrete flow matching",
}

ITEMS = (
    Item(
        "1",
        "q'(z') = q(z) |det df/dz|^{-1} at z = f^{-1}(z')",
        "Ambiguous: one letter q stands for two densities.",
        "continuous.flows.pushforward continuous.flows.log_prob continuous.planar.planar continuous.planar.radial",
        "test_continuous_flows::test_the_determinant_is_that_of_the_jacobian "
        "test_continuous_flows::test_a_density_has_mass_1_and_the_mean_of_the_law "
        "test_continuous_errata::test_e1_with_one_letter_for_two_densities_the_law_does_not_move",
    ),
    Item(
        "2",
        "ln q_K(z_K) = ln q_0(z_0) - sum_k ln|det df_k/dz_{k-1}|",
        "Right, for bijections.",
        "continuous.flows.log_prob continuous.flows.pushforward",
        "test_continuous_flows::test_a_composition_is_its_maps_one_after_the_other "
        "test_continuous_flows::test_a_density_has_mass_1_and_the_mean_of_the_law",
    ),
    Item(
        "3",
        "E_{q_K}[h] = E_{q_0}[h(f_K ∘ ... ∘ f_1(z_0))]",
        "Right, and for any measurable map; the accurate choice of maps that the text asks for is not needed.",
        "continuous.flows.expectation",
        "test_continuous_flows::test_the_expectation_needs_no_invertible_map "
        "test_continuous_errata::test_e3_the_expectation_needs_no_accurate_choice_of_maps",
    ),
    Item(
        "4",
        "L(θ) = E_{p_data} log p_x(x; θ), to be maximised",
        "Ambiguous: p_x is the unknown law and the model. The text calls it a penalty; it is a reward.",
        "continuous.maximum_likelihood.gradients",
        "test_continuous_training::test_the_gradient_vanishes_at_the_maximum_which_for_normal_data_is_known "
        "test_continuous_training::test_training_reaches_the_maximum",
    ),
    Item(
        "5",
        "L = E[log p_z(f^{-1}(x)) + log|det df^{-1}/dx|]",
        "Right; the base has the name q_z in the text and p_z in the formula.",
        "continuous.flows.log_prob continuous.maximum_likelihood.gradients",
        "test_continuous_flows::test_the_two_ways_to_the_log_density_agree "
        "test_continuous_training::test_the_gradient_of_maximum_likelihood_is_that_of_its_loss",
    ),
    Item(
        "6",
        "dφ_t(x)/dt = v_t(φ_t(x)), φ_0(x) = x",
        "Wrong in a subscript: the start is printed with the letter o, so that no condition at t = 0 is left and the "
        "flow is not determined.",
        "continuous.cnf.transport",
        "test_continuous_errata::test_e6_without_its_start_an_equation_has_many_flows_and_with_it_one "
        "test_continuous_cnf::test_a_linear_flow_is_the_exponential_of_its_matrix",
    ),
    Item(
        "7",
        "p_t = [φ_t]_* p_0",
        "Right; the text calls p_t the target, which is p_1.",
        "continuous.cnf.pushforward",
        "test_continuous_cnf::test_the_marginal_velocity_carries_noise_to_the_exact_density",
    ),
    Item(
        "8",
        "[φ_t]_* p_0(x) = p_0(φ_t^{-1}(x)) |det dφ_t^{-1}/dx|",
        "Ambiguous: printed without bars, which is right for flows of an ODE, whose determinant is exp(-∫ div v) > "
        "0; for a general bijection a density may turn negative, as for f = -2z, of total mass -1.",
        "continuous.flows.log_prob continuous.cnf.log_prob",
        "test_continuous_errata::test_e8_without_bars_a_reflection_has_total_mass_minus_one "
        "test_continuous_cnf::test_log_det_is_that_of_the_jacobian_of_the_flow_map",
    ),
    Item(
        "9",
        "L_FM = E_{t, p_t} ||v_t(x; θ) - u_t(x)||²",
        "Right.",
        "continuous.matching.marginal_loss",
        "test_continuous_matching::test_losses_and_gradients_against_autodiff "
        "test_continuous_matching::test_the_loss_of_the_right_velocity_is_nothing_or_the_variance_that_is_left",
    ),
    Item(
        "10",
        "p_t(x) = ∫ p_t(x|x_1) q(x_1) dx_1",
        "Right; exact for the given q, and approximate only if sampled.",
        "continuous.gaussian_paths.marginal_log_density",
        "test_continuous_gaussian_paths::test_the_marginal_density_is_the_mean_of_the_conditional_ones",
    ),
    Item(
        "11",
        "u_t(x) = ∫ u_t(x|x_1) p_t(x_1|x) dx_1, where p_t(x) > 0",
        "Wrong in its second form, which ends in dx: the weights no longer integrate to 1, and x is integrated out.",
        "continuous.gaussian_paths.marginal_velocity",
        "test_continuous_gaussian_paths::test_e11_the_weights_sum_to_one_over_the_data_and_not_over_x "
        "test_continuous_gaussian_paths::test_the_marginal_velocity_is_the_mean_of_the_conditional_ones "
        "test_continuous_gaussian_paths::test_the_marginal_velocity_solves_the_continuity_equation",
    ),
    Item(
        "12",
        "L_CFM = E ||v_t(x) - u_t(x|x_1)||²",
        "Right, and more than the same optima: the gradients are equal.",
        "continuous.matching.conditional_loss continuous.matching.marginal_loss",
        "test_continuous_matching::test_both_losses_have_one_gradient_and_differ_by_what_no_theta_changes",
    ),
    Item(
        "13",
        "μ: [0,1] × R^D → R^D, σ: [0,1] × R^D → R_{>0}; μ_0 = 0, σ_0 = 1, μ_1 = x_1, σ_1 = σ_min",
        "Wrong in the domain of σ, printed as [0,1] × R: it cannot take a point x_1 of R^D.",
        "continuous.gaussian_paths.conditional_log_density",
        "test_continuous_gaussian_paths::"
        "test_e13_sigma_takes_a_point_of_any_dimension_and_the_path_goes_from_noise_to_data",
    ),
    Item(
        "14",
        "p_t(x|x_1) = N(μ_t(x_1), σ_t(x_1)² I)",
        "Right.",
        "continuous.gaussian_paths.conditional_log_density",
        "test_continuous_gaussian_paths::test_variance_preserving_by_its_own_formula",
    ),
    Item(
        "15",
        "ψ_t(x_0) = σ_t(x_1) x_0 + μ_t(x_1) with x_0 ~ N(0, I) has the law p_t(.|x_1)",
        "Wrong in its sentence, which feeds it x ~ p_t(.|x_1): the mean becomes (1+σ) μ and the variance σ⁴, not "
        "those of p_t. The formula is right.",
        "continuous.gaussian_paths.conditional_log_density",
        "test_continuous_gaussian_paths::test_e15_psi_carries_noise_to_p_t_and_not_p_t_to_itself",
    ),
    Item(
        "16",
        "u_t(x|x_1) = (σ̇/σ)(x - μ) + μ̇, so that dψ_t/dt = u_t(ψ_t|x_1)",
        "Right; where the text writes μ and σ of x, they are of x_1.",
        "continuous.gaussian_paths.conditional_velocity",
        "test_continuous_gaussian_paths::test_the_conditional_velocity_is_that_of_the_flow_from_noise "
        "test_continuous_gaussian_paths::test_optimal_transport_by_its_own_formula",
    ),
    Item(
        "17",
        "L_CFM = E ||v_t(ψ_t(x_0)) - dψ_t(x_0)/dt||², x_0 ~ p",
        "Right.",
        "continuous.matching.conditional_loss",
        "test_continuous_matching::test_losses_and_gradients_against_autodiff "
        "test_continuous_matching::test_the_step_s_gradient_is_unbiased",
    ),
    Item(
        "18",
        "x = (x^1, ..., x^N) in [d]^N",
        "Right; d is the size of the vocabulary, not that of an element, as the text has it.",
        "verify.oracle.states",
        "test_oracle::test_states_are_in_the_order_of_itertools_with_the_last_token_fastest",
    ),
    Item(
        "19",
        "δ_y(x) = prod_i δ_{y^i}(x^i)",
        "Right.",
        "verify.oracle.delta verify.oracle.product",
        "test_oracle::test_the_point_mass_of_a_state_is_the_product_of_those_of_its_tokens",
    ),
    Item(
        "20",
        "X_0 ~ p, X_1 ~ q",
        "Wrong: X_0 is drawn from q, too. The path then starts from the data's law, and p_0 is not p.",
        "couplings.independent",
        "test_errata::test_e20_the_source_is_drawn_from_p_and_not_from_q",
    ),
    Item(
        "20",
        "π(x, y) is the law of (X_0 = x, X_1 = y), of which p and q are the marginals",
        "Wrong: printed as three things, (X_0 = x, X_1, y). With the arguments the other way round p_0 = q and p_1 = "
        "p.",
        "couplings.given",
        "test_errata::test_e20_second_a_pair_is_x_0_then_x_1",
    ),
    Item(
        "21",
        "p_t(x) = sum over pairs of p_t(x|x_0, x_1) π(x_0, x_1), and p_t(x|x_0, x_1) = prod_i p_t(x^i|x_0, x_1)",
        "Ambiguous: the product holds given the pair, as a choice of the model and not as the most general case, and "
        "p_t itself has none. Left out: p_0(.|pair) = δ_{x_0} and p_1(.|pair) = δ_{x_1}, without which p_1 is not q.",
        "paths.pmf paths.Mixture verify.oracle.marginal",
        "test_oracle::test_p_t_is_a_law_and_its_pairs_are_products "
        "test_oracle::test_p_0_and_p_1_are_the_marginals_of_the_coupling "
        "test_paths::test_what_is_no_path_raises",
    ),
    Item(
        "22",
        "κ^{i,j} ≥ 0, sum_j κ^{i,j} = 1",
        "Wrong: printed with κ ≤ 0. No such weights sum to 1, and a negative one makes p_t negative.",
        "schedules.Convex",
        "test_errata::test_e22_weights_below_zero_cannot_sum_to_one test_errata::test_e22_weights_are_not_negative",
    ),
    Item(
        "23",
        "p_t(x^i|x_0, x_1) = sum_j κ_t^{i,j} w^j(x^i|x_0, x_1)",
        "Right, for PMFs w^j.",
        "paths.pmf",
        "test_paths::test_the_law_given_a_pair_is_the_oracle_s",
    ),
    Item(
        "24",
        "X_{t+h}^i is drawn from δ_{X_t^i} + h u^i(., X_t), up to o(h), the tokens independently given X_t",
        "Wrong: the whole state X_{t+h} stands on the left, beside the law of one token. Read so, one token's row "
        "alone moves the state, and dp/dt = Q p fails.",
        "transitions.euler samplers.euler_step",
        "test_errata::test_e24_every_token_draws_from_its_own_row_and_only_up_to_o_of_h",
    ),
    Item(
        "25",
        "sum_{x^i} u^i(x^i, z) = 0 and u^i(x^i, z) ≥ 0 for x^i ≠ z^i",
        "Wrong: the sign is asked for at x^i = z^i, too. With the sum 0 this leaves u = 0, and dp/dt = 0.",
        "velocities.forward",
        "test_errata::test_e25_only_rates_to_another_token_are_not_negative",
    ),
    Item(
        "26",
        "u^i(x^i, z) = sum over pairs of u^i(x^i, z|x_0, x_1) p_t(x_0, x_1|z), by Bayes' rule",
        "Right where p_t(z) > 0, and undefined elsewhere.",
        "velocities.forward verify.oracle.pair_posterior",
        "test_velocities::test_the_marginal_velocity_is_the_mean_of_the_conditional_ones "
        "test_oracle::test_unreachable_states_keep_their_tokens",
    ),
    Item(
        "27",
        "a^{i,j} = κ̇^{i,j} - κ^{i,j} κ̇^{i,l}/κ^{i,l}",
        "Wrong: divided by κ^{i,j}, which leaves κ̇^j - κ̇^l. Then sum_j a^j + b = κ̇^l (1/κ^l - m): columns do not sum "
        "to 0 and dp/dt = Q p fails. Right by accident for linear κ, m = 2, at t = 1/2.",
        "events.redraw_rates",
        "test_errata::test_e27_a_is_divided_by_the_weight_of_ell "
        "test_errata::test_e27_the_printed_form_is_right_by_accident_for_linear_kappa_at_one_half "
        "test_symbolic::test_dividing_by_the_weight_of_each_component_itself_conserves_nothing",
    ),
    Item(
        "28",
        "b^i = κ̇^{i,l}/κ^{i,l}, l = argmin_j κ̇^{i,j}/κ^{i,j}",
        "Right; l is the component that decays fastest, not the dominant one, and b ≤ 0 is minus the rate of events. "
        "Components with κ = κ̇ = 0 have no say.",
        "events.intensity events.fastest",
        "test_events::test_the_fastest_component_is_the_oracle_s "
        "test_events::test_intensity_and_rates_are_the_oracle_s_and_close "
        "test_events::test_components_that_never_have_weight_have_no_say",
    ),
    Item(
        "29",
        "u^i(x^i, z) = sum_j a^{i,j} ŵ^j(x^i, z) + b^i δ_{z^i}(x^i)",
        "Wrong: printed with ŵ^j(x^i|x_0, x_1). That is the velocity of one pair, which generates the path of the "
        "pair and not p_t.",
        "velocities.forward",
        "test_errata::test_e29_the_velocity_averages_the_components_over_the_pairs_given_z",
    ),
    Item(
        "30",
        "ŵ^j(x^i, z) = sum over pairs of w^j(x^i|x_0, x_1) p_t(x_0, x_1|z)",
        "Right.",
        "verify.oracle.posteriors",
        "test_oracle::test_posteriors_are_pmfs_that_average_back_to_the_pair",
    ),
    Item(
        "31",
        "L = -sum_{i,j} E log ŵ_θ^j(Y^{i,j}|X_t), Y^{i,j} ~ w^j(.|X_0, X_1)",
        "Ambiguous: one object has three names. Y has no time, and is independent of X_t given the pair; tied to X_t "
        "it would move the minimiser.",
        "losses.mixture_cross_entropy losses.targets",
        "test_errata::test_e31_a_target_tied_to_x_t_moves_the_minimiser "
        "test_losses::test_the_excess_over_the_least_cross_entropy_is_the_divergence_from_the_posteriors "
        "test_losses::test_targets_have_the_law_of_their_component_given_the_pair_and_a_place_of_their_own",
    ),
    Item(
        "32",
        "the chain with rates u generates x_1",
        "Prose: u does not improve the results, it is the sampler; that the path follows from the posteriors is an "
        "identity and no accuracy; and w^j are PMFs chosen by the designer, not a truth about the data.",
        "exact.sample velocities.forward",
        "test_exact::test_the_frames_follow_the_law_of_the_chain "
        "test_velocities::test_the_marginal_velocity_is_the_oracle_s_and_solves_the_kolmogorov_equation",
    ),
)

TEXT = """# Formulas: where each one lives, what proves it, and whence it comes

For every law: the functions that have it (below `dfm_ref`), the tests that hold it (in `tests/`), and the papers, as
the functions' docstrings name them. Made by `python docs/formulas.py`; `tests/test_docs.py` compares.

Notation: N tokens, V values; z the present state, x a value of token i; κ the weights of a path and κ̇ their
derivatives; w^j the components and ŵ^j their posteriors given z; p_{{1|t}} and p_{{0|t}} those of x_1 and x_0; u a
velocity and Q its generator, dp/dt = Q p; δ a point mass.

## The laws

{laws}
## Errata of a tutorial

A 2025 tutorial on discrete flow matching, which builds up from normalizing flows, item by item in its order. Formulas
stand here as they are right; what the print has instead, and the law that this breaks, stands below them.

{items}"""


def text() -> str:
    """The page as Markdown."""
    return TEXT.format(laws="\n".join(blocks(FORMULAS, SECTIONS)), items="\n".join(blocks(ITEMS, ARTICLE)))


def blocks(rows: Iterable[Row | Item], heads: dict[str, str]) -> Iterator[str]:
    """One block a row, with a heading above the first of each section."""
    seen = set()
    for row in rows:
        if row.id in heads and row.id not in seen:
            yield f"### {heads[row.id]}\n"
        seen.add(row.id)
        verdict = [plain(row.verdict)] if isinstance(row, Item) else []
        names, tests = row.functions.split(), row.tests.split()
        held = ["functions: " + listed(names), "tests: " + listed(tests), "papers: " + "; ".join(papers(names))]
        lines = [*verdict, *held]
        yield "\n".join([f"**{row.id}** {plain(row.law)}\n", *(f"- {line}" for line in lines), ""])


def papers(names: list[str]) -> list[str]:
    """What the functions' docstrings name as their sources, each once."""
    found = dict.fromkeys(part for name in names for part in source(name).split("; "))
    return [one for one in found if not any(one in other for other in found if other != one)]


def source(name: str) -> str:
    """The sentence after "Source:" in a docstring, without its full stop; ValueError where there is none."""
    module, _, function = name.rpartition(".")
    for paragraph in cleandoc(getattr(importlib.import_module(f"dfm_ref.{module}"), function).__doc__).split("\n\n"):
        if match := re.search(r"Source: (.+?)\.(?=\s+[A-Z]|$)", " ".join(paragraph.split())):
            return match[1]
    raise ValueError(f"{name}: expected a sentence in the docstring that begins with 'Source:'")


def listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def plain(words: str) -> str:
    """Text in which Markdown finds no emphasis."""
    return re.sub(r"(?<!\w)_|\*", r"\\\g<0>", words)


if __name__ == "__main__":
    write(HERE / "formulas.md", text().encode())

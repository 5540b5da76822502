"""What each system of the brief must be able to do, and the tests that prove it: one line a capability.

`tests/test_checklists.py` sees that the named tests exist.
"""

TRANSLATEGEMMA = {
    "1 MetricX-24 QE, reward 5 − score": [
        "scorers/test_metricx.py::test_equal_to_the_published_route",
        "recipes/translategemma/test_reward.py::test_the_total_is_the_weighted_sum_of_what_the_judges_say",
    ],
    "2 XCOMET score without reference": [
        "scorers/comet/test_scorer.py::test_xcomet_marks_the_spans_that_predict_marks"
    ],
    "3 XCOMET error spans": ["scorers/comet/test_scorer.py::test_xcomet_marks_the_spans_that_predict_marks"],
    "4 MQM judge over an OpenAI-compatible endpoint": ["scorers/mqm/test_gemba.py::test_no_failure_becomes_a_number"],
    "5 the judge's quotes become spans": ["scorers/mqm/test_gemba.py::test_quotes_are_placed_only_where_they_can_be"],
    "6 spans become token rewards": ["training/test_token_credit.py::test_spans_become_token_rewards"],
    "7 sequence + token rewards, normalised, optional group term": [
        "training/test_token_credit_trainer.py::test_advantages_by_hand"
    ],
    "8 scores reused per (source, translation)": ["scorers/test_cached.py::test_each_text_is_asked_for_once"],
    "9 over-long input cut or skipped": [
        "scorers/comet/test_scorer.py::test_segments_longer_than_the_encoder_reads_are_skipped_where_asked"
    ],
    "10 rollouts with log-probabilities and offsets": [
        "training/test_token_credit_trainer.py::test_rollouts_hold_what_the_update_saw"
    ],
    "11 PPO-clip GRPO, no value head": [
        "training/test_token_credit_trainer.py::test_without_token_rewards_it_is_trls_trainer_bit_for_bit"
    ],
    "12 KL to a frozen reference": ["training/test_token_credit_trainer.py::test_rollouts_hold_what_the_update_saw"],
    "13 metric-only evaluation": ["recipes/translategemma/test_train.py::test_eval_only_trains_nothing"],
    "14 a toy loop end to end": [
        "recipes/translategemma/test_train.py::test_every_update_and_every_evaluation_is_logged"
    ],
    "15 strict YAML, resolved_config.yaml": [
        "recipes/translategemma/test_settings.py::test_resolved_settings_read_back",
        "recipes/translategemma/test_train.py::test_settings_that_cannot_work_are_one_line",
    ],
    "16 JSONL, JSON, Parquet, hub": [
        "recipes/translategemma/test_data.py::test_every_shape_gives_the_same_rows",
        "recipes/translategemma/test_data.py::test_wmt24pp_by_name",
    ],
    "17 held-out rows by hash; the count wins": [
        "recipes/translategemma/test_data.py::test_a_count_wins_over_the_ratio_and_nothing_depends_on_order"
    ],
    "18 samples per prompt": [
        "recipes/translategemma/test_train.py::test_two_processes_train_one_policy_with_one_copy_of_each_judge"
    ],
    "19 cache folder, token by the name of its variable": [
        "recipes/translategemma/test_settings.py::test_the_hubs_variables"
    ],
    "20 automatic placement, with warnings": ["recipes/translategemma/test_placement.py::test_automatic"],
    "21 explicit ids win, disjointness": ["recipes/translategemma/test_placement.py::test_explicit_ids_win"],
    "22 several policy GPUs by accelerate's launcher": [
        "recipes/translategemma/test_placement.py::test_several_processes",
        "training/test_zero3.py::test_the_recipe_trains_under_zero3",
    ],
    "23 any scorer in another Python, with a time-out": [
        "training/test_transformers5.py::test_a_scorer_in_another_environment",
        "scorers/worker/test_client.py::test_fault_2_hung",
    ],
    "24 XCOMET resident, no Trainer per call": ["scorers/comet/test_scorer.py::test_no_trainer_is_built"],
    "25 names of the run folder": [
        "recipes/translategemma/test_train.py::test_the_run_folder_bears_the_names_of_the_recipe"
    ],
    "26 resume by default": ["recipes/translategemma/test_train.py::test_a_stopped_run_goes_on_to_the_same_bits"],
    "27 a named checkpoint forced": [
        "recipes/translategemma/test_train.py::test_a_named_checkpoint_is_gone_on_from_whatever_came_after"
    ],
    "28 save_only_best": [
        "runs/test_checkpoints.py::test_only_the_newest_is_kept_and_found",
        "recipes/translategemma/test_train.py::test_a_named_checkpoint_is_gone_on_from_whatever_came_after",
    ],
}

R = "recipes/replies"
REPLIES = {
    "1 six components in [0, 1], their weights, the total in [0, 1]": [
        f"{R}/test_components.py::test_length",
        f"{R}/test_components.py::test_punctuation_per_thousand_characters",
        f"{R}/test_components.py::test_diversity",
        f"{R}/test_components.py::test_engagement",
        f"{R}/test_components.py::test_sentiment",
        f"{R}/test_components.py::test_relevance_is_a_mapped_cosine_within_its_bounds",
        f"{R}/test_heuristic.py::test_weights_must_sum_to_1",
        f"{R}/test_heuristic.py::test_totals_stay_between_0_and_1",
    ],
    "2 a call for one pair": [f"{R}/test_heuristic.py::test_batch_and_single_calls_agree"],
    "3 a batch call equal to it, guards too": [
        f"{R}/test_heuristic.py::test_batch_and_single_calls_agree",
        f"{R}/test_heuristic.py::test_guards_of_single_and_batch_calls",
    ],
    "4 get_component_scores": [f"{R}/test_heuristic.py::test_batch_and_single_calls_agree"],
    "5 0.5 without encoder or TextBlob": [f"{R}/test_heuristic.py::test_a_missing_package_gives_half_and_one_warning"],
    "6 four replies at T 0.8, top_p 0.9, 100 tokens": [f"{R}/test_checks.py::test_the_defaults_are_those_of_the_brief"],
    "7 group advantage, zero without spread, clipped": [
        "training/test_set_reward.py::test_advantages_are_clipped",
        "training/test_set_reward.py::test_without_spread_every_advantage_is_zero_unless_the_set_differs",
    ],
    "8 KL 0.1 to a frozen reference": [
        f"{R}/test_checks.py::test_the_defaults_are_those_of_the_brief",
        "training/test_sft.py::test_the_reference_is_the_sft_adapter_exactly",
    ],
    "9 LoRA, 4-bit, gradient checkpointing": [
        "training/test_sft.py::test_lora_on_a_4bit_base_trains_the_adapters_alone_and_merges",
        "training/test_sft.py::test_gradient_checkpointing_changes_nothing",
    ],
    "10 split 50/50, seed 42, disjoint, stratified": [
        f"{R}/test_split.py::test_the_files_are_those_of_both_phases",
        f"{R}/test_data.py::test_every_stratum_has_its_share",
        f"{R}/test_data.py::test_rows_of_a_post_stay_together",
    ],
    "11 GRPO from the SFT checkpoint": [
        f"{R}/test_train.py::test_grpo_starts_where_sft_ended",
        "training/test_sft.py::test_grpo_trains_the_adapter_alone_against_the_sft_model",
    ],
    "12 a switch in the configuration": [
        f"{R}/test_checks.py::test_phases",
        f"{R}/test_checks.py::test_the_switch_works_in_yaml_as_in_the_original",
    ],
    "13 pass@1, 5, 10": [
        "results/test_sampling.py::test_pass_at_k_is_the_share_of_subsets_with_a_success",
        f"{R}/test_train.py::test_the_table_has_success_and_diversity",
    ],
    "14 Self-BLEU": [
        "results/test_sampling.py::test_self_bleu_of",
        "results/test_sampling.py::test_self_bleu_falls_as_samples_differ_more",
    ],
    "15 polychromic SFT": [
        "training/test_sft.py::test_the_polychromic_weight_changes_the_weights",
        f"{R}/test_train.py::test_sft_alone_ends_with_its_table",
    ],
    "16 policy_loss, avg_reward, kl_penalty": [
        "training/test_set_reward.py::test_the_names_of_the_original_are_logged"
    ],
    "17 a run on 100 rows": [f"{R}/test_train.py::test_sft_alone_ends_with_its_table"],
}

P = "recipes/preference"
PREFERENCE = {
    "1 rows with prompt, chosen, rejected, as text or with images": [
        f"{P}/test_data.py::test_columns_and_messages",
        f"{P}/test_data.py::test_pictures_from_files",
        f"{P}/test_data.py::test_bytes_in_parquet_with_and_without_a_struct",
        f"{P}/test_data.py::test_a_hub_data_set",
        f"{P}/test_data.py::test_bad_rows_are_refused_with_their_line",
        f"{P}/test_data.py::test_bad_pictures_are_refused_with_their_line",
    ],
    "2 length, reasoning and structure, each with its cap": [
        f"{P}/test_reward.py::test_heuristic",
        f"{P}/test_reward.py::test_the_caps_are_settings",
        f"{P}/test_reward.py::test_the_heuristic_is_bounded",
        f"{P}/test_reward.py::test_longer_wrong_answers_win_below_the_cap_and_tie_above",
    ],
    "3 log-probabilities of chosen and rejected": [
        f"{P}/test_trainer.py::test_the_trainers_log_probs_are_those_of_single_rows",
        "models/test_multimodal.py::test_log_probs_of_a_mixed_batch_of_unequal_lengths_equal_those_of_single_rows",
    ],
    "4 GRPO on the pair: gradient, reference, beta 0.1, margin": [
        f"{P}/test_checks.py::test_the_defaults_are_those_of_the_brief",
        f"{P}/test_trainer.py::test_chosen_rises_and_rejected_falls_and_the_reference_stays",
        f"{P}/test_trainer.py::test_margins_count_only_without_scaling",
        f"{P}/test_trainer.py::test_a_group_is_the_pair_and_then_samples",
    ],
    "5 evaluation with preference accuracy": [
        f"{P}/test_accuracy.py::test_counts_and_value",
        f"{P}/test_accuracy.py::test_order_does_not_matter_and_exchanged_sides_exchange_wins",
        f"{P}/test_train.py::test_the_table_has_both_accuracies_and_other_pictures",
        f"{P}/test_train.py::test_the_margin_is_beta_times_the_log_ratio",
    ],
    "6 images into Gemma 3": [
        "models/test_multimodal.py::test_the_same_text_with_two_pictures_has_different_logits",
        f"{P}/test_trainer.py::test_only_rows_with_pictures_move_the_vision_tower",
        f"{P}/test_checks.py::test_image_tokens_count_for_the_context",
        f"{P}/test_checks.py::test_a_model_without_a_vision_tower_meets_an_image",
    ],
    "7 MathVista-shaped rows, for evaluation only": [
        f"{P}/test_data.py::test_columns_of_mathvista_are_refused",
        f"{P}/test_mathvista.py::test_scores_by_type",
        f"{P}/test_train.py::test_mathvista_rows_are_answered_before_and_after",
    ],
    "8 checkpoints, and Orbax": [
        f"{P}/test_train.py::test_killed_it_continues_to_the_same_bits",
        f"{P}/test_train.py::test_final_loads_with_its_processor",
        f"{P}/test_orbax.py::test_every_bit_of_every_type",
        f"{P}/test_orbax.py::test_transformers_loads_the_same_gemma",
        f"{P}/test_orbax.py::test_another_tree_is_refused",
    ],
    "9 a model, tokenizer or processor that is missing": [
        "models/test_multimodal.py::test_a_processor_that_does_not_load_is_refused",
        "models/test_multimodal.py::test_a_processor_without_an_image_token_is_refused",
        f"{P}/test_train.py::test_the_doctor",
    ],
    "10 a YAML file": [
        f"{P}/test_checks.py::test_a_yaml_file_with_the_sections_of_the_original",
        f"{P}/test_train.py::test_the_configurations_are_valid",
    ],
    "11 a run on synthetic data": [
        f"{P}/test_train.py::test_the_world_of_charts_trains",
        "pocket/test_charts.py::test_twins_exchange_right_and_wrong",
        "pocket/test_charts.py::test_texts_tell_nothing_about_the_right_answer",
    ],
}

D = "recipes/diffusion"
DIFFUSION = {
    "1 the generator's checkpoint": [
        "models/test_masked_diffusion.py::test_every_loader_returns_the_same_bits",
        "models/test_masked_diffusion.py::test_every_position_sees_later_and_earlier_tokens",
        f"{D}/test_pretrain.py::test_it_leaves_a_generator_and_its_losses",
        f"{D}/test_train.py::test_a_causal_model_is_refused",
    ],
    "2 a frozen judge that gives scalars": [
        "scorers/test_sequence_judge.py::test_values_are_those_of_single_texts_in_order",
        "scorers/test_sequence_judge.py::test_it_is_frozen",
        f"{D}/test_train.py::test_a_judge_of_another_vocabulary",
    ],
    "3 the reference is the generator's start": [
        "training/test_diffusion_trainer.py::test_the_reference_stays_and_the_reward_rises",
        "training/test_diffusion_trainer.py::test_at_the_first_update_new_old_and_reference_are_equal",
    ],
    "4 masked prompts from a stream": [
        f"{D}/test_data.py::test_a_row_is_its_text_with_masks",
        f"{D}/test_data.py::test_patterns_have_their_shares",
        f"{D}/test_data.py::test_templates_of_a_file",
    ],
    "5 groups sampled by iterative unmasking": [
        "models/test_unmasking.py::test_every_mask_is_filled_and_nothing_else",
        "models/test_unmasking.py::test_every_order_is_as_likely_as_any_other",
        "training/test_diffusion_trainer.py::test_the_states_stay_with_their_rows_when_trl_shuffles",
    ],
    "6 the judge's reward, of the completion alone": [
        f"{D}/test_reward.py::test_the_judge_reads_the_completion_alone_and_as_it_is",
        f"{D}/test_train.py::test_the_table_has_reward_and_distance_to_the_start",
    ],
    "7 advantages of groups": [
        "training/test_trainer.py::test_group_rules_by_hand",
        f"{D}/test_train.py::test_settings_reach_trl",
    ],
    "8 policy gradient with KL, by an exact likelihood": [
        "training/test_diffusion_trainer.py::test_the_trajectory_estimator_is_the_samplers_log_probability",
        "training/test_diffusion_trainer.py::test_given_tokens_have_no_gradient_in_the_loss",
        "training/test_diffusion_trainer.py::test_the_other_estimators_log_their_error",
        "models/test_unmasking.py::test_the_sampler_draws_from_the_trajectorys_distribution",
    ],
    "9 a dataclass, a file and flags": [
        f"{D}/test_train.py::test_a_python_file_of_settings_and_flags",
        f"{D}/test_train.py::test_the_configurations_are_valid",
    ],
    "10 AMP, clipping and accumulation": [f"{D}/test_train.py::test_settings_reach_trl"],
    "11 checkpoints": [
        f"{D}/test_train.py::test_killed_it_continues_to_the_same_bits",
        f"{D}/test_train.py::test_inexact_settings_say_so_and_continue_to_the_same_bits",
        f"{D}/test_pretrain.py::test_killed_it_continues_to_the_same_bits",
    ],
    "12 logs of policy loss, KL, rewards and advantages": [
        f"{D}/test_train.py::test_metrics_of_every_step",
        "training/test_diffusion_trainer.py::test_policy_loss_is_the_objective_without_kl",
    ],
    "13 W&B, optional": [
        f"{D}/test_train.py::test_wandb_offline",
        f"{D}/test_train.py::test_a_run_leaves_its_folder",
    ],
    "14 dumps of samples": [f"{D}/test_train.py::test_samples_are_dumped_between_the_ends"],
    "15 temperature, scaling of rewards and group size from the settings": [
        f"{D}/test_train.py::test_settings_reach_trl",
        "models/test_unmasking.py::test_the_recorded_log_probs_are_those_of_the_state_before_the_step",
    ],
}

CHECKLISTS = {  # how many lines each has
    "translategemma": (28, TRANSLATEGEMMA),
    "replies": (17, REPLIES),
    "preference": (11, PREFERENCE),
    "diffusion": (15, DIFFUSION),
}

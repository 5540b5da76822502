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

CHECKLISTS = {"translategemma": (28, TRANSLATEGEMMA), "replies": (17, REPLIES)}  # how many lines each has

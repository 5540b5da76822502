"""A run in several processes over gloo on the CPU: what one process would have made of it."""

from __future__ import annotations

import dataclasses
import os

import torch
from process_trials import Processes
from tiny_models import PAIRS

from rl_nmt import evaluation, generate, policy, processes

# --- held-out evaluation -------------------------------------------------------------------------------


def _evaluate(models, rows):
    """The Snapshot, and how many rows this process has scored and batches it has generated."""
    import train_grpo_en_ta as script
    from rewards_en_ta_dupo import CometDuPOReward

    evaluation.SCORED_TOGETHER = 4
    batches, scored = [], []
    original = generate._generate_batch
    generate._generate_batch = lambda model, rows, settings: batches.append(rows) or original(model, rows, settings)
    tokenizer = policy.load_tokenizer(models["policy"])
    model = policy.load_policy(models["policy"], tokenizer, policy.Precision("cpu", torch.float32, False, "test"))
    reward = CometDuPOReward(models["da"], models["qe"], models["nllb"], backtranslation_beams=1)
    components = reward.score_components
    reward.score_components = lambda *a, **k: scored.append(len(a[1])) or components(*a, **k)
    shot = evaluation.evaluate(
        model, tokenizer, rows, script.make_prompt, reward, max_new_tokens=16, batch_size=3
    )  # fmt: skip
    return dataclasses.asdict(shot), scored, len(batches)


def test_evaluation_in_several_processes_is_that_of_one(tiny_all, tmp_path):
    """Eleven rows: four batches, three blocks; the third of three processes has a batch and a block."""
    models = {name: str(path) for name, path in tiny_all.items()}
    rows = [{"english": english, "tamil": tamil} for english, tamil in PAIRS[:10]] + [{"english": "Rain."}]
    ((alone, scored, batches),) = Processes(tmp_path / "1", [0], _evaluate, models, rows).results(120)
    assert scored == [4, 4, 3] and batches == 4 and len({text for text in alone["outputs"]}) > 4
    for count, calls, made in ((2, [[4, 3], [4, 0]], [2, 2]), (3, [[4], [4], [3]], [2, 1, 1])):
        told = Processes(tmp_path / str(count), list(range(count)), _evaluate, models, rows).results(120)
        assert [each[1] for each in told] == calls and [each[2] for each in told] == made
        assert all(each[0] == alone for each in told)


def _generate_under_zero3(model, prompts):
    """With DeepSpeed's ZeRO-3 transformers keeps all processes generating as long as one does: all must take part."""
    from transformers.integrations import deepspeed

    batches = []
    original = generate._generate_batch
    generate._generate_batch = lambda model, rows, settings: batches.append(rows) or original(model, rows, settings)
    tokenizer = policy.load_tokenizer(model)
    loaded = policy.load_policy(model, tokenizer, policy.Precision("cpu", torch.float32, False, "test"))
    zero3 = type("ZeRO3", (), {"is_zero3": lambda self: True, "config": {}})()
    if int(os.environ["WORLD_SIZE"]) > 1:
        processes.start()
        deepspeed.set_hf_deepspeed_config(zero3)
    return generate.generate_together(loaded, tokenizer, prompts, max_new_tokens=8, batch_size=2), len(batches)


def test_no_process_is_idle_while_others_generate_with_sharded_weights(tiny_policy, tmp_path):
    import train_grpo_en_ta as script

    prompts = [script.make_prompt(english) for english, _ in PAIRS[:5]]
    ((alone, _),) = Processes(tmp_path / "1", [0], _generate_under_zero3, str(tiny_policy), prompts).results()
    told = Processes(tmp_path / "2", [0, 1], _generate_under_zero3, str(tiny_policy), prompts).results()
    assert told == [(alone, 2), (alone, 2)] and len(set(alone)) > 2  # three batches for two: the second has one extra

"""best/ and final/: which weights they hold, and that plain transformers loads them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from rl_nmt import export, policy
from rl_nmt.generate import generate


@pytest.fixture
def trained(tiny_policy):
    """A trainer's parts around the tiny policy, at step 30."""
    import torch

    tokenizer = policy.load_tokenizer(str(tiny_policy))
    precision = policy.Precision("cpu", torch.float32, False, "")
    model = policy.load_policy(str(tiny_policy), tokenizer, precision)
    return SimpleNamespace(
        model=model, processing_class=tokenizer, accelerator=SimpleNamespace(unwrap_model=lambda m: m),
        state=SimpleNamespace(global_step=30),
    )  # fmt: skip


def never():
    raise AssertionError("nothing to merge")


def test_best_is_complete_where_it_holds_the_chosen_step(trained, tmp_path):
    export.save_best(tmp_path, trained, "Say {english}")
    choice = {"step": 30, "by": "chrF++"}
    assert export.finish_best(tmp_path, trained.processing_class, choice, never) == choice
    stops = json.loads((tmp_path / "best" / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    assert trained.processing_class.convert_tokens_to_ids("<end_of_turn>") in stops
    assert (tmp_path / "best" / "prompt.txt").read_text(encoding="utf-8") == "Say {english}"


@pytest.mark.parametrize(("chosen", "lost"), [(20, True), (0, False), (None, False)])
def test_best_of_an_abandoned_branch_is_set_aside(trained, tmp_path, capsys, chosen, lost):
    """Saved at step 30, killed, resumed from step 20, and step 30 came out worse this time."""
    export.save_best(tmp_path, trained, "Say {english}")
    found = export.finish_best(tmp_path, trained.processing_class, {"step": chosen, "by": "chrF++"}, never)
    assert not (tmp_path / "best").exists() and (tmp_path / "earlier-best" / "model.safetensors").exists()
    assert found.get("kept", True) is not lost
    assert "best/ held step 30" in capsys.readouterr().out


def test_without_a_best_the_choice_is_what_it_was(trained, tmp_path):
    choice = {"step": 0, "by": "chrF++"}
    assert export.finish_best(tmp_path, trained.processing_class, choice, never) is choice
    assert list(tmp_path.iterdir()) == []


def test_final_answers_like_the_trained_model(trained, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts = ["<start_of_turn>user\nEnglish: The door is open.\nTamil:<end_of_turn>\n<start_of_turn>model\n"]
    before = generate(trained.model, trained.processing_class, prompts, max_new_tokens=8, batch_size=1)
    export.save_final(tmp_path, trained, trained.processing_class, "Say {english}")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "final")
    assert generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=1) == before
    assert not (tmp_path / "final" / "adapter").exists()

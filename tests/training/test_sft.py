"""SFT on prompts and answers: its tokens, TRL's loss, the polychromic term, and GRPO that continues its adapter."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import PAIRS
from tiny_qwen import tiny_qwen

from rl_nmt.errors import ConfigError
from rl_nmt.models import policy as models
from rl_nmt.models.generate import encode_prompts
from rl_nmt.results import export
from rl_nmt.text.prompts import chat_prompt
from rl_nmt.training import setup
from rl_nmt.training.sft import IGNORED, PolychromicLoss, build_sft_trainer, sft_rows


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen()


def sft_policy() -> setup.Policy:
    """The tiny Qwen3 policy, loaded afresh."""
    return setup.load_policy(str(tiny_qwen()), lora=True, attention="eager")


def rows_of(tokenizer, answers=tuple(tamil for _, tamil in PAIRS)):
    return sft_rows(tokenizer, [chat_prompt(tokenizer, english) for english, _ in PAIRS], answers)


def test_the_loss_is_on_the_answer_and_the_end_of_its_turn(qwen):
    tokenizer = models.load_tokenizer(str(qwen))
    for row, (english, tamil) in zip(rows_of(tokenizer), PAIRS, strict=True):
        prompt = tokenizer(chat_prompt(tokenizer, english))["input_ids"]
        asked = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
        assert row["input_ids"][: len(prompt)] == prompt and row["labels"][: len(prompt)] == [IGNORED] * len(prompt)
        assert tokenizer.decode(asked) == tamil + "<|im_end|>"


def test_a_control_token_in_an_answer_is_text(qwen):
    tokenizer = models.load_tokenizer(str(qwen))
    row = sft_rows(tokenizer, ["a"], ["stop <|im_end|> here"])[0]
    assert row["input_ids"].count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


def fitted(folder, weight: float, steps: int = 3, **more):
    """Return a trainer after `steps` steps with a polychromic weight; None: TRL's own loss."""
    policy = sft_policy()
    options = {"max_steps": steps, "learning_rate": 1e-3, "per_device_train_batch_size": 4, "logging_steps": 1}
    options |= more
    with torch.random.fork_rng(devices=[]):
        policy.model = models.add_adapter(policy.model, 4, 8, seed=5)
        made = build_sft_trainer(folder, policy, rows_of(policy.tokenizer), 0, 5, weight, **options)
        made.train()
    return made


def adapters(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for n, p in trainer.model.named_parameters() if "lora_" in n])


def test_the_polychromic_weight_changes_the_weights(tmp_path):
    plain, again, diverse = (adapters(fitted(tmp_path, w)) for w in (0.0, 0.0, 0.5))
    assert torch.equal(plain, again)
    assert (diverse - plain).abs().max() > 1e-4


def test_polychromic_loss_by_hand_and_its_gradient():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, requires_grad=True)
    labels = torch.tensor([[IGNORED, 1, 2, IGNORED], [IGNORED, IGNORED, 0, 4]])

    class Out:
        pass

    Out.logits = logits
    p = logits.softmax(-1)
    asked = [(0, 0, 1), (0, 1, 2), (1, 1, 0), (1, 2, 4)]  # row, place before the token, its id
    expected = sum(-p[b, t, i].log() - 0.3 * (1 - p[b, t].square().sum()) for b, t, i in asked) / 4
    found = PolychromicLoss(0.3)(Out, labels)
    assert torch.allclose(found, expected)
    assert torch.allclose(PolychromicLoss(0.3)(Out, labels, 8), expected / 2)
    gradient = torch.autograd.grad(PolychromicLoss(1.0)(Out, labels) - PolychromicLoss(0.0)(Out, labels), logits)[0]
    assert gradient.abs().max() > 1e-3


def test_without_a_weight_the_loss_is_trls(tmp_path):
    own = [row["loss"] for row in fitted(tmp_path, 1e-12).state.log_history if "loss" in row]
    trl = [row["loss"] for row in fitted(tmp_path, 0.0).state.log_history if "loss" in row]
    assert own == pytest.approx(trl, rel=1e-4)


def test_gradient_checkpointing_changes_nothing(tmp_path):
    plain = adapters(fitted(tmp_path, 0.0))
    assert torch.allclose(adapters(fitted(tmp_path, 0.0, gradient_checkpointing=True)), plain, atol=1e-6)


def test_sft_learns(tmp_path):
    losses = [row["loss"] for row in fitted(tmp_path, 0.0, steps=12).state.log_history if "loss" in row]
    assert losses[-1] < losses[0]


def test_lora_on_a_4bit_base_trains_the_adapters_alone_and_merges(tmp_path):
    policy = setup.load_policy(str(tiny_qwen()), lora=True, attention="eager", quantise=True)
    options = {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 4}
    with torch.random.fork_rng(devices=[]):
        policy.model = models.add_adapter(policy.model, 4, 8, seed=5)
        made = build_sft_trainer(tmp_path, policy, rows_of(policy.tokenizer), 0, 5, **options)
        base = {n: p.detach().clone() for n, p in made.model.named_parameters() if "lora_" not in n}
        made.train()
    assert any(p.dtype == torch.uint8 for p in base.values())
    assert all(torch.equal(p, base[n]) for n, p in made.model.named_parameters() if n in base)
    assert {p.dtype for p in made.model.parameters() if p.requires_grad} == {torch.float32}
    assert adapters(made).any()
    export.save_final(tmp_path, made, policy.tokenizer, "{source}", policy.start)
    merged = models.load_policy(str(tmp_path / "final"), policy.tokenizer, policy.precision)
    start = policy.start()
    changed = [n for n, p in merged.named_parameters() if not torch.equal(p, start.get_parameter(n))]
    assert changed and all("proj" in name for name in changed)


# --- GRPO from the adapter -----------------------------------------------------------------------------


class Given:
    __name__ = "given"
    last_rows, last_log, last_eval_log = (), {}, {}

    def __call__(self, prompts, completions, **columns):
        return ([0.1, 0.9, 0.4, 0.6] * len(completions))[: len(completions)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The folder of an adapter after three SFT steps."""
    folder = tmp_path_factory.mktemp("sft")
    fitted(folder, 0.0).model.save_pretrained(folder / "adapter")
    return folder / "adapter"


def grpo(folder, adapter, steps: int = 1, quantise: bool = False, **more):
    from rl_nmt.training.trainer import GuardedGRPOTrainer

    policy = setup.load_policy(str(tiny_qwen()), lora=True, attention="eager", quantise=quantise)
    policy.model = models.continue_adapter(policy.model, adapter)
    args = setup.grpo_config(
        folder,
        policy,
        1,
        1,
        num_generations=4,
        max_completion_length=8,
        per_device_train_batch_size=8,
        beta=0.1,
        max_steps=steps,
        learning_rate=1e-2,
        **more,
    )
    rows = setup.dataset([english for english, _ in PAIRS], lambda text: chat_prompt(policy.tokenizer, text))
    return GuardedGRPOTrainer(
        model=policy.model, reward_funcs=Given(), args=args, processing_class=policy.tokenizer, train_dataset=rows
    )


def test_grpo_trains_the_adapter_alone_against_the_sft_model(tmp_path, adapter):
    made = grpo(tmp_path, adapter)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        made.train()
    changed = {name for name, p in made.model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name in before if ".default." in name}
    assert changed and changed <= trained
    assert {name for name in before if ".ref." in name and name not in changed}
    assert {n for n in changed if "lora_B" in n} == {n for n in trained if "lora_B" in n}


def log_probs(model, tokenizer) -> torch.Tensor:
    ids = tokenizer(chat_prompt(tokenizer, PAIRS[0][0]) + PAIRS[0][1], return_tensors="pt")
    with torch.no_grad():
        return model(**ids).logits.log_softmax(-1)


def test_the_reference_is_the_sft_adapter_exactly(tmp_path, adapter):
    start = sft_policy()
    expected = log_probs(models.continue_adapter(start.model, adapter).eval(), start.tokenizer)
    made = grpo(tmp_path, adapter)
    with torch.random.fork_rng(devices=[]):
        made.train()
    made.model.eval().set_adapter("ref")
    assert torch.equal(log_probs(made.model, start.tokenizer), expected)
    made.model.set_adapter("default")
    assert not torch.equal(log_probs(made.model, start.tokenizer), expected)


def test_a_resumed_run_has_the_trained_adapter_not_the_reference(tmp_path, adapter):
    made = grpo(tmp_path, adapter)
    with torch.random.fork_rng(devices=[]):
        made.train()
        saved = copy.deepcopy({n: p.detach() for n, p in made.model.named_parameters() if ".default." in n})
        assert not (tmp_path / "checkpoint-1" / "ref").exists()
        again = grpo(tmp_path, adapter, steps=1)
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(p, saved[n]) for n, p in again.model.named_parameters() if n in saved)


@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True}], ids=["", "gradient checkpointing"])
def test_on_a_4bit_base_grpo_begins_with_the_very_adapter(tmp_path, adapter, more):
    made = grpo(tmp_path, adapter, quantise=True, **more)
    start = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    saved = load_file(adapter / "adapter_model.safetensors")
    for name, values in saved.items():
        assert torch.equal(start[name.replace(".weight", ".default.weight")], values), name
    with torch.random.fork_rng(devices=[]):
        made.train()
    changed = {name for name, p in made.model.named_parameters() if not torch.equal(p, start[name])}
    assert changed and all(".default." in name for name in changed)


def test_the_tokens_of_sft_are_those_of_grpo_even_with_a_bos_that_is_not_added(qwen):
    tokenizer = models.load_tokenizer(str(qwen))
    tokenizer.bos_token = "<|endoftext|>"
    prompt = chat_prompt(tokenizer, "a")
    expected = tokenizer(prompt)["input_ids"]
    assert sft_rows(tokenizer, [prompt], ["b"])[0]["input_ids"][: len(expected)] == expected
    assert encode_prompts(tokenizer, [prompt]) == [expected]


def test_an_adapter_of_another_model_is_refused(tmp_path, adapter):
    with pytest.raises(ConfigError, match="adapter"):
        models.continue_adapter(sft_policy().model, tmp_path)

"""best/ and final/: which weights they hold, that plain transformers loads them, and that they can be pushed."""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from tiny_models import PAIRS, PROMPT
from tiny_run import ROOT, command

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models import policy
from rl_nmt.models.generate import generate
from rl_nmt.results import export
from rl_nmt.text.prompts import chat_prompt

FP32 = policy.Precision("cpu", torch.float32, False, "")


def parts(model, tokenizer):
    """What export takes of a trainer, around a real model and accelerate's own Accelerator, at step 30."""
    from accelerate import Accelerator

    return SimpleNamespace(
        model=model,
        processing_class=tokenizer,
        accelerator=Accelerator(cpu=True),
        state=SimpleNamespace(global_step=30),
        is_deepspeed_enabled=False,
    )


@pytest.fixture
def trained(tiny_policy):
    """A trainer's parts around the tiny policy."""
    tokenizer = policy.load_tokenizer(str(tiny_policy))
    return parts(policy.load_policy(str(tiny_policy), tokenizer, FP32), tokenizer)


@pytest.fixture
def adapted(tiny_policy):
    """The same with LoRA whose weights are not zero any more."""
    return lora(str(tiny_policy))


def lora(folder: str, weights=torch.float32):
    from peft import get_peft_model

    tokenizer = policy.load_tokenizer(folder)
    base = policy.load_policy(folder, tokenizer, policy.Precision("cpu", weights, False, ""))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(base, policy.lora_config(4, 8)).eval()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
    return parts(model, tokenizer)


def logits(model, tokenizer) -> torch.Tensor:
    """(tokens, vocabulary) of a few prompts, in fp64 so that only the weights can differ."""
    rows = [tokenizer(chat_prompt(tokenizer, english), return_tensors="pt") for english, _ in PAIRS[:4]]
    with torch.no_grad():
        return torch.cat([model.double().eval()(**row).logits[0] for row in rows])


def never():
    raise AssertionError("nothing to merge")


def test_best_is_complete_where_it_holds_the_chosen_step(trained, tmp_path):
    export.save_best(tmp_path, trained, "Say {source}")
    choice = {"step": 30, "by": "chrF++"}
    assert export.finish_best(tmp_path, trained.processing_class, choice, never) == choice
    stops = json.loads((tmp_path / "best" / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    assert trained.processing_class.convert_tokens_to_ids("<end_of_turn>") in stops
    assert (tmp_path / "best" / "prompt.txt").read_text(encoding="utf-8") == "Say {source}"


@pytest.mark.parametrize(("chosen", "lost"), [(20, True), (0, False), (None, False)])
def test_best_of_an_abandoned_branch_is_set_aside(trained, tmp_path, capsys, chosen, lost):
    """Saved at step 30, killed, resumed from step 20, and step 30 came out worse this time."""
    export.save_best(tmp_path, trained, "Say {source}")
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
    export.save_final(tmp_path, trained, trained.processing_class, "Say {source}", None)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "final")
    assert generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=1) == before
    assert not (tmp_path / "final" / "adapter").exists()


# --- LoRA ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gemma", "qwen"])
def test_adapter_and_merged_model_have_the_logits_of_the_trained_one(tiny_policy, tmp_path, family):
    from peft import PeftModel
    from tiny_qwen import tiny_qwen
    from transformers import AutoModelForCausalLM

    folder = str(tiny_policy) if family == "gemma" else str(tiny_qwen())
    trained = lora(folder)
    tokenizer = trained.processing_class
    export.save_final(tmp_path, trained, tokenizer, PROMPT, None)
    export.save_best(tmp_path, trained, PROMPT)
    export.finish_best(tmp_path, tokenizer, {"step": 30}, lambda: policy.load_policy(folder, tokenizer, FP32))
    expected = logits(trained.model, tokenizer)
    with trained.model.disable_adapter():
        start = logits(trained.model, tokenizer)
    assert (expected - start).abs().max() > 0.1
    for place in ("final", "best"):
        merged, info = AutoModelForCausalLM.from_pretrained(tmp_path / place, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and merged.dtype == torch.float32
        torch.testing.assert_close(logits(merged, tokenizer), expected, atol=1e-5, rtol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(folder)
    alone = PeftModel.from_pretrained(base, tmp_path / "final" / "adapter")
    torch.testing.assert_close(logits(alone, tokenizer), expected, atol=1e-5, rtol=1e-5)
    assert sorted(p.name for p in (tmp_path / "final" / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "prompt.txt",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "final"]


def test_merging_is_pefts_own_and_leaves_the_model_alone(adapted):
    state = export.whole_state(adapted)
    before = {name: tensor.clone() for name, tensor in state.items()}
    merged = export.merged_state(state, adapted.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in adapted.model.state_dict().items())
    expected = adapted.model.merge_and_unload().state_dict()  # the oracle: in place, after the comparison above
    assert merged.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=1e-6)


def test_a_bf16_base_is_rounded_once(tiny_policy):
    trained = lora(str(tiny_policy), torch.bfloat16)
    state = export.whole_state(trained)
    name, layer = next((n, m) for n, m in trained.model.named_modules() if n.endswith("layers.0.mlp.up_proj"))
    exact = state[f"{name}.base_layer.weight"].double()
    exact += 2.0 * state[f"{name}.lora_B.default.weight"].double() @ state[f"{name}.lora_A.default.weight"].double()
    merged = export.merged_state(state, trained.model)[name.removeprefix("base_model.model.") + ".weight"]
    assert merged.dtype == torch.bfloat16 == layer.base_layer.weight.dtype
    assert (merged == exact.to(torch.bfloat16)).float().mean() > 0.999  # ties of the fp32 sum aside


def test_weights_that_were_gathered_are_the_ones_saved(adapted, tmp_path):
    """As under ZeRO-3: the module's own tensors are empty, and what counts is what the accelerator gathers."""
    from transformers import AutoModelForCausalLM

    tokenizer = adapted.processing_class
    expected = logits(adapted.model, tokenizer)
    state = {name: tensor.float().clone() for name, tensor in adapted.model.state_dict().items()}
    adapted.model.float()
    for weight in adapted.model.parameters():
        weight.data = torch.zeros(0)
    engine = object()
    asked = []
    adapted.is_deepspeed_enabled, adapted.deepspeed = True, engine
    adapted.accelerator = SimpleNamespace(
        get_state_dict=lambda model: asked.append(model) or state, unwrap_model=lambda model: model
    )
    export.save_final(tmp_path, adapted, tokenizer, PROMPT, None)
    assert asked == [engine]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    torch.testing.assert_close(logits(merged, tokenizer), expected, atol=1e-5, rtol=1e-5)
    with safe_open(tmp_path / "final" / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # gathered apart, and yet the embeddings once more


def test_weights_that_cannot_be_gathered_name_the_setting(adapted, tmp_path):
    def refuse(model):
        raise ValueError("Cannot get 16bit model weights")

    adapted.accelerator = SimpleNamespace(get_state_dict=refuse)
    with pytest.raises(ConfigError, match="zero3_save_16bit_model"):
        export.save_best(tmp_path, adapted, PROMPT)
    assert not (tmp_path / "best").exists()


SAVES = [export.save_best, lambda *a: export.save_final(*a[:2], a[1].processing_class, a[2], None)]


@pytest.mark.parametrize("save", SAVES)
def test_only_the_main_process_writes(trained, tmp_path, monkeypatch, save):
    monkeypatch.setenv("RANK", "1")
    save(tmp_path, trained, PROMPT)
    assert export.finish_best(tmp_path, trained.processing_class, {"step": 30}, never) == {"step": 30}
    assert list(tmp_path.iterdir()) == []


# --- the hub -------------------------------------------------------------------------------------------


class Hub:
    """A small hub: accounts, repositories, commits of regular files. What it received is in `repos` and `files`."""

    TOKEN = "hf_canary0123456789"

    def __init__(self):
        self.repos: dict[str, dict] = {}
        self.files: dict[str, bytes] = {}
        self.refuse = ""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer(*hub.reply(self.path, {}, self.headers))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(*hub.reply(self.path, body, self.headers))

            def answer(self, status, value):
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def reply(self, path, body, headers):
        if headers.get("authorization") != f"Bearer {self.TOKEN}":
            return 401, {"error": "Invalid credentials"}
        if self.refuse and self.refuse in path:
            return 500, {"error": "out of order"}
        if path.endswith("/whoami-v2"):
            return 200, {"name": "me", "type": "user", "orgs": [{"name": "lab"}]}
        if path.endswith("/repos/create"):
            told = json.loads(body)
            self.repos[told["name"]] = told
            return 200, {"url": f"{self.url}/{told['organization']}/{told['name']}"}
        if path.endswith("/validate-yaml"):
            return 200, {"warnings": [], "errors": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            plain = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return 200, {"files": plain}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/me/model/commit/0", "commitOid": "0" * 40}
        return 404, {"error": path}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub():
    with Hub() as small:
        yield small


def ask(hub, code: str, token: str | None = Hub.TOKEN):
    """Run `code` in a separate process that uses `hub`: its address is read when the client is imported."""
    code = (
        "from pathlib import Path\nfrom rl_nmt import errors\nfrom rl_nmt.results import export\n"
        f"errors.run(lambda: print({code}) or 0)"
    )
    token = {"HF_TOKEN": token} if token is not None else {"HF_TOKEN": ""}
    return command("-c", code, cwd=ROOT, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", **token)


def test_a_model_is_pushed_to_a_private_repository(hub, tmp_path):
    model = tmp_path / "final"
    (model / "adapter").mkdir(parents=True)
    (model / "README.md").write_text("---\nlanguage: ta\n---\n# x", encoding="utf-8")
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "adapter" / "adapter_config.json").write_text("{}")
    (model / ".hidden").write_text("not this")
    done = ask(hub, f"export.push(Path({str(model)!r}), 'me/tamil')")
    assert done.returncode == 0, done.stderr
    told = hub.repos["tamil"]
    assert told.get("private") is True or told.get("visibility") == "private"  # huggingface_hub 0.x, 1.x
    assert told["organization"] == "me"
    assert set(hub.files) == {"README.md", "model.safetensors", "adapter/adapter_config.json"}
    assert hub.files["model.safetensors"] == b"weights"
    assert f"{hub.url}/me/tamil" in done.stdout and Hub.TOKEN not in done.stdout + done.stderr
    hub.refuse = "/commit/"
    done = ask(hub, f"export.push(Path({str(model)!r}), 'me/tamil')")
    assert done.returncode == 69 and "push_to: " in done.stderr and "was not written" in done.stderr
    told = [line for line in done.stderr.splitlines() if not re.match("Retrying|HTTP Error", line)]  # of hub 1
    assert len(told) == 1 and Hub.TOKEN not in done.stderr


@pytest.mark.parametrize(
    ("name", "token", "status", "said"),
    [
        ("me/tamil", Hub.TOKEN, 0, ""),
        ("lab/tamil", Hub.TOKEN, 0, ""),
        ("tamil", Hub.TOKEN, 0, ""),
        ("me/tamil", "hf_wrong", 69, "push_to: the hub rejects HF_TOKEN"),
        ("them/tamil", Hub.TOKEN, 2, "push_to: HF_TOKEN belongs to me"),
    ],
)
def test_a_push_is_judged_before_anything_is_trained(hub, name, token, status, said):
    done = ask(hub, f"export.require_push({name!r})", token)
    assert done.returncode == status and said in done.stderr, done.stderr
    assert hub.repos == {} and token not in done.stdout + done.stderr


def test_a_push_without_token_name_or_hub_is_refused(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="push_to: HF_TOKEN is not set"):
        export.require_push("me/tamil")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    for name in ("a/b/c", "me/ta mil", "-x", "me/"):
        with pytest.raises(ConfigError, match=r"push_to: .* is not a repository name"):
            export.require_push(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingService, match="push_to: the hub cannot be reached"):
        export.require_push("me/tamil")

"""The hub: failures in seconds with the fix in their message, and --download against a small hub of our own."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import torch
from hang_guard import ends_within
from huggingface_hub import utils
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from tiny_run import ROOT, Server, command

from rl_nmt import hub, progress
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.hub import ModelUse

PROXIES = [case(name) for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy") for case in (str, str.upper)]


@pytest.fixture
def online(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", *PROXIES):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("google/gemma-3-1b-it", False),
        ("Unbabel/wmt22-comet-da", False),
        ("/models/x", True),
        ("./x", True),
        ("../x/y", True),
        ("~/x", True),
        ("runs/a/final", True),
        ("gemma", True),
        (".hidden/x", True),
        ("google/gemma-3-1b-it@v1", False),
        ("google/gemma-3-1b-it@refs/pr/3", False),
        ("./x/y@v1", True),
    ],
)
def test_what_can_only_be_a_path(name, answer):
    assert hub.looks_like_path(name) is answer


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("a/b", ("a/b", None)),
        ("a/b@main", ("a/b", "main")),
        ("a/b@refs/pr/3", ("a/b", "refs/pr/3")),
        ("a/b@" + "0" * 40, ("a/b", "0" * 40)),
        ("wikitext@v2", ("wikitext", "v2")),
        ("a/b@", ("a/b@", None)),
        ("./a@b", ("./a@b", None)),
        ("/m/a@b/c", ("/m/a@b/c", None)),
        ("~/a@b", ("~/a@b", None)),
        ("a/b/c@d", ("a/b/c@d", None)),
        ("", ("", None)),
    ],
)
def test_a_name_and_its_revision(name, answer):
    assert hub.split_revision(name) == answer


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b@v1").mkdir(parents=True)
    (tmp_path / "a" / "b@v1" / "config.json").write_text("{}")
    assert hub.split_revision("a/b@v1") == ("a/b@v1", None)
    hub.require_model("model_id", "a/b@v1")
    with pytest.raises(ConfigError, match="names no revision"):
        hub.require_model("model_id", "google/gemma-3-1b-it@")


def test_what_a_model_is_recorded_as(tmp_path, monkeypatch):
    (tmp_path / "judge").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "judge")
    monkeypatch.chdir(tmp_path)
    assert hub.recorded_as("./judge", Path("./judge")) == hub.recorded_as(tmp_path / "link", tmp_path / "link")
    assert hub.recorded_as("./judge", Path("./judge")) == ("judge", None)
    assert hub.recorded_as("org/name@v1", tmp_path / "snapshots" / "abc1") == ("org/name", "abc1")


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_environment(online, name, value):
    assert not hub.hub_offline()
    online.setenv(name, value)
    assert hub.hub_offline() and not hub.hub_reachable()


def test_the_hub_is_where_the_environment_says(online):
    with Server(lambda method, path: (200, {}, b"")) as server:
        online.setenv("HF_ENDPOINT", server.url)
        assert hub.hub_reachable(1)
        online.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert not hub.hub_reachable(1)
        online.setenv("HTTP_PROXY", server.url.removeprefix("http://"))  # also without a scheme
        assert hub.hub_reachable(1)


CLOSED = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "environment, reachable",
    [
        ({"ALL_PROXY": "open"}, True),
        ({"all_proxy": "closed"}, False),
        ({"HTTPS_PROXY": "closed", "ALL_PROXY": "open"}, False),
        ({"HTTP_PROXY": "closed", "ALL_PROXY": "open"}, True),  # the hub is https
        ({"HTTPS_PROXY": "closed", "HF_ENDPOINT": "open", "NO_PROXY": "127.0.0.1"}, True),
        ({"ALL_PROXY": "closed", "HF_ENDPOINT": "open", "no_proxy": "127.0.0.1"}, True),
        ({"HTTP_PROXY": "closed", "HF_ENDPOINT": "open"}, False),
        ({"HTTPS_PROXY": "http://proxy:80a"}, False),
        ({"ALL_PROXY": "open", "NO_PROXY": "huggingface.co", "HF_ENDPOINT": "closed"}, True),
    ],
)
def test_the_first_hop_is_the_one_that_requests_takes(online, environment, reachable):
    with Server(lambda method, path: (200, {}, b"")) as server:
        for name, value in environment.items():
            online.setenv(name, {"open": server.url, "closed": CLOSED}.get(value, value))
        assert hub.hub_reachable(1) == reachable


def test_a_plain_http_endpoint_is_asked_on_port_80(online, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "create_connection", lambda place, timeout: asked.append(place) or socket.socket())
    for endpoint in ("http://hub.example.org", "https://hub.example.org", "http://hub.example.org:8080"):
        online.setenv("HF_ENDPOINT", endpoint)
        hub.hub_reachable()
    assert [port for _, port in asked] == [80, 443, 8080]


def test_a_folder_must_hold_the_file(tmp_path, tiny_gemma):
    hub.require_model("model_id", str(tiny_gemma))
    (tmp_path / "model.ckpt").touch()
    hub.require_model("comet_da_model", str(tmp_path / "model.ckpt"), "hparams.yaml")
    with pytest.raises(ConfigError, match=r"model_id: .* is a folder without config\.json"):
        hub.require_model("model_id", str(tmp_path))
    with pytest.raises(ConfigError, match="no such folder: runs/a/b"):
        hub.require_model("model_id", "runs/a/b")


def test_no_hub_names_the_model_and_the_pocket_command_in_seconds(online, tmp_path):
    online.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with ends_within(20), pytest.raises(MissingService) as caught:
        hub.require_model("comet_qe_model", "Unbabel/none-such-here", "hparams.yaml")
    message = str(caught.value)
    assert all(part in message for part in ("comet_qe_model", "Unbabel/none-such-here", "make train", "hf download"))
    online.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingService, match="HF_HUB_OFFLINE is set"):
        hub.require_model("model_id", "google/none-such-here")


def response(status=403):
    import requests

    reply = requests.Response()
    reply.status_code = status
    return reply


def test_explanations_look_behind_the_error_they_are_given():
    def wrapped(inner):
        try:
            try:
                raise inner
            except Exception as first:
                raise OSError("We couldn't connect") from first
        except OSError as error:
            return error

    gated = hub.explain("comet_qe_model", "Unbabel/x", wrapped(GatedRepoError("no", response=response())))
    assert "https://huggingface.co/Unbabel/x" in str(gated) and "licence" in str(gated)
    unknown = hub.explain("model_id", "a/b", wrapped(RepositoryNotFoundError("no", response=response(404))))
    assert "a/b does not exist on the hub" in str(unknown)
    other = hub.explain("model_id", "a/b", wrapped(ValueError("odd")))
    assert "OSError" in str(other)
    assert {type(e) for e in (gated, unknown, other)} == {MissingService}


# --- a hub of our own ----------------------------------------------------------------------------------


SHA, TAGGED = "0" * 40, "1" * 40  # the newest commit, and the one that the tag v1 names


def small_hub(repositories: dict[str, Path], cards: dict[str, dict], gated: set[str]):
    """Reply function of the part of the hub's HTTP interface that its client uses for models."""
    revisions = {"main": SHA, SHA: SHA, "v1": TAGGED, TAGGED: TAGGED}

    def info(name: str, sha: str) -> dict:
        files = [p for p in sorted(repositories[name].rglob("*")) if p.is_file()]
        siblings = [{"rfilename": str(p.relative_to(repositories[name])), "size": p.stat().st_size} for p in files]
        return {
            "id": name,
            "modelId": name,
            "sha": sha,
            "siblings": siblings,
            "cardData": cards.get(name),
            "gated": "auto" if name in gated else False,
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }

    def reply(method: str, path: str):
        path = unquote(path.split("?")[0])
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        name = "/".join(parts[:2])
        if name not in repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        sha = revisions.get(parts[3] if len(parts) > 3 else "main")
        if sha is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if path.startswith(f"/api/models/{name}/tree/"):  # asked by huggingface-hub 1
            listed = info(name, sha)["siblings"]
            tree = [{"type": "file", "path": f["rfilename"], "size": f["size"], "oid": sha} for f in listed]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        if path.startswith("/api/models/"):
            return 200, {"Content-Type": "application/json"}, json.dumps(info(name, sha)).encode()
        file = repositories[name] / "/".join(parts[4:])
        if name in gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {name} is restricted"}, b""
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}, b""
        data = file.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha}, data

    return reply


@pytest.fixture(scope="module")
def published(tiny_gemma, tiny_nllb, tiny_comet_da, tiny_comet_qe, tmp_path_factory):
    """The four tiny models as hub repositories; the COMETs name their encoder as a hub repository too."""
    root = tmp_path_factory.mktemp("hub")
    for name, source in (("da", tiny_comet_da), ("qe", tiny_comet_qe)):
        shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("encoder"))
        hparams = (root / name / "hparams.yaml").read_text()
        encoder = json.loads(hparams)["pretrained_model"]
        (root / name / "hparams.yaml").write_text(hparams.replace(json.dumps(encoder), '"acme/encoder"'))
        checkpoint = torch.load(root / name / "checkpoints" / "model.ckpt", weights_only=True)
        checkpoint["hyper_parameters"]["pretrained_model"] = "acme/encoder"
        torch.save(checkpoint, root / name / "checkpoints" / "model.ckpt")
    return {
        "acme/gemma": tiny_gemma,
        "acme/nllb": tiny_nllb,
        "acme/da": root / "da",
        "acme/qe": root / "qe",
        "acme/encoder": tiny_comet_da / "encoder",
    }


MODELS = ["--model_id", "acme/gemma", "--backtranslation_model", "acme/nllb"]
MODELS += ["--comet_da_model", "acme/da", "--comet_qe_model", "acme/qe"]


def test_download_fetches_everything_that_a_later_offline_run_needs(published, tmp_path):
    cards = {"acme/nllb": {"license": "cc-by-nc-4.0"}}
    with Server(small_hub(published, cards, set())) as server:
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": tmp_path, "HF_HUB_DISABLE_XET": "1"}
        done = command("train_grpo_en_ta.py", *MODELS, "--download", **env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Fetching" not in done.stderr  # the hub client's own bar
    first_fetched = next(i for i, line in enumerate(lines) if line.startswith("have "))
    assert first_fetched == 5 and all("GiB  licence" in line for line in lines[:4])
    assert lines[4] == "unknown: read the card of acme/gemma, acme/da, acme/nllb, acme/qe"
    assert "cc-by-nc-4.0" in next(line for line in lines if "acme/nllb" in line)
    assert "not stated" in next(line for line in lines if "acme/gemma" in line)
    code = (
        "import train_grpo_en_ta as t; from rl_nmt.models import policy\n"
        "cfg = t.RunCfg(model_id='acme/gemma', backtranslation_model='acme/nllb', comet_da_model='acme/da',"
        " comet_qe_model='acme/qe', backtranslation_beams=1)\n"
        "t.hub.require_models(t.models(cfg))\n"
        "print(t.build_reward(cfg)(['English: Thank you.\\nTamil:'], ['நன்றி.']))\n"
        "policy.load_policy(cfg.model_id, policy.load_tokenizer(cfg.model_id), policy.choose_precision(True))\n"
    )
    offline = command("-c", code, HF_HOME=tmp_path, HF_ENDPOINT="http://127.0.0.1:9", cwd=ROOT)
    assert offline.returncode == 0, offline.stderr
    assert 0.01 <= json.loads(offline.stdout.splitlines()[-1])[0] <= 1


def test_a_download_shows_how_far_it_is(tmp_path, monkeypatch):
    """Of the files it takes: those that are complete, arriving (under two names) and not begun."""
    blobs, out = tmp_path / "models--acme--big" / "blobs", io.StringIO()
    sizes = {"model.safetensors": ("aa", 5), "config.json": ("bb", 1), "other.bin": ("cc", 90)}
    files = [RepoSibling(rfilename=name, size=size * 2**20, blob_id=i) for name, (i, size) in sizes.items()]
    blobs.mkdir(parents=True)
    for name in ("bb", "cc"):
        (blobs / name).write_bytes(bytes(2**20))

    def arrives(repository, revision, allow_patterns):
        assert (repository, revision, allow_patterns) == ("acme/big", "v1", ["*.json", "*.safetensors"])
        assert utils.are_progress_bars_disabled()
        for size, ending in ((1, ".incomplete"), (3, ".x.incomplete")):
            (blobs / f"aa{ending}").write_bytes(bytes(size * 2**20))
            while f"download of acme/big@v1: {size + 1} of 6 MiB, 0" not in out.getvalue():
                time.sleep(0.01)
        return str(tmp_path)

    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(hub, "LOOK_EVERY", 0.01)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    monkeypatch.setattr("huggingface_hub.snapshot_download", arrives)
    monkeypatch.setattr(sys, "stdout", out)
    hidden = utils.are_progress_bars_disabled()
    with ends_within(60):
        assert hub.fetch("acme/big@v1", ["*.json", "*.safetensors"]) == tmp_path
    assert utils.are_progress_bars_disabled() == hidden and out.getvalue().count("\n") == 2


def test_a_gated_or_unknown_model_says_what_to_do(published, tmp_path):
    with Server(small_hub(published, {}, {"acme/qe"})) as server:
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": tmp_path, "HF_HUB_DISABLE_XET": "1"}
        gated = command("train_grpo_en_ta.py", *MODELS, "--download", **env)
        unknown = command("train_grpo_en_ta.py", *MODELS, "--model_id", "acme/gema", "--download", **env)
    assert gated.returncode == unknown.returncode == 69
    assert "gated: accept the licence" in gated.stdout
    for done, words in ((gated, "acme/qe is gated. Accept its licence"), (unknown, "acme/gema does not exist")):
        last = done.stderr.splitlines()[-1]
        assert last.startswith("error: ") and words in last and "Traceback" not in done.stderr


def test_download_without_a_hub_and_with_nothing_to_do(tiny_gemma, online, capsys):
    hub.download([ModelUse("model_id", str(tiny_gemma))])
    nothing, unknown = capsys.readouterr().out.splitlines()
    assert unknown.startswith("unknown: read the card of ") and "nothing to download" in nothing
    online.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingService, match="--download: the hub cannot be reached"):
        hub.download([ModelUse("model_id", "acme/gemma")])


@pytest.mark.slow
def test_pinned_revisions_are_fetched_found_again_and_recorded(published, tmp_path):
    """`org/name@revision`: the download, the cache, the scorer and the translator all take that commit."""
    code = (
        "import json, sys\nfrom rl_nmt import hub\nfrom rl_nmt.hub import ModelUse\n"
        "from rl_nmt.backtranslation.translator import load_backtranslator\n"
        "from rl_nmt.scorers.comet.scorer import load_comet\n"
        "hub.download([ModelUse('comet_qe_model', 'acme/qe@v1'), ModelUse('x', 'acme/nllb@' + '1' * 40)])\n"
        "da = load_comet('acme/da@v1')\nqe = load_comet('acme/qe@v1')\n"
        "newest = load_comet('acme/qe')\nnllb = load_backtranslator('acme/nllb@' + '1' * 40, beams=1)\n"
        "print(json.dumps([m.signature()['identity']['revision'] for m in (da, qe, newest, nllb)]))\n"
        "print(json.dumps([bool(hub.cached(n)) for n in ('acme/nllb@v1', 'acme/nllb', 'acme/nllb@v2')]))\n"
        "hub.download([ModelUse('model_id', 'acme/gemma@v1')])\nprint(json.dumps([da.name, nllb.name]))\n"
    )
    with Server(small_hub(published, {}, set())) as server:
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": tmp_path, "HF_HUB_DISABLE_XET": "1"}
        done = command("-c", code, **env)
    assert done.returncode == 0, done.stderr
    revisions, cached, names = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert names == ["acme/da", "acme/nllb"]  # a commit has one identity, however it was named
    assert revisions == [TAGGED, TAGGED, SHA, TAGGED]
    code = (
        "from rl_nmt.models import policy\nfrom rl_nmt.runs import run_folder\n"
        "tokenizer = policy.load_tokenizer('acme/gemma@v1')\n"
        "policy.load_policy('acme/gemma@v1', tokenizer, policy.choose_precision(True))\n"
        "print(run_folder.model_identity('acme/gemma@v1')['model'])\n"
    )
    done = command("-c", code, HF_HOME=tmp_path)
    assert done.stdout.splitlines()[-1:] == [f"acme/gemma@{TAGGED}"], done.stderr
    assert cached == [False, False, False]  # pinned by its commit: no tag was asked for, and main was not fetched


def test_where_a_model_would_come_from(published, tmp_path):
    code = (
        "import json\nfrom rl_nmt import errors, hub\nfrom rl_nmt.hub import ModelUse\n"
        "hub.download([ModelUse('model_id', 'acme/gemma@v1')])\nanswers = []\n"
        "for name in ('acme/gemma@v1', 'acme/nllb', 'acme/nllb@v1', 'acme/nllb@v9', 'acme/none', 'acme/qe@v1', '.'):\n"
        "    try:\n"
        "        model = ModelUse('model_id', name, 'config.json' if name != '.' else 'Makefile')\n"
        "        answers.append(hub.locate(model))\n"
        "    except errors.MissingService as error:\n        answers.append(str(error))\n"
        "print(json.dumps(answers))\n"
    )
    with Server(small_hub(published, {}, {"acme/qe"})) as server:
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": tmp_path, "HF_HUB_DISABLE_XET": "1"}
        done = command("-c", code, **env)
    assert done.returncode == 0, done.stderr
    cached, there, pinned, no_revision, unknown, gated, folder = json.loads(done.stdout.splitlines()[-1])
    assert (cached, there, pinned, folder) == ("cache", "hub", "hub", "folder")
    assert "acme/nllb has no revision v9" in no_revision and "acme/none does not exist" in unknown
    assert "https://huggingface.co/acme/qe while" in gated  # the licence's page, without the revision

"""rl_nmt.scorers.comet.scorer against its oracle: COMET's own loader and `model.predict`."""

from __future__ import annotations

import http.server
import json
import logging
import os
import pickle
import random
import shutil
import statistics
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from comet_oracle import LONG, VARIANTS, predict, rows
from tiny_models import PAIRS, build_comet

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models.batching import TokenBudget
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet.scorer import PROBE, load_comet

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def da(tiny_comet_da):
    return load_comet(tiny_comet_da)


@pytest.fixture(scope="module")
def qe(tiny_comet_qe):
    return load_comet(tiny_comet_qe)


@pytest.fixture
def checkpoint(tmp_path):
    """A fresh DA folder and a function that rewrites its checkpoint."""
    folder = build_comet(tmp_path / "model")
    file = folder / "checkpoints" / "model.ckpt"

    def rewrite(change):
        stored = torch.load(file, weights_only=True)
        change(stored)
        torch.save(stored, file)

    return folder, rewrite


@pytest.mark.parametrize("linears", ["torch", "auto"])
@pytest.mark.parametrize("kind, overrides", VARIANTS)
def test_equal_to_predict(tmp_path, kind, overrides, linears):
    folder = build_comet(tmp_path / "m", kind=kind, **overrides)
    scorer, segments = load_comet(folder, linears=linears), rows()
    assert scorer.route.encoder is not None
    # Models without reference input must ignore it, so the oracle gets none.
    expected = predict(folder, segments, reference=scorer.model.reads_reference)
    assert statistics.pstdev(expected) > 0.05  # constant scores would agree by themselves
    assert scorer.score(segments).values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("with_reference", [True, False])
def test_xcomet_marks_the_spans_that_predict_marks(tmp_path, with_reference):
    comet = pytest.importorskip("comet")

    folder = build_comet(tmp_path / "m", kind="xcomet_metric", layer_norm=False)
    segments = [s if with_reference else Segment(s.src, s.mt) for s in rows()]
    model = comet.load_from_checkpoint(str(folder / "checkpoints" / "model.ckpt"), local_files_only=True)
    data = [{"src": s.src, "mt": s.mt} | ({"ref": s.ref} if with_reference else {}) for s in segments]
    with torch.random.fork_rng(devices=[]):
        output = model.predict(data, batch_size=8, gpus=0, progress_bar=False)
    ours = load_comet(folder).score(segments)
    assert ours.values == pytest.approx(output.scores, abs=1e-5)
    assert sum(map(len, ours.spans)) > 50  # models without any spans would agree by themselves
    assert len({span.severity for spans in ours.spans for span in spans}) > 1
    for mine, theirs in zip(ours.spans, output.metadata.error_spans, strict=True):
        assert [(s.start, s.end, s.severity) for s in mine] == [(t["start"], t["end"], t["severity"]) for t in theirs]
        assert [s.confidence for s in mine] == pytest.approx([t["confidence"] for t in theirs], abs=1e-5)


def test_layers_that_the_mixture_gives_no_weight_are_not_run(checkpoint):
    folder, rewrite = checkpoint

    def lower(stored):
        for i, logit in enumerate((0.0, 9.0, 0.0, 0.0)):
            stored["state_dict"][f"layerwise_attention.scalar_parameters.{i}"].fill_(logit)

    rewrite(lower)
    scorer = load_comet(folder)
    assert len(scorer.route.encoder.layers) == 1
    assert scorer.score(rows()).values == pytest.approx(predict(folder, rows()), abs=1e-5)


def test_a_unified_model_with_and_without_references_in_one_call(tmp_path):
    folder = build_comet(tmp_path / "m", kind="unified_metric", input_segments=["mt", "src", "ref"])
    segments = rows()[:12]
    mixed = [Segment(s.src, s.mt, s.ref if i % 2 else None) for i, s in enumerate(segments)]
    with_ref, without = predict(folder, segments), predict(folder, segments, reference=False)
    expected = [with_ref[i] if i % 2 else without[i] for i in range(len(segments))]
    assert max(abs(a - b) for a, b in zip(with_ref, without, strict=True)) > 1e-3
    assert load_comet(folder).score(mixed).values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["da", "qe"])
def test_order_neighbours_and_budget_change_nothing(request, name):
    scorer, segments = request.getfixturevalue(name), rows()
    expected = scorer.score(segments).values
    order = random.Random(1).sample(range(len(segments)), len(segments))
    assert scorer.score([segments[i] for i in order]).values == pytest.approx([expected[i] for i in order], abs=1e-6)
    alone = [scorer.score([segment]).values[0] for segment in segments[:10]]
    assert alone == pytest.approx(expected[:10], abs=1e-6)
    scorer.budget, before = TokenBudget(64), scorer.budget
    assert scorer.score(segments).values == pytest.approx(expected, abs=1e-6)
    scorer.budget = before


def test_each_distinct_sentence_is_encoded_once(da, qe):
    source = PAIRS[8][0]
    group = [Segment(source, en, source) for en, _ in PAIRS[:8]]
    values = da.score(group * 2).values
    assert da.stats["encoded"] == 9  # one source and eight translations; predict encodes 48
    assert (da.stats["rows"], da.stats["distinct"]) == (16, 8)
    assert values[:8] == values[8:]
    qe.score([Segment(PAIRS[0][0], ta) for _, ta in PAIRS[:4]] * 3)
    assert qe.stats["encoded"] == 4


def test_little_is_padded(da, qe):
    """Lengths as in C4: 5 to 60 words; plain predict pads 10 to 35 % of its tokens."""
    rng = random.Random(0)
    words = LONG.split()
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(64)]
    da.score([Segment(a, b, a) for a, b in zip(texts[::2], texts[1::2], strict=True)])
    qe.score([Segment(a, b) for a, b in zip(texts[::2], texts[1::2], strict=True)])
    assert 0 <= da.stats["padded_share"] <= 0.12 and 0 <= qe.stats["padded_share"] <= 0.12


def test_nothing_moves_between_calls(da, monkeypatch):
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *a, **k: moved.append(a) or self)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self, *a, **k: moved.append(a) or self)
    assert da.score(rows()[:3]).values and not moved


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"linears": "fast"}, "linears: 'fast'"),
        ({"attention": "flash"}, "attention: 'flash'"),
        ({"attention": "varlen", "dtype": "bfloat16"}, "attention: varlen .*bfloat16 on cpu"),
        ({"dtype": "float16"}, "comet_model: float16 .*cpu"),
        ({"dtype": "int8"}, "comet_model: 'int8'"),
    ],
)
def test_unusable_settings_are_refused(tiny_comet_da, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_comet(tiny_comet_da, **settings)


def test_without_the_private_operators_torchs_own_linears_are_used(tiny_comet_da, monkeypatch):
    expected = load_comet(tiny_comet_da, linears="torch").score(rows()[:5]).values
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    scorer = load_comet(tiny_comet_da)
    assert scorer.route.linears == "torch" and scorer.score(rows()[:5]).values == expected
    with pytest.raises(ConfigError, match="linears: prepacked"):
        load_comet(tiny_comet_da, linears="prepacked")
    with pytest.raises(ConfigError, match="overlong: 'cut'"):
        load_comet(tiny_comet_da, overlong="cut")


@pytest.mark.parametrize("kind, most", [("regression_metric", 508), ("unified_metric", 508), ("xcomet_metric", 508)])
def test_segments_longer_than_the_encoder_reads_are_skipped_where_asked(tmp_path, kind, most):
    """512 tokens: <s> mt </s></s> src </s> together, or each text with <s> … </s> cut at 510 as COMET cuts it."""
    folder = build_comet(tmp_path / "m", kind=kind, **({} if kind == "regression_metric" else {"layer_norm": False}))
    skipping, cutting = load_comet(folder, overlong="skip"), load_comet(folder)
    encode = skipping.model.encoder.tokenizer
    word = next(w for w in ("மழை", "door", "a") if len(encode(w, add_special_tokens=False)["input_ids"]) == 1)

    def of(tokens: int) -> Segment:
        other = "" if kind == "regression_metric" else " ".join([word] * 200)
        mt = " ".join([word] * (tokens - (200 if other else 0)))
        return Segment(other, mt, "" if kind == "regression_metric" else None)

    short, fits, over = Segment("a", "b", "a"), of(most), of(most + 1)
    segments = [short, over, fits] if kind == "regression_metric" else [Segment("a", "b"), over, fits]
    found = skipping.score(segments)
    assert found.values[1] is None and found.values[::2] == pytest.approx(cutting.score(segments).values[::2])
    assert cutting.score([over]).values[0] is not None
    if kind == "xcomet_metric":
        assert found.spans[1] is None and found.spans[2] is not None
    assert skipping.signature()["identity"]["overlong"] == "skip"
    assert "overlong" not in cutting.signature()["identity"]  # the default keeps the identity of earlier runs


def test_nothing_to_score(da, qe):
    assert da.score([]).values == [] and qe.score([]).values == []


@pytest.mark.parametrize("kind", ["regression_metric", "xcomet_metric"])
def test_no_trainer_is_built(tmp_path, monkeypatch, kind):
    pytorch_lightning = pytest.importorskip("pytorch_lightning")

    def refuse(*args, **kwargs):
        raise AssertionError("a Trainer was built")

    scorer = load_comet(build_comet(tmp_path / "m", kind=kind, layer_norm=False))
    monkeypatch.setattr(pytorch_lightning.Trainer, "__init__", refuse)
    assert None not in scorer.score([Segment(en, ta, ref=ta if kind[0] == "r" else None) for en, ta in PAIRS]).values


def test_global_state_does_not_change(tiny_comet_da):
    root = logging.getLogger()
    level, handlers, state = root.level, list(root.handlers), torch.get_rng_state()
    scorer = load_comet(tiny_comet_da)
    weight = torch.ones(1, requires_grad=True)
    with torch.enable_grad():
        scorer.score(rows()[:4])
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        (weight * 3).backward()
    assert (root.level, list(root.handlers)) == (level, handlers)
    assert torch.equal(torch.get_rng_state(), state)
    assert not scorer.model.training and not any(p.requires_grad for p in scorer.model.parameters())


def test_unbabel_comet_is_not_needed(tiny_comet_da):
    code = (
        "import logging, sys\nsys.modules['comet'] = None\n"
        "before = (logging.root.level, list(logging.root.handlers))\n"
        "from rl_nmt.scorers.base import Segment\nfrom rl_nmt.scorers.comet.scorer import load_comet\n"
        "print(load_comet(sys.argv[1]).score([Segment('a', 'b', 'c')]).values[0])\n"
        "assert before == (logging.root.level, list(logging.root.handlers)), logging.root.handlers\n"
    )
    done = _python(code, str(tiny_comet_da))
    assert (done.returncode, done.stderr) == (0, "")  # also no warnings of libraries
    assert 0 < float(done.stdout) < 1


@pytest.mark.parametrize("policy", ["medium", "high", "highest"])
def test_scores_do_not_depend_on_the_policys_matmul_precision(da, policy):
    before, seen = torch.get_float32_matmul_precision(), []
    expected = da.score(rows()[:6]).values
    hook = da.model.estimator.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision(policy)
    try:
        assert da.score(rows()[:6]).values == expected
        assert torch.get_float32_matmul_precision() == policy
        with pytest.raises(ConfigError):
            da.score([Segment("a", "b")])
        assert torch.get_float32_matmul_precision() == policy
    finally:
        torch.set_float32_matmul_precision(before)
        hook.remove()
    assert set(seen) == {"highest"}


def test_precision_is_restored_when_the_model_fails(da):
    def explode(*_):
        raise RuntimeError("out of memory")

    hook, before = da.model.estimator.register_forward_hook(explode), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            da.score(rows()[:2])
        assert torch.get_float32_matmul_precision() == "medium"
        assert not torch.is_inference_mode_enabled()
    finally:
        hook.remove()
        torch.set_float32_matmul_precision(before)


def test_the_probe_has_texts_of_all_lengths(da):
    """Also texts of which the encoder reads only the beginning."""
    tokens = [len(da.model.encoder.tokenizer(s.mt, verbose=False)["input_ids"]) for s in PROBE]
    assert min(tokens) <= 4 and max(tokens) > da.model.encoder.max_positions
    assert all(any(low < n <= 4 * low for n in tokens) for low in (4, 16, 32, 128))


@pytest.mark.parametrize("fixture", ["tiny_comet_da", "tiny_comet_qe"])
def test_bfloat16_is_close_and_reports_its_error(request, fixture):
    folder = request.getfixturevalue(fixture)
    exact, rough = load_comet(folder), load_comet(folder, dtype="bfloat16")
    gap = [abs(a - b) for a, b in zip(exact.score(rows()).values, rough.score(rows()).values, strict=True)]
    assert 0 < max(gap) and statistics.mean(gap) < 0.02
    assert rough.signature()["identity"] == exact.signature()["identity"] | {"dtype": "bfloat16"}
    assert 0 < rough.dtype_error < 0.1 and exact.dtype_error == 0.0
    assert rough.signature()["environment"]["dtype_error"] == f"{rough.dtype_error:.1e}"
    assert rough.error_of("bfloat16") == exact.error_of("bfloat16") == rough.dtype_error
    assert exact.score(rows()).values == load_comet(folder).score(rows()).values
    # Measuring does not change the requested precision, and the error depends on the checkpoint alone.
    assert load_comet(folder, dtype="bfloat16").dtype_error == rough.dtype_error


def test_a_score_that_is_not_finite_is_none(checkpoint):
    folder, rewrite = checkpoint
    rewrite(lambda c: c["state_dict"]["estimator.ff.0.bias"].fill_(float("nan")))
    assert load_comet(folder).score(rows()[:3]).values == [None] * 3


def test_overflow_in_half_precision_is_an_infinite_error(checkpoint):
    folder, rewrite = checkpoint
    name = "encoder.model.encoder.layer.0.intermediate.dense.weight"
    rewrite(lambda c: c["state_dict"][name].mul_(1e6))
    scorer = load_comet(folder)
    assert None not in scorer.score(rows()).values
    assert scorer.error_of("float16") == float("inf") > scorer.error_of("bfloat16")


def test_segments_skipped_as_too_long_do_not_count_in_the_error(tiny_comet_qe):
    scorer = load_comet(tiny_comet_qe, dtype="bfloat16", overlong="skip")
    assert 0 < scorer.dtype_error < 0.1 and scorer.route.dtype == torch.bfloat16


def test_lone_surrogates_and_nul_are_scored(da, qe):
    odd = [Segment("a\ud800b", "x\x00y", "\udfff"), Segment("ok", "fine", "ok")]
    for scorer in (da, qe):
        assert all(isinstance(value, float) for value in scorer.score(odd).values)


def test_attributes_and_signature(da, qe, tiny_comet_da, tmp_path):
    assert da.range == (0.0, 1.0) and da.higher_is_better and da.name == tiny_comet_da.name
    assert da.model.reads_reference and not qe.model.reads_reference
    assert load_comet(tiny_comet_da / "checkpoints" / "model.ckpt").signature() == da.signature()
    moved = shutil.copytree(tiny_comet_da, tmp_path / "elsewhere" / tiny_comet_da.name)
    assert load_comet(moved).signature() == da.signature()
    assert set(da.signature()["environment"]) == {"transformers", "torch", "linears", "attention"}
    other = load_comet(build_comet(tmp_path / tiny_comet_da.name, seed=5)).signature()["identity"]
    assert [k for k, v in other.items() if v != da.signature()["identity"][k]] == ["checkpoint"]


@pytest.mark.parametrize("recorded", ["encoder", "gone/encoder", "/gone/encoder"])
def test_a_moved_folder_finds_its_encoder(checkpoint, tmp_path, monkeypatch, recorded):
    folder, rewrite = checkpoint
    expected = load_comet(folder).score(rows()[:5]).values
    rewrite(lambda c: c["hyper_parameters"].update(pretrained_model=recorded))
    moved = shutil.move(folder, tmp_path / "moved")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert load_comet(moved).score(rows()[:5]).values == expected


def test_hyper_parameters_of_the_checkpoint_take_precedence(checkpoint):
    folder, _ = checkpoint
    described = json.loads((folder / "hparams.yaml").read_text())
    described |= {"pool": "cls", "layer_norm": True, "pretrained_model": "/nowhere"}
    (folder / "hparams.yaml").write_text(json.dumps(described))
    assert load_comet(folder).score(rows()).values == pytest.approx(predict(folder, rows()), abs=1e-5)


def test_the_sparsemax_patch_of_the_yaml_is_honoured(checkpoint):
    folder, _ = checkpoint
    before = load_comet(folder).score(rows()).values
    described = json.loads((folder / "hparams.yaml").read_text()) | {"layer_transformation": "sparsemax_patch"}
    (folder / "hparams.yaml").write_text(json.dumps(described))
    after = load_comet(folder).score(rows()).values
    assert after == pytest.approx(predict(folder, rows()), abs=1e-5)
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 1e-4


def test_leftover_keys_of_older_checkpoints_are_ignored(checkpoint):
    folder, rewrite = checkpoint
    expected = load_comet(folder).score(rows()[:5]).values

    def add(stored):
        stored["state_dict"]["encoder.model.embeddings.position_ids"] = torch.arange(514)[None]
        stored["state_dict"]["encoder.model.pooler.dense.weight"] = torch.zeros(32, 32)

    rewrite(add)
    assert load_comet(folder).score(rows()[:5]).values == expected


def _lose(stored):
    del stored["state_dict"]["encoder.model.encoder.layer.1.output.dense.weight"]


def _gain(stored):
    stored["state_dict"]["surprise"] = torch.zeros(1)


def _reshape(stored):
    stored["state_dict"]["estimator.ff.0.bias"] = torch.zeros(7)


def _no_encoder(stored):
    stored["hyper_parameters"]["pretrained_model"] = "/gone/other"


def _no_weights(stored):
    del stored["state_dict"]


@pytest.mark.parametrize(
    "change, message",
    [
        (_lose, "missing encoder.model.encoder.layer.1.output.dense.weight"),
        (_gain, "unknown surprise"),
        (_reshape, r"estimator\.ff\.0\.bias"),
        (_no_encoder, "/gone/other.*pretrained_model"),
        (_no_weights, "damaged"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint, change, message):
    folder, rewrite = checkpoint
    rewrite(change)
    with pytest.raises(ConfigError, match=message) as error:
        load_comet(folder, argument="comet_da_model")
    assert "comet_da_model" in str(error.value) and "\n" not in str(error.value)


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_damaged_or_poisoned_checkpoint_is_refused(checkpoint, monkeypatch):
    folder, _ = checkpoint
    monkeypatch.chdir(folder)
    file = folder / "checkpoints" / "model.ckpt"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint", pickle.dumps(Payload())):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="damaged"):
            load_comet(folder)
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("kind", ["xcomet_metric", "ranking_metric", "my_metric"])
def test_another_class_is_named(checkpoint, kind):
    folder, _ = checkpoint
    described = json.loads((folder / "hparams.yaml").read_text()) | {"class_identifier": kind}
    (folder / "hparams.yaml").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match=f"{kind}; .*regression_metric"):
        load_comet(folder, classes=["regression_metric"])


@pytest.mark.parametrize("content", [b"", b"- a\n", b"class_identifier: [", b"\xff\xfe\x00", b"pool: avg\n"])
def test_malformed_hparams(checkpoint, content):
    folder, _ = checkpoint
    (folder / "hparams.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match="class_identifier"):
        load_comet(folder)


def test_bad_arguments(tiny_comet_da, da, tmp_path):
    for options, message in [
        ({"device": "gpu"}, "comet_model: 'gpu'"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"dtype": "int8"}, "'int8'"),
        ({"classes": ["unified_metric"]}, "regression_metric; .*unified_metric"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_comet(tiny_comet_da, **options)
    with pytest.raises(ConfigError, match=r"comet_model: .*/nothing"):
        load_comet(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"model\.ckpt"):
        load_comet(tmp_path)
    with pytest.raises(ConfigError, match=r"segment 1.* ref"):
        da.score([Segment("a", "b", "c"), Segment("a", "b")])


def test_a_hub_model_comes_from_the_local_cache(tiny_comet_da, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--some--comet"
    shutil.copytree(tiny_comet_da, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    scorer = load_comet("some/comet")
    assert scorer.score(rows()[:3]).values == load_comet(tiny_comet_da).score(rows()[:3]).values
    assert (scorer.name, scorer.revision) == ("some/comet", commit)


def test_no_network_is_reported_within_seconds(tmp_path):
    with pytest.raises(MissingService, match="Unbabel/wmt22-comet-da"):
        load_comet("Unbabel/wmt22-comet-da", argument="comet_da_model")  # tests run with HF_HUB_OFFLINE
    done = _load_from_hub("http://127.0.0.1:9", "Unbabel/wmt22-comet-da", tmp_path)
    assert "MissingService" in done.stdout and "Unbabel/wmt22-comet-da" in done.stdout, done.stderr


@pytest.mark.parametrize("at", ["repository", "files"])
def test_a_gated_model_names_its_licence_page(at, tmp_path):
    with _hub(at) as endpoint:
        done = _load_from_hub(endpoint, "Unbabel/wmt22-cometkiwi-da", tmp_path)
    assert "MissingService" in done.stdout, done.stderr
    assert "https://huggingface.co/Unbabel/wmt22-cometkiwi-da" in done.stdout and "hf auth login" in done.stdout


def _python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _load_from_hub(endpoint: str, name: str, home: Path) -> subprocess.CompletedProcess:
    """`load_comet(name)` in its own process (the endpoint is read at import), killed after 20 s without imports."""
    code = (
        "import sys, signal\nfrom rl_nmt.scorers.comet.scorer import load_comet\nimport huggingface_hub\n"
        "signal.alarm(20)\n"
        "try:\n    load_comet(sys.argv[1])\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    return _python(code, name, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0", HF_HOME=str(home), NO_PROXY="127.0.0.1")


@contextmanager
def _hub(gated_at: str):
    """A local server that answers as the hub does for a gated repository."""
    commit = "a" * 40

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            refused = gated_at == "repository" or "/api/" not in self.path
            listing = {"id": "x/y", "sha": commit, "siblings": [{"rfilename": "hparams.yaml"}]}
            tree = [{"type": "file", "path": "hparams.yaml", "oid": commit, "size": 9}]  # huggingface-hub 1 asks for it
            body = b"" if refused else json.dumps(tree if "/tree/" in self.path else listing).encode()
            self.send_response(403 if refused else 200)
            if refused:
                self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

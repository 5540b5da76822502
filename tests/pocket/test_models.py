"""The pocket builder on a very small budget: files in the real formats, built once, usable by the product."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from pocket import build, fitting, formats, grammar, scorers
from rl_nmt.errors import CannotWrite, ConfigError
from rl_nmt.text.known_words import known_words, unknown_words


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build.build(tmp_path_factory.mktemp("pocket") / "seed0", seed=0, sizes=build.SMALL)


def test_a_second_build_does_nothing_and_another_seed_builds_again(world, capsys):
    stamp = (world / "build.json").stat().st_mtime_ns
    assert build.build(world, seed=0, sizes=build.SMALL) == world
    assert (world / "build.json").stat().st_mtime_ns == stamp
    assert build.key(0, build.SMALL) != build.key(1, build.SMALL)


def test_the_scorers_are_checked_on_samples_of_the_policy(world):
    check = json.loads((world / "build.json").read_text())["check"]
    assert set(check) == {"sampled_chrf", "total", "cycle", "qe"}


def test_every_part_loads_with_the_products_own_code(world):
    from rewards_en_ta_dupo import CometDuPOReward
    from rl_nmt.data import corpus
    from rl_nmt.models import policy

    tokenizer = policy.load_tokenizer(str(world / "policy"))
    policy.load_policy(str(world / "policy"), tokenizer, policy.choose_precision(lora=False), "eager")
    reward = CometDuPOReward(str(world / "comet_da"), str(world / "comet_qe"), str(world / "nllb"))
    pairs = corpus.load_eval("none", str(world / "heldout.jsonl"), 4, 0)
    assert all(
        v is not None for v in reward(None, [p["reference"] for p in pairs], source=[p["source"] for p in pairs])
    )


def test_the_words_it_was_taught_are_listed(world):
    known = known_words(str(world / "policy"))
    taught = next(grammar.pairs(0, part="train", max_words=build.SMALL.max_words))
    assert unknown_words(f"{taught.english} Xyzzy", known) == ["Xyzzy"]


def test_the_training_shard_and_the_references_share_no_sentence(world, tmp_path):
    from rl_nmt.data import corpus

    settings = corpus.CorpusSettings(
        dataset_name=str(world / "c4"),
        num_train_samples=20,
        num_eval_samples=5,
        shuffle_buffer=10,
        min_chars=12,
        max_chars=60,
    )
    data = corpus.materialise(tmp_path / "data", settings)
    references = {json.loads(line)["english"] for line in (world / "heldout.jsonl").read_text().splitlines()}
    assert not references & set(data.train)
    assert not references & set(data.heldout)


def test_comet_checkpoint_scores_like_its_own_library(world):
    load_from_checkpoint = pytest.importorskip("comet").load_from_checkpoint
    from rl_nmt.scorers.base import Segment
    from rl_nmt.scorers.comet.scorer import load_comet

    rows = [("A cat sleeps.", "A dog sleeps.", "A cat sleeps."), ("I will wait.", "I waited.", "I will wait.")]
    ours = load_comet(str(world / "comet_da")).score([Segment(*row) for row in rows]).values
    hparams = json.loads((world / "comet_da" / "hparams.yaml").read_text())
    assert hparams["pretrained_model"] == "encoder"
    import os

    before = os.getcwd()
    os.chdir(world / "comet_da")  # the library resolves a relative encoder against the working directory
    try:
        theirs = load_from_checkpoint("checkpoints/model.ckpt", local_files_only=True)
    finally:
        os.chdir(before)
    wanted = theirs.predict(
        [dict(zip(("src", "mt", "ref"), row, strict=True)) for row in rows], gpus=0, progress_bar=False
    )
    assert ours == pytest.approx(wanted.scores, abs=1e-5)


def test_correlations_against_scipy():
    rng = np.random.default_rng(0)
    quality = rng.random(40)
    values = quality + 0.3 * rng.random(40)
    found = scorers.correlations(values, quality, group=8)
    assert found["pearson"] == pytest.approx(np.corrcoef(values, quality)[0, 1])
    groups = [spearmanr(values[i : i + 8], quality[i : i + 8]).statistic for i in range(0, 40, 8)]
    assert found["spearman"] == pytest.approx(np.mean(groups))
    values[3] = np.nan
    assert np.isfinite(list(scorers.correlations(values, quality, group=8).values())).all()


def test_word_tags_follow_the_words():
    tokenizer = formats.xlmr_tokenizer(["நான் வந்தேன்.", "அவன் நேற்று வந்தான்."] * 20, 60)
    tags = scorers.word_tags(tokenizer, "நான் வந்தான்.", "நான் வந்தேன்.")
    words = tokenizer("நான் வந்தான்.").word_ids()
    assert [t for t, w in zip(tags, words, strict=True) if w == 0] == [1.0] * words.count(0)
    assert {t for t, w in zip(tags, words, strict=True) if w is None} == {-1.0}
    assert 0.0 in tags


def test_training_continues_until_ready_and_then_lowers_the_rate():
    import torch

    model, asked = torch.nn.Linear(2, 1), []

    def loss():
        return model(torch.ones(1, 2)).square().sum()

    def ready(taken: int) -> bool:
        asked.append(taken)
        return taken >= 8

    assert fitting.train(model, loss, 4, 1e-2, ready) == 8 + 1
    assert asked == [4, 8] and not model.training
    assert fitting.train(model, loss, 4, 1e-2) == 4
    assert fitting.train(model, loss, 4, 1e-2, lambda _taken: False) == 16 + 1  # four times at most


def test_muon_makes_matrices_orthogonal_and_learns():
    import torch

    torch.manual_seed(0)
    for shape in ((6, 20), (20, 6)):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape)
        fitting.Muon([weight], lr=1.0).step()
        spread = torch.linalg.svdvals(weight.detach()) / max(1, shape[0] / shape[1]) ** 0.5
        assert spread.min() > 0.6 and spread.max() < 1.3  # all directions alike, as the paper says of five rounds


# --- builds that are stopped, or cannot work -------------------------------------------------------------

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from pocket import build
if __name__ == "__main__":
    build.build(Path(sys.argv[1]), sizes=replace(build.SMALL, processes=2, nllb_steps=int(sys.argv[2])))
"""


@pytest.fixture
def start(tmp_path):
    """start(nllb_steps) → a build in two processes, started in a shell's way: with a process group of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    root = str(Path(__file__).resolve().parents[2])
    jobs = []

    def started(steps: int):
        line = [sys.executable, str(script), str(tmp_path / "world"), str(steps)]
        env = os.environ | {"PYTHONPATH": root}
        pipe = subprocess.PIPE
        jobs.append(subprocess.Popen(line, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return jobs[-1]

    yield started
    for job in jobs:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_was_stopped_continues_with_whole_parts(start, tmp_path, number):
    """The back-translator would take for ever; Ctrl-C reaches the whole group, a kill the builder alone."""
    job, draft = start(10**9), tmp_path / "world.part"
    wait_for(draft / "policy")
    wait_for(draft / "nllb.part")
    os.killpg(job.pid, number) if number == signal.SIGINT else job.kill()
    job.communicate(timeout=60)
    assert not (tmp_path / "world").exists() and not (draft / "nllb").exists()
    made = (draft / "policy" / "model.safetensors").stat().st_mtime_ns
    sizes = dataclasses.replace(build.SMALL, processes=1)
    (draft / "key").write_text(build.key(0, sizes), encoding="utf-8")  # as if it had been this world all along
    world = build.build(tmp_path / "world", sizes=sizes)
    assert (world / "policy" / "model.safetensors").stat().st_mtime_ns == made
    assert {path.name for path in world.iterdir()} == {
        *("build.json", "c4", "heldout.jsonl", "words.txt", "policy", "nllb", "comet_da", "comet_qe")
    }


@pytest.mark.slow
def test_two_builds_at_once_are_refused_in_one_line(start, tmp_path):
    job = start(10**9)
    wait_for(tmp_path / "world.part" / "nllb.part")
    with pytest.raises(ConfigError, match=r"world: another process is building it; wait for it or stop it$"):
        build.build(tmp_path / "world", sizes=build.SMALL)
    assert job.poll() is None


def test_another_world_does_not_continue_with_parts_of_this_one(tmp_path):
    draft = tmp_path / "world.part"
    build.begin(draft, "one")
    (draft / "policy").mkdir()
    (draft / "nllb.part").mkdir()
    (draft / "heldout.jsonl.part").touch()  # a file that was being written
    build.begin(draft, "one")
    assert {path.name for path in draft.iterdir()} == {"key", "policy"}
    build.begin(draft, "two")
    assert not (draft / "policy").exists()


def test_a_full_disk_is_one_line_before_and_during_the_build(tmp_path, monkeypatch):
    def usage(free: int):
        return lambda _path: shutil._ntuple_diskusage(2**40, 2**40 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", usage(100 * 2**20))
    with pytest.raises(CannotWrite, match="100 MB are free, and the pocket world needs 200 MB"):
        build.build(tmp_path / "world", sizes=build.SMALL)
    monkeypatch.setattr(shutil, "disk_usage", usage(2**40))

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "build_all", full)
    with pytest.raises(CannotWrite, match="the disk is full; free some space"):
        build.build(tmp_path / "world", sizes=build.SMALL)

    def torch_says(*_args):  # torch and safetensors raise errors of their own
        monkeypatch.setattr(shutil, "disk_usage", usage(0))
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(build, "build_all", torch_says)
    with pytest.raises(CannotWrite, match="the disk is full"):
        build.build(tmp_path / "world", sizes=build.SMALL)

"""Session-wide tiny models, and no test that touches the network or leaves global state behind."""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
import shutil

# Before any import of torch or huggingface_hub: tests are offline, and each process of a parallel run has one thread.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


def _build(factory, name, builder, *args, **options):
    """`builder(folder, …)`, called once for all workers of pytest-xdist; returns its value.

    The first worker that asks builds, under a lock; the value is pickled beside the folder when everything is
    written, so that a build that was stopped half way does not count. The root logger stays as it was (libraries
    change it).
    """
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, built = base / f"shared_{name}", base / f"shared_{name}.pickle"
    with (base / f"shared_{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            root = logging.getLogger()
            level, handlers = root.level, list(root.handlers)
            value = builder(folder, *args, **options)
            root.setLevel(level)
            root.handlers[:] = handlers
            part = built.with_suffix(".part")
            part.write_bytes(pickle.dumps(value))
            part.rename(built)
        return pickle.loads(built.read_bytes())


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory):
    """Folder of a tiny Gemma 3 policy that knows tiny_models.PAIRS by heart."""
    import tiny_models

    return _build(tmp_path_factory, "gemma", tiny_models.build_gemma)


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory):
    """Folder of a tiny random Gemma 3 with a vision tower."""
    import tiny_vlm

    return _build(tmp_path_factory, "vlm", tiny_vlm.build)


@pytest.fixture(scope="session")
def tiny_nllb(tmp_path_factory):
    """Folder of a tiny NLLB-format model that translates tiny_models.PAIRS from Tamil to English."""
    import tiny_models

    return _build(tmp_path_factory, "nllb", tiny_models.build_nllb)


@pytest.fixture(scope="session")
def tiny_comet_da(tmp_path_factory):
    """Folder of a random COMET-DA checkpoint (src, mt, ref)."""
    import tiny_models

    return _build(tmp_path_factory, "comet_da", tiny_models.build_comet, kind="regression_metric")


@pytest.fixture(scope="session")
def tiny_comet_qe(tmp_path_factory):
    """Folder of a random COMETKiwi checkpoint (src, mt)."""
    import tiny_models

    return _build(tmp_path_factory, "comet_qe", tiny_models.build_comet, kind="unified_metric")


@pytest.fixture(scope="session")
def tiny_policy(tiny_gemma, tmp_path_factory):
    """Folder of the tiny policy once it also knows the words of the trainer's prompt."""
    import tiny_run

    return _build(tmp_path_factory, "policy", tiny_run.teach_prompt, tiny_gemma)


@pytest.fixture(scope="session")
def tiny_all(tiny_policy, tiny_nllb, tiny_comet_da, tiny_comet_qe):
    """All four models of a run: name → folder."""
    return {"policy": tiny_policy, "nllb": tiny_nllb, "da": tiny_comet_da, "qe": tiny_comet_qe}


@pytest.fixture(scope="session")
def full_run(tiny_all, tmp_path_factory):
    """A finished run of train_grpo_en_ta.py as a process of its own (tiny_run.FullRun); read it only."""
    import tiny_run

    return _build(tmp_path_factory, "full", tiny_run.FullRun, tiny_all)


@pytest.fixture
def main(capsys):
    """main(argv) → (exit status, stdout, stderr) of the flagship, in this process: the same path as the command."""
    import torch

    import train_grpo_en_ta as script
    from rl_nmt import errors

    def call(*argv):
        capsys.readouterr()
        with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as left:
            errors.run(lambda: script.main([str(arg) for arg in argv]))
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call

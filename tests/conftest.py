"""Session-wide tiny models, and no test that touches the network or leaves global state behind."""

from __future__ import annotations

import logging
import os

# Before any import of torch or huggingface_hub: tests are offline, and two cores are shared.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import tiny_models


def _build(factory, name, builder, **options):
    """Build a model once for the session, with the root logger as it was (`import comet` changes it)."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    path = builder(factory.mktemp(name), **options)
    root.setLevel(level)
    root.handlers[:] = handlers
    return path


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory):
    """Folder of a tiny Gemma 3 policy that knows tiny_models.PAIRS by heart."""
    return _build(tmp_path_factory, "gemma", tiny_models.build_gemma)


@pytest.fixture(scope="session")
def tiny_nllb(tmp_path_factory):
    """Folder of a tiny NLLB-format model that translates tiny_models.PAIRS from Tamil to English."""
    return _build(tmp_path_factory, "nllb", tiny_models.build_nllb)


@pytest.fixture(scope="session")
def tiny_comet_da(tmp_path_factory):
    """Folder of a random COMET-DA checkpoint (src, mt, ref)."""
    return _build(tmp_path_factory, "comet_da", tiny_models.build_comet, kind="regression_metric")


@pytest.fixture(scope="session")
def tiny_comet_qe(tmp_path_factory):
    """Folder of a random COMETKiwi checkpoint (src, mt)."""
    return _build(tmp_path_factory, "comet_qe", tiny_models.build_comet, kind="unified_metric")


@pytest.fixture(scope="session")
def tiny_policy(tiny_gemma, tmp_path_factory):
    """Folder of the tiny policy once it also knows the words of the trainer's prompt."""
    import tiny_run

    return tiny_run.teach_prompt(tiny_gemma, tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="session")
def tiny_all(tiny_policy, tiny_nllb, tiny_comet_da, tiny_comet_qe):
    """All four models of a run: name → folder."""
    return {"policy": tiny_policy, "nllb": tiny_nllb, "da": tiny_comet_da, "qe": tiny_comet_qe}


@pytest.fixture(scope="session")
def full_run(tiny_all, tmp_path_factory):
    """A finished run of train_grpo_en_ta.py as a process of its own (tiny_run.FullRun); read it only."""
    import tiny_run

    return tiny_run.FullRun(tmp_path_factory.mktemp("full"), tiny_all)

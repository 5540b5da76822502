"""Score with unbabel-comet itself, for comparison: the only place outside tests and bench that imports it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import torch

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models.loading import loading
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet.checkpoint import checkpoint_file


def predict(name_or_path: str, segments: Sequence[Segment], argument: str) -> list[float]:
    """Return the scores of `comet.load_from_checkpoint(…).predict`, on the CPU.

    Raises:
        MissingService: unbabel-comet is not installed, or does not work in this environment.
        ConfigError: it cannot load this checkpoint.
    """
    checkpoint = checkpoint_file(argument, name_or_path).resolve()
    try:
        with loading():
            from comet import load_from_checkpoint
    except Exception as error:  # with transformers 5 or setuptools 81 its import fails in many ways
        raise MissingService(
            f"unbabel-comet cannot be imported here ({type(error).__name__}: {error}); compare in the environment of "
            "requirements.txt"
        ) from error
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # it prints tips at every call
    rows = [{k: v for k, v in vars(segment).items() if v is not None} for segment in segments]
    # It resolves a relative encoder path against the working directory; predict uses the global random generator.
    with loading(), contextlib.chdir(checkpoint.parents[1]), torch.random.fork_rng():
        try:
            model = load_from_checkpoint(str(checkpoint))
        except Exception as error:
            raise ConfigError(f"{argument}: unbabel-comet cannot load {checkpoint}: {error}") from error
        return model.predict(rows, batch_size=8, gpus=0, num_workers=0, progress_bar=False).scores

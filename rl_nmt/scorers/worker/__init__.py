"""Any scorer in a process of its own."""

from typing import Any

from rl_nmt.scorers.worker.client import load_in_worker

__all__ = ["QUALITY_ESTIMATION", "load_comet", "load_in_worker"]
QUALITY_ESTIMATION = ("unified_metric", "referenceless_regression_metric", "xcomet_metric")  # COMET without references


def load_comet(name_or_path: str, python: str, setting: str, **options: Any):
    """A COMET model in this process, or in a worker of the Python that `setting` names; see `comet.load_comet`."""
    if python:
        options = {"name_or_path": name_or_path, **options}
        factory = "rl_nmt.scorers.comet:load_comet"
        return load_in_worker(factory, options, python_executable=python, argument=setting)
    from rl_nmt.scorers import comet

    return comet.load_comet(name_or_path, **options)

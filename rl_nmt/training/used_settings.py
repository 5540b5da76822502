"""Which of a run's settings it uses: a change of another one changes no result, and refuses nothing."""

from typing import Any

from rl_nmt import config
from rl_nmt.training import raft


def used(cfg: Any) -> dict[str, Any]:
    """Return the settings that this run uses, without secrets, as JSON: sections and names of RunCfg → values.

    Not used are the sections of another method and of a warm start that is not done, `filter_pool` without a filter,
    and with method raft `raft.NOT_USED`.
    """
    unused = set(raft.NOT_USED if cfg.method == "raft" else ("raft",))
    unused |= set() if cfg.warm_start_file else {"sft"}
    unused |= {"filter_pool"} if cfg.prompt_filter == "none" else set()
    return {name: value for name, value in config.to_public_dict(cfg).items() if name not in unused}

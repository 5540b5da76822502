"""Start and end Weights & Biases; its failures never harm a run."""

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rl_nmt.errors import leave_behind, warn

PROBE_SECONDS = 3.0
INIT_SECONDS = 30.0
SILENT = "no answer"
FINISH_SECONDS = 60.0  # longest upload at the end; the rest is left to `wandb sync`


def choose_wandb_mode(wanted: str, key_given: bool = False) -> tuple[str, str]:
    """Return "online", "offline" or "disabled", with the reason; online only if it can work within seconds.

    Server, mode and key are those that wandb itself reads from the environment, its settings files (`wandb login
    --host`, `wandb offline`) and netrc. These, and WANDB_DISABLED, can only restrict `wanted`. Without a key (and none
    `key_given` in another way) `wandb.init` would stop and ask. With an unreachable server it blocks for many minutes,
    whatever its time-out, so the server is probed first.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in {"1", "true", "yes", "on"}:
        return "disabled", "WANDB_DISABLED is set"
    if wanted != "online":
        return wanted, f"wandb_mode is {wanted}"
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb

        settings = wandb.setup().settings
        mode, url = settings.mode, settings.base_url
        known = key_given or settings.api_key or wandb.api.is_authenticated
    except ImportError:
        return "disabled", "wandb is not installed"
    except Exception as error:  # what wandb itself refuses; its message may hold the key
        return "offline", f"W&B rejects its own settings or key ({type(error).__name__}); `wandb login` sets them"
    if mode in ("offline", "dryrun", "disabled"):
        return mode.replace("dryrun", "offline"), f"W&B's own settings: {mode} (WANDB_MODE, or its settings file)"
    if not known:
        return "offline", f"no W&B key for {url} in WANDB_API_KEY or netrc (`wandb login`)"
    problem = probe(url)
    return ("offline", f"{url}: {problem}") if problem else ("online", "the server answers")


def probe(url: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Return why the server does not answer HTTP, or None when it does; takes at most about 2 × `seconds`.

    A connection alone proves nothing: a firewall or a dead server may accept it and stay silent. The request runs in
    a thread, because looking up the server's name has no time-out.
    """
    import requests

    def ask() -> None:
        try:
            # auth: nothing from netrc is sent along
            reply = requests.get(url, timeout=seconds, allow_redirects=False, stream=True, auth=lambda r: r)
        except requests.RequestException as error:
            raise OSError(f"cannot be reached ({type(error).__name__})") from None
        if reply.status_code >= 500:
            raise OSError(f"answers {reply.status_code}")

    problem = _within(2 * seconds, ask)
    return f"{SILENT} within {2 * seconds:g} s" if problem == SILENT else problem or None


def start_wandb(mode: str, folder: Path, run_id: str | None = None, **options: Any) -> str | None:
    """Start a W&B run in "online" or "offline" mode; returns its id, to be given again when the run resumes.

    `options` go to wandb.init (project, entity, name, config). Neither code nor the working tree's diff is
    uploaded. If the server refuses the run, it is offline, and the command that uploads it is printed. A server that
    stops answering after the probe would block wandb.init for ever: after INIT_SECONDS the result is None.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    # Offline nothing is resumed: WandbRewardCallback sends the earlier rows again, and the newest folder has all.
    options |= {"dir": str(folder), "id": run_id, "resume": "allow" if run_id and mode == "online" else None}
    quiet = wandb.Settings(disable_git=True, save_code=False, silent=True, finish_timeout=FINISH_SECONDS)
    start: Any = partial(wandb.init, settings=quiet, **options)
    problem = _within(INIT_SECONDS, lambda: start(mode=mode))
    if problem == SILENT:
        leave_behind("W&B")  # its threads would keep the process from ending
        print(f"W&B: off, since it did not start within {INIT_SECONDS:g} s; metrics.jsonl has all rows", flush=True)
        return None
    if problem:  # a key the server refuses, a project that may not be written, …
        print(f"W&B: offline, since {mode} failed ({problem})", flush=True)
        mode = "offline"
        start(mode=mode, resume=None)
    wandb.define_metric("train/global_step")
    wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
    if mode == "offline":
        print(f"W&B: upload later with `{sync_command()}`", flush=True)
    return wandb.run.id


def _within(seconds: float, work: Callable[[], None]) -> str:
    """Run `work` in a thread; return "" when it is done in time, SILENT when not, else the message of its error."""
    outcome = [SILENT]

    def attempt() -> None:
        try:
            work()
            outcome[0] = ""
        except Exception as error:
            outcome[0] = " ".join(str(error).split())[:200] or type(error).__name__

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0]


def sync_command() -> str:
    """Return the command that uploads the active W&B run."""
    import wandb

    return f"wandb sync {wandb.run.dir.removesuffix('/files')}"


def finish_wandb(exit_code: int = 0, seconds: float = FINISH_SECONDS + 5) -> None:
    """End the active W&B run, if any, within `seconds`, whatever the server does."""
    wandb = sys.modules.get("wandb")
    if wandb is None or getattr(wandb, "run", None) is None:
        return
    later = sync_command()
    if problem := _within(seconds, lambda: wandb.finish(exit_code=exit_code)):
        if problem == SILENT:
            leave_behind("W&B")
        warn(f"W&B did not finish ({problem}); upload later with `{later}`")

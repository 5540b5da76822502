"""metrics.jsonl, and whether Weights & Biases can be reached."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROBE_SECONDS = 3.0


def finite(value: Any) -> Any:
    """JSON-safe copy: non-finite floats become None, tensors and NumPy values become numbers or lists."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class MetricsFile:
    """One JSON object a line, flushed at once, so that a killed run keeps what it logged."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(row), ensure_ascii=False) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows; a line cut off by a crash is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def cut_after(self, step: int) -> list[dict[str, Any]]:
        """Drop the rows past `step` (a resumed run writes them again) and return those kept."""
        rows = [row for row in self.rows() if row.get("step", 0) <= step]
        if self.path.exists():
            partial = self.path.with_suffix(".tmp")
            partial.write_text(
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
            )
            partial.replace(self.path)
        return rows


def wandb_key_known() -> bool:
    """Is there a W&B key in the environment or in netrc? Asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def choose_wandb_mode(wanted: str) -> tuple[str, str]:
    """Return "online", "offline" or "disabled", with the reason; online only if it can work within seconds.

    `wandb.init` on an unreachable server blocks for many minutes whatever its time-out says, so the
    server is probed first. Without a key it would stop and ask: offline then. WANDB_DISABLED and
    WANDB_MODE can only take something away from `wanted`.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in {"1", "true", "yes", "on"}:
        return "disabled", "WANDB_DISABLED is set"
    if wanted != "online":
        return wanted, f"wandb_mode is {wanted}"
    given = os.environ.get("WANDB_MODE", "")
    if given in ("offline", "dryrun", "disabled"):
        return given.replace("dryrun", "offline"), f"WANDB_MODE is {given}"
    if not wandb_key_known():
        return "offline", "no W&B key in WANDB_API_KEY or netrc (`wandb login`)"
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    problem = probe(url)
    return ("offline", f"{url}: {problem}") if problem else ("online", "the server answers")


def probe(url: str, seconds: float = PROBE_SECONDS) -> str | None:
    """What keeps the server from answering HTTP, or None when it does; takes at most about 2 × `seconds`.

    A connection alone proves nothing: a firewall or a dead server may accept it and stay silent. In a
    thread, because a name server that does not answer cannot be given a time-out.
    """
    import requests

    found = [f"no answer within {2 * seconds:g} s"]

    def ask() -> None:
        try:
            # auth: nothing from netrc is sent along
            reply = requests.get(url, timeout=seconds, allow_redirects=False, stream=True, auth=lambda r: r)
            found[0] = f"answers {reply.status_code}" if reply.status_code >= 500 else ""
        except requests.RequestException as error:
            found[0] = f"cannot be reached ({type(error).__name__})"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * seconds)
    return found[0] or None

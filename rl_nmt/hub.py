"""Check and download models of the Hugging Face hub; failures take seconds, and their messages name the fix.

A hub name may be pinned to a commit, tag or branch: `org/name@revision`. An existing path wins over a hub name.
"""

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from rl_nmt.errors import ConfigError, MissingService, caused_by, describe
from rl_nmt.licences import commercial_use, licence
from rl_nmt.progress import progress

PROBE_SECONDS = 3.0
LOOK_EVERY = 1.0  # seconds between two looks at how much of a download has arrived
POCKET_HINT = "or try the whole loop offline with `make train`, which needs no download"
COMET = "hparams.yaml"  # the file that tells a COMET checkpoint from other models
# Published checkpoints that would load, but that no setting can use, and why.
UNSUITABLE = {
    "Unbabel/wmt20-comet-qe-*": "it was fitted to z-scores, which have no known range",
    "Unbabel/wmt21-comet-qe-*": "it was fitted to z-scores, which have no known range",
    "google/metricx-23-*": "MetricX-23 reads another input than MetricX-24, the only one that is supported",
}
KNOWN_RANGE = "give COMETKiwi, XCOMET, AfriCOMET-QE, another COMET checkpoint without references, or MetricX-24"
MT5_SIZES = {1024: "large", 2048: "xl", 4096: "xxl"}  # d_model → size of the mT5 whose tokenizer a MetricX takes
MT5_TOKENIZER = ("tokenizer.json", "spiece.model")


@dataclass(frozen=True)
class ModelUse:
    """A model that a run loads."""

    setting: str  # the setting that names it
    name: str  # hub name, also with @revision, or local folder; "" for no model
    filename: str = "config.json"  # a file that it must have
    part: str = ""  # what it does in the run, for the memory estimate


def hub_offline() -> bool:
    """Return whether the environment forbids the network (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in {"1", "TRUE", "YES", "ON"} for name in names)


def hub_reachable(timeout: float = PROBE_SECONDS) -> bool:
    """Return whether the hub (HF_ENDPOINT), or the proxy in front of it, accepts TCP within `timeout` seconds.

    The proxy is the one that requests uses: HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, and none for hosts in NO_PROXY.
    """
    if hub_offline():
        return False
    from requests.utils import get_environ_proxies, select_proxy

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    first = select_proxy(endpoint, get_environ_proxies(endpoint)) or endpoint
    parts = urlsplit(first if "//" in first else f"//{first}")
    try:
        port = parts.port or {"http": 80, "socks5": 1080, "socks5h": 1080}.get(parts.scheme, 443)
        with socket.create_connection((parts.hostname, port), timeout=timeout):
            return True
    except (OSError, ValueError):  # the latter for a malformed port
        return False


def split_revision(name: str) -> tuple[str, str | None]:
    """Return a hub name and the revision it is pinned to; (name, None) without one and for paths.

    >>> split_revision("org/name@v1.2"), split_revision("org/name"), split_revision("./models/a@b")
    (('org/name', 'v1.2'), ('org/name', None), ('./models/a@b', None))
    """
    base, _, revision = name.partition("@")
    if not revision or base.startswith((".", "/", "~")) or base.count("/") > 1 or Path(name).expanduser().exists():
        return name, None
    return base, revision


def recorded_as(name: str | Path, folder: Path) -> tuple[str, str | None]:
    """Return how signatures name the model `name` found in `folder`: (hub name, commit) or (folder, None).

    A local folder is named by its last part, so that it may be moved.
    """
    if Path(name).expanduser().exists():
        return folder.resolve().name, None
    return split_revision(str(name))[0], folder.name  # in the hub cache a snapshot's folder is named by its commit


def cached(name: str, filename: str = "config.json") -> Path | None:
    """Return the path of a file of the hub repository `name`, or `name@revision`, in the local cache, or None.

    None also for what cannot be a repository's name, such as a path that does not exist.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, revision = split_revision(name)
    try:
        found = try_to_load_from_cache(repository, filename, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def scorer_file(name: str) -> str:
    """Return the file that a metric's model is known by: COMET's hparams.yaml, or config.json (MetricX).

    A model on this machine is known by its files, another one by its name: MetricX' have theirs in it.
    """
    path = Path(name).expanduser()
    if path.exists():
        return "config.json" if (path / "config.json").is_file() and not (path / COMET).is_file() else COMET
    files = [] if looks_like_path(name) else [file for file in (COMET, "config.json") if cached(name, file)]
    return files[0] if files else "config.json" if "metricx" in name.lower() else COMET


def looks_like_path(name: str) -> bool:
    """Return whether a name can only be a path: absolute, ./ or ../, ~, or not exactly one slash."""
    name = split_revision(name)[0]
    return name.startswith((".", "/", "~")) or name.count("/") != 1


def require_model(
    argument: str, name: str, filename: str = "config.json", reachable: Callable[[], bool] = hub_reachable
) -> None:
    """Raise unless the model can be loaded: from a local folder, the hub cache, or a hub that answers.

    `argument` is the setting, for messages; `name` a folder or hub name, also with @revision; `filename` a file that
    every such model has; `reachable` is called only when needed. Raises ConfigError for a path that does not exist,
    a folder without `filename` or a model of UNSUITABLE, MissingService for a hub name that is not cached while the hub
    cannot be reached.
    """
    path = Path(name).expanduser()
    if path.exists():
        if path.is_dir() and not (path / filename).exists():
            raise ConfigError(f"{argument}: {name} is a folder without {filename}; give a model folder")
        return
    if looks_like_path(name):
        raise ConfigError(f"{argument}: no such folder: {name}")
    if why := next((why for pattern, why in UNSUITABLE.items() if fnmatchcase(name, pattern)), None):
        raise ConfigError(f"{argument}: {name}: {why}; {KNOWN_RANGE}")
    if name.endswith("@"):
        raise ConfigError(f"{argument}: {name} names no revision; write org/name@commit, or omit the @")
    if cached(name, filename):
        return
    if not reachable():
        raise MissingService(
            f"{argument}: {name} is not on this machine and {why_not()}. Give a local folder as --{argument}, "
            f"download it where there is a network (`hf download {name.partition('@')[0]}`), {POCKET_HINT}"
        )


def why_not() -> str:
    """Return why the hub does not answer."""
    return "HF_HUB_OFFLINE is set" if hub_offline() else "the hub cannot be reached"


def require_models(models: Iterable[ModelUse]) -> None:
    """`require_model` for each of them, in their order."""
    for model in models:
        if model.name:
            require_model(model.setting, model.name, model.filename)


def locate(model: ModelUse, reachable: Callable[[], bool] = hub_reachable) -> str:
    """Return where a model would be loaded from, "folder", "cache" or "hub"; check access to it on the hub.

    Nothing is downloaded; the hub has `PROBE_SECONDS` to answer. Raises as `require_model`, and MissingService for
    a model that is gated or unknown.
    """
    require_model(model.setting, model.name, model.filename, reachable)
    if Path(model.name).expanduser().exists():
        return "folder"
    if cached(model.name, model.filename):
        return "cache"
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    repository, revision = split_revision(model.name)
    url = hf_hub_url(repository, model.filename, revision=revision, endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        get_hf_file_metadata(url, timeout=PROBE_SECONDS)
    except Exception as error:  # the hub client's own, requests', OSError
        raise explain(model.setting, model.name, error) from error
    return "hub"


def explain(argument: str, name: str, error: BaseException, kind: str = "") -> MissingService:
    """Turn a failed download into a one-line error with the fix: accept the licence, correct the name, log in.

    `kind`: "datasets/" for a data set.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    repository, revision = split_revision(name)
    page = f"https://huggingface.co/{kind}{repository}"
    if caused_by(error, GatedRepoError):
        told = f"{name} is gated. Accept its licence at {page} while logged in, then run `hf auth login` here"
    elif caused_by(error, RevisionNotFoundError):
        told = f"{repository} has no revision {revision}. Take a commit or tag that {page} lists"
    elif caused_by(error, RepositoryNotFoundError):
        told = f"{name} does not exist on the hub, or is private. Check the spelling, or `hf auth login`"
    else:
        told = f"{name} could not be {'read' if kind else 'loaded'} ({describe(error)})"
    return MissingService(f"{argument}: {told}")


def download(models: Sequence[ModelUse]) -> None:
    """Download every hub model into the cache, after printing sizes and licences; local folders are skipped.

    A licence is what the hub names, else that of rl_nmt/licences.py. Raises MissingService if the hub cannot be
    reached, or a model is gated or unknown.
    """
    wanted = [model for model in models if model.name and not Path(model.name).expanduser().exists()]
    allowed = commercial_use(model.name for model in models)
    if not wanted:
        print(f"nothing to download: every model is a local folder\n{allowed}")
        return
    if not hub_reachable():
        raise MissingService("--download: the hub cannot be reached from here (HF_ENDPOINT, HF_HUB_OFFLINE)")
    from huggingface_hub import HfApi

    for model in wanted:
        try:
            repository, revision = split_revision(model.name)
            info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        except Exception as error:
            raise explain(model.setting, model.name, error) from error
        size = sum(f.size or 0 for f in info.siblings or []) / 2**30
        terms = (info.card_data.get("license") if info.card_data else None) or licence(model.name) or "not stated"
        gated = ", gated: accept the licence on its page first" if info.gated else ""
        print(f"{model.setting:24} {model.name:45} {size:6.1f} GiB  licence {terms}{gated}", flush=True)
    print(allowed, flush=True)
    for model in wanted:
        try:
            folder = fetch(model.name, [model.filename] if model.filename.endswith(".bin") else None)
            print(f"have {model.name}", flush=True)
            # COMET checkpoints contain their encoder's weights, but not its tokenizer and configuration.
            if other := _encoder_of(folder) or mt5_of(folder):
                fetch(other, ["*.json", "*.model", "*.txt"])
                print(f"have the tokenizer of {other}", flush=True)
        except Exception as error:
            raise explain(model.setting, model.name, error) from error


def fetch(name: str, patterns: list[str] | None = None) -> Path:
    """Download a hub model, or its files that match `patterns`, into the cache; return the folder. Shows progress.

    The hub client's own bars are off meanwhile: they do not show bytes where the output is not a terminal. Raises what
    the client raises; see `explain`.
    """
    from huggingface_hub import HfApi, constants, snapshot_download, utils
    from huggingface_hub.file_download import repo_folder_name

    repository, revision = split_revision(name)
    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    chosen = utils.filter_repo_objects(info.siblings or [], allow_patterns=patterns, key=lambda file: file.rfilename)
    sizes = {file.lfs.sha256 if file.lfs else file.blob_id: file.size or 0 for file in chosen}  # by name in `blobs`
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"), "blobs")
    over, shown = threading.Event(), not utils.are_progress_bars_disabled()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            with contextlib.suppress(FileNotFoundError):  # ID.incomplete has just become ID
                here = [max((p.stat().st_size for p in blobs.glob(f"{name}*")), default=0) for name in sizes]
                bar.update(sum(here) // 2**20 - bar.n)

    utils.disable_progress_bars()
    with progress(f"download of {name}", sum(sizes.values()) // 2**20, "MiB") as bar:
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        finally:
            over.set()
            looking.join()
            if shown:
                utils.enable_progress_bars()


def _encoder_of(folder: Path) -> str | None:
    """Return the hub name of a COMET checkpoint's encoder (`pretrained_model` in hparams.yaml), None for others."""
    if not (folder / COMET).is_file():
        return None
    text = (folder / COMET).read_text(encoding="utf-8", errors="replace")
    found = re.search(r"""^\W*pretrained_model\W*:\s*["']?([^"'\s,]+)""", text, re.MULTILINE)
    return found[1] if found else None


def mt5_of(folder: Path) -> str | None:
    """Return the hub name of the mT5 whose tokenizer a MetricX without one of its own takes; None for other models."""
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = described["model_type"] != "mt5" or any((folder / file).is_file() for file in MT5_TOKENIZER)
        return None if own else f"google/mt5-{MT5_SIZES.get(described['d_model'], 'large')}"
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""Write the README.md of a trained model: its base model, data, reward and results.

The card contains no local paths, chooses no licence, and lists the licences of the reward's models.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from rl_nmt.files import is_number
from rl_nmt.hub import looks_like_path
from rl_nmt.licences import commercial_use, licence
from rl_nmt.results.evaluation import reward_models, short_signature, table_cells
from rl_nmt.results.task import Task


def on_hub(name: str) -> bool:
    """Return whether `name` is a hub name, account/model, and not a local file or folder.

    >>> [on_hub(n) for n in ("google/gemma-3-1b-it", "./models/x", "/a/b", "policy", "org/name@v1")]
    [True, False, False, False, True]
    """
    return not looks_like_path(name) and not Path(name).exists()


def model_card(
    comparison: Mapping[str, Any],
    *,
    base_model: str,
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    prompt: str,
    task: Task,
    best: bool = False,
) -> str:
    """Return the card as Markdown with the hub's YAML head.

    Args:
        comparison: evaluation.json, as `compare` makes it; `best` in it is what `DivergenceMonitor.choice` returns.
        base_model: hub name, also with @revision, or local folder of the start policy.
        data: {"name": hub name or file, "rows": sentences trained on, "sha256": their hash, "heldout": hub name or file
            of the evaluation}.
        settings: name → value of the settings to list, in this order.
        prompt: the prompt of training, with the slot {source} for the source.
        best: the weights of the chosen evaluation, not of the last step.
    """
    import yaml
    from jinja2 import Environment, FileSystemLoader

    choice, signature = comparison.get("best") or {}, comparison["signature"]["reward"]
    scorers = reward_models(signature)
    languages = [code for code in (task.source_language, task.output_language) if code]
    head: dict[str, Any] = {"language": languages} if languages else {}
    if on_hub(base_model):
        head |= {"base_model": base_model.partition("@")[0], "base_model_relation": "finetune"}
    tags = [task.pipeline, task.method.lower().replace(" ", "-"), "trl"]
    head |= {"library_name": "transformers", "pipeline_tag": task.pipeline, "tags": tags}
    title = f"{base_model.partition('@')[0].rpartition('/')[2]} for {task.title}"
    if measures := _measures(comparison, choice if best else None, task):
        head |= {"model-index": [_index(title, measures, str(data.get("heldout") or "held-out rows"), task)]}
    reported = (choice.get("reported") or {}).items()
    # A file of its own: Markdown, nothing is escaped.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), keep_trailing_newline=True)
    environment.globals |= {"licence": licence, "on_hub": on_hub}
    environment.filters |= {"link": _link, "cell": _cell, "quoted": partial(json.dumps, ensure_ascii=False)}
    return environment.get_template("model_card.md.jinja").render(
        head=yaml.safe_dump(head, sort_keys=False),
        licences=commercial_use([base_model, *(part["model"] for part in scorers.values())]),
        base=base_model if on_hub(base_model) else PurePath(base_model).name,
        own=licence(base_model),
        data=data,
        settings=settings,
        prompt=prompt,
        task=task,
        signature=short_signature(signature).split()[0],
        scorers=scorers,
        best=best,
        choice=choice,
        reported=", ".join(f"{name} {value:.2f}" for name, value in reported if value is not None),
        comparison=comparison,
        cells=table_cells(comparison, task).values(),
        measured="; ".join(f"{name}: `{v}`" for name, v in comparison["signature"].items() if isinstance(v, str)),
    )


def _measures(comparison: Mapping[str, Any], choice: Mapping[str, Any] | None, task: Task) -> list[dict[str, Any]]:
    """Return the hub's metrics: those of the last step, or of a chosen step the one it was not chosen by rows of."""
    if choice is not None:
        by, value = choice.get("by"), (choice.get("reported") or {}).get("best")
        name = next((column.name for column in task.columns if column.label == by), str(by))
        return [{"type": name, "name": by, "value": value}] if is_number(value) else []
    after = comparison["after"]
    return [{"type": name, "name": task.label(name), "value": after[name]} for name in after if is_number(after[name])]


def _index(title: str, metrics: list[dict[str, Any]], heldout: str, task: Task) -> dict[str, Any]:
    """Return the hub's model-index entry of one evaluation (huggingface.co/docs/hub/model-cards)."""
    name = heldout if on_hub(heldout) else PurePath(heldout).name
    data = {"name": name, "type": heldout.partition("@")[0] if on_hub(heldout) else "held-out"}
    return {"name": title, "results": [{"task": {"type": task.pipeline}, "dataset": data, "metrics": metrics}]}


def _link(name: str) -> str:
    return f"[{name}](https://huggingface.co/{name.partition('@')[0]})" if on_hub(name) else f"`{PurePath(name).name}`"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")

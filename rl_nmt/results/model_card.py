"""Write the README.md of a trained model: what it was made from, what it was rewarded by, and what came of it.

`model_card` is a pure function of a run's evaluation.json and settings. It names no path of the machine, chooses no
licence, and lists those of the models that gave the reward.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from rl_nmt.results.evaluation import short_signature
from rl_nmt.results.task import Task

# Licences of the models named in this repository, as their pages state them; names are patterns.
LICENCES = {
    "Unbabel/wmt22-comet-da": "Apache-2.0",
    "Unbabel/wmt22-cometkiwi-da": "CC-BY-NC-SA-4.0 (gated)",
    "Unbabel/wmt23-cometkiwi-da-*": "CC-BY-NC-SA-4.0 (gated)",
    "Unbabel/XCOMET-*": "CC-BY-NC-SA-4.0 (gated)",
    "google/metricx-24-*": "Apache-2.0",
    "facebook/nllb-200-*": "CC-BY-NC-4.0",
    "google/gemma-3-*": "Gemma (gated)",
    "Qwen/Qwen3*": "Apache-2.0",
}


def licence(name: str) -> str | None:
    """The licence of a model by its hub name, also with @revision; None where it is not known here.

    >>> licence("facebook/nllb-200-distilled-1.3B"), licence("Unbabel/XCOMET-XL@v1"), licence("me/mine")
    ('CC-BY-NC-4.0', 'CC-BY-NC-SA-4.0 (gated)', None)
    """
    repository = name.partition("@")[0]
    return next((text for pattern, text in LICENCES.items() if fnmatch.fnmatchcase(repository, pattern)), None)


def on_hub(name: str) -> bool:
    """Does this name one model of one account, as hub names do, and no file or folder that is here?

    >>> [on_hub(n) for n in ("google/gemma-3-1b-it", "./models/x", "/a/b", "policy", "org/name@v1")]
    [True, False, False, False, True]
    """
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


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
    """The card as Markdown with the hub's YAML head.

    Args:
        comparison: evaluation.json, as `rl_nmt.results.evaluation.compare` makes it; its reward signature names the
            scorers. `best` in it is what `DivergenceMonitor.choice` returns.
        base_model: hub name, also with @revision, or local folder of the start policy.
        data: {"name": hub name or file, "rows": sentences trained on, "sha256": their hash}.
        settings: name → value of what a reader would want to know, in this order.
        prompt: what the model was asked, with the slot {source} for the source.
        task: names the languages, the columns and what came in and out.
        best: the weights of the chosen evaluation, not of the last step.
    """
    choice = comparison.get("best") or {}
    identity = comparison["signature"]["reward"].get("identity", {})
    scorers = {name: part for name, part in identity.items() if isinstance(part, dict) and "model" in part}
    base = base_model if on_hub(base_model) else PurePath(base_model).name
    text = [
        _head(base_model, scorers, task),
        f"# {base.partition('@')[0].rpartition('/')[2]} for {task.title}",
        f"Trained with GRPO from {_name(base)}, with {task.reward}.",
        "## Use",
        USAGE.replace('"EXAMPLE"', json.dumps(task.example, ensure_ascii=False)),
        "The words it was trained with are in `prompt.txt`:",
        "```text\n" + prompt.strip("\n") + "\n```",
        "## Training",
        f"Data: {_name(str(data['name']))}, {data['rows']} {task.inputs}, sha256 `{str(data['sha256'])[:12]}`.",
        _table(("setting", "value"), settings.items()),
        "## Reward",
        f"Signature `{short_signature(comparison['signature']['reward']).split()[0]}`: equal signatures mean "
        "comparable rewards. It is made from these models:",
        _table(("part", "model", "revision", "licence"), (_scorer_row(n, p) for n, p in scorers.items())),
        _restriction(scorers, base_model),
        "## Evaluation",
        _verdict(comparison, task, choice, best),
        _scores(comparison, task),
        "; ".join(f"{name}: `{v}`" for name, v in comparison["signature"].items() if isinstance(v, str)),
        f"Automatic scores do not say that the {task.outputs} are right. Those that are part of the reward rise "
        "because they were trained on; look at the ones outside it.",
    ]
    return "\n\n".join(part for part in text if part) + "\n"


def _head(base_model: str, scorers: Mapping[str, Any], task: Task) -> str:
    import yaml

    languages = [code for code in (task.source_language, task.output_language) if code]
    head: dict[str, Any] = {"language": languages} if languages else {}
    if on_hub(base_model):
        head |= {"base_model": base_model.partition("@")[0], "base_model_relation": "finetune"}
    head |= {"library_name": "transformers", "pipeline_tag": task.pipeline, "tags": [task.pipeline, "grpo", "trl"]}
    limits = "; ".join(f"{name} {text}" for name, text in _non_commercial(scorers).items())
    note = "# license: yours to choose" + (f"; the reward's models are not for commercial use: {limits}" * bool(limits))
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}{note}\n---"


def _name(name: str) -> str:
    return f"[{name}](https://huggingface.co/{name.partition('@')[0]})" if on_hub(name) else f"`{PurePath(name).name}`"


USAGE = """```python
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder := ".")
tokenizer = AutoTokenizer.from_pretrained(folder)
words = Path(folder, "prompt.txt").read_text(encoding="utf-8").replace("{source}", "EXAMPLE")
turn = tokenizer.apply_chat_template(
    [{"role": "user", "content": words}], add_generation_prompt=True, enable_thinking=False, return_dict=True,
    return_tensors="pt",
)
answer = model.generate(**turn, max_new_tokens=256, do_sample=False)[0, turn["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```"""


def _table(head: tuple[str, ...], rows) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _scorer_row(name: str, part: Mapping[str, Any]) -> tuple[str, ...]:
    model = str(part["model"])
    text = licence(model) or ("see its page" if on_hub(model) else "a checkpoint without a page")
    return name, _name(model), str(part.get("revision") or "–")[:12], text


def _non_commercial(scorers: Mapping[str, Any]) -> dict[str, str]:
    models = dict.fromkeys(str(part["model"]) for part in scorers.values())
    return {model: text for model in models if (text := licence(model)) and "-NC" in text}


def _restriction(scorers: Mapping[str, Any], base_model: str) -> str:
    limits = _non_commercial(scorers)
    said = []
    if limits:
        names = " and ".join(f"{name} ({text})" for name, text in limits.items())
        said.append(
            f"{names} may not be used commercially. What that means for a model trained with them is for you "
            "to judge; this card chooses no licence."
        )
    if own := licence(base_model):
        said.append(f"The base model's licence ({own}) goes on to hold for this one.")
    return " ".join(said)


def _verdict(comparison: Mapping[str, Any], task: Task, choice: Mapping[str, Any], best: bool) -> str:
    said = f"Greedy {task.outputs} of {comparison['rows']} held-out rows before and after training"
    reported = choice.get("reported") or {}
    if not best:
        return f"{said}; p is a paired bootstrap."
    scores = ", ".join(f"{name} {value:.2f}" for name, value in reported.items() if value is not None)
    said = f"These are the weights of step {choice.get('step')}: {choice.get('reason')}. "
    if scores:
        said += f"{choice.get('by')} on the {choice.get('reported_rows')} rows that did not choose: {scores}. "
    return said + "The table is of the last step of the same run, on all held-out rows; p is a paired bootstrap."


def _scores(comparison: Mapping[str, Any], task: Task) -> str:
    before, after, p_values = comparison["before"], comparison["after"], comparison["p_value"]
    rows = []
    for name in dict.fromkeys([*before, *after]):
        cells = [task.column(name).show(side.get(name)) for side in (before, after)]
        rows.append((task.label(name), *cells, f"{p_values[name]:.3f}" if name in p_values else ""))
    return _table(("metric", "before", "after", "p"), rows)

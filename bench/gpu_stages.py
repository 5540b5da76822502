"""The stages of `bench.gpu`: each yields its results as JSON objects, the moment they are known.

Models have the published shapes ("large": XLM-R-large twice, NLLB-1.3B, Gemma 3 1B; "tiny": the pocket's sizes) and
random weights that are drawn on the device. A row with the key "skipped" says what cannot be done here; a stage that
can do nothing raises MissingService or ImportError. A row with "ok" False makes the stage a failed one.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import killed_run, measure, shapes, texts, train_step
from bench.measure import GROUP, clock, equal_share
from bench.straightforward import MAX_NEW_TOKENS, PaddedComet, PlainTranslator, use_plain_models
from rl_nmt.backtranslation import load_backtranslator
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models.loading import full_precision, half_types
from rl_nmt.runs.metrics_file import read_rows
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet import load_comet

BEAMS = 4
EXACT = 1e-5  # most that a score in float32 may differ
HALVES = ("bfloat16", "float16")
VARIANTS = (("float32", "sdpa"), *((dtype, attention) for dtype in HALVES for attention in ("sdpa", "varlen")))
COMPLETIONS, SHORTEST, LONGEST = 64, 20, 80  # of a reward call (tiny: 16); NLLB's tokens of each
# As configs/gemma3_1b_24gb.yaml, with shorter completions.
STEP = "--prompts 8 --group_sizes 8 --lengths 160 --lora_rank 16 --batch 4 --gradient_checkpointing"
STEP += " --steps 2"
SMALL_STEP = "--prompts 2 --lengths 8 --lora_rank 4 --steps 1"
SMALL_POCKET = {  # of pocket.build.Sizes: a world of seconds
    **{"documents": 60, "references": 20, "pairs": 300, "vocab": 700, "policy_hidden": 32, "policy_layers": 1},
    **{"bare_steps": 4, "chat_steps": 2, "nllb_hidden": 32, "nllb_layers": 1, "nllb_steps": 4, "comet_hidden": 32},
    **{"comet_layers": 1, "da_steps": 3, "qe_tag_steps": 2, "qe_steps": 2, "sampled_prompts": 8, "samples_each": 2},
}
POCKET_STEPS, FIRST_STEPS = 80, 4  # of configs/pocket.yaml; of the run that tells how long a step takes


@dataclass(frozen=True)
class Task:
    """`shape` of the models, "tiny" or "large"; device; a folder for files; when time is up, on time.monotonic."""

    shape: str
    device: str
    folder: Path
    deadline: float

    @property
    def tiny(self) -> bool:
        return self.shape == "tiny"

    def models(self) -> list[Path]:
        """COMET-DA, COMETKiwi and NLLB, as CometDuPOReward takes them."""
        comets = [shapes.comet(kind, self.shape, self.folder) for kind in ("regression_metric", "unified_metric")]
        return [*comets, shapes.nllb(self.shape, self.folder)]


# ------------------------------------------------------------------ correctness


def correctness(task: Task) -> Iterator[dict]:
    """Scores against padded forwards of transformers, texts against its `generate`; a run that is killed."""
    with shapes.resident(task.device):
        da, qe, nllb = task.models()
        items = texts.items(16 if task.tiny else 64, "none")
        yield from equal_scores(task, "cycle", da, [Segment(i.english, i.back, i.english) for i in items])
        yield from equal_scores(task, "qe", qe, [Segment(i.english, i.tamil) for i in items])
        yield equal_texts(task, nllb, [item.tamil for item in items[:16]])
    free()
    yield {"check": "killed and resumed", **killed_run.compare(task.folder)}


def equal_scores(task: Task, row: str, folder: Path, segments: list[Segment]) -> Iterator[dict]:
    """`dtype_error` is what the scorer itself measured when it was loaded, on other texts."""
    expected = PaddedComet(folder, task.device).score(segments).values
    for dtype, attention in VARIANTS:
        found = {"check": f"{row} scores", "dtype": dtype, "attention": attention}
        try:
            scorer = load_comet(folder, device=task.device, dtype=dtype, attention=attention)
        except ConfigError as error:
            yield found | {"skipped": str(error)}
            continue
        difference = max(abs(a - b) for a, b in zip(scorer.score(segments).values, expected, strict=True))
        found |= {"max_difference": difference, "dtype_error": scorer.dtype_error}
        yield found | ({"ok": difference <= EXACT} if dtype == "float32" else {})


def equal_texts(task: Task, folder: Path, sentences: list[str]) -> dict:
    """Share of texts that our search translates as `generate(early_stopping=True)` does, in float32."""
    ours = load_backtranslator(folder, device=task.device, beams=BEAMS, max_new_tokens=MAX_NEW_TOKENS)(sentences)
    free()
    with full_precision():
        equal = equal_share(PlainTranslator(folder, task.device, BEAMS, early_stopping=True)(sentences), ours)
    return {"check": "back-translations", "dtype": "float32", "equal": equal, "ok": equal == 1.0}


# ------------------------------------------------------------------ the reward call


def reward(task: Task) -> Iterator[dict]:
    """One call on 64 completions by the straightforward route, then by ours in each dtype and attention."""
    from rewards_en_ta_dupo import CometDuPOReward

    rounds = 1 if task.tiny else 3
    with shapes.resident(task.device):
        models = task.models()
        english, tamil, tokens = completions(models[2], 16 if task.tiny else COMPLETIONS)
        yield {"completions": len(tamil), "tokens": [min(tokens), statistics.median(tokens), max(tokens)]}
        settings = {"backtranslation_beams": BEAMS, "reward_device": task.device, "dual_device": task.device}
        plain, plain_backs = None, None
        for dtype, attention in (("float32", None), *VARIANTS):
            found = {"route": "ours" if attention else "straightforward", "dtype": dtype, "attention": attention}
            try:
                halved = dtype != "float32" and has_bf16(task.device)
                halves = {"reward_dtype": dtype, "dual_dtype": "bfloat16" if halved else "float32"}
                call = CometDuPOReward(*map(str, models), **settings, **halves)
                if attention:
                    call.da, call.qe = (
                        load_comet(model, device=task.device, dtype=dtype, attention=attention) for model in models[:2]
                    )
                else:
                    use_plain_models(call, *models, BEAMS)
            except ConfigError as error:
                yield found | {"skipped": str(error)}
                continue
            free()
            found |= timed(call, english, tamil, rounds, task.device)
            totals, backs = ([row[name] for row in call.last_rows] for name in ("total", "backtranslation"))
            if attention:
                found["max_difference"] = max(abs(a - b) for a, b in zip(totals, plain, strict=True))
                found["equal"] = equal_share(plain_backs, backs)
                rate = measure.matmul_tflops(task.device, getattr(torch, dtype))
                found["matmul_tflops"] = rate
                found["of_matmul"] = {name: of_matmul(call, name, found["stages"], rate) for name in ("cycle", "qe")}
            else:
                plain, plain_backs = totals, backs
                found["comet"] = call.qe.signature()["identity"]["route"]
            yield found
            del call
            free()


def completions(nllb: Path, count: int) -> tuple[list[str], list[str], list[int]]:
    """Sources, groups of Tamil candidates of 20 to 80 tokens each, and how many tokens each has."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nllb, src_lang="tam_Taml")
    found = texts.items(8 * COMPLETIONS)
    lengths = [len(ids) for ids in tokenizer([item.tamil for item in found])["input_ids"]]
    groups = [range(first, first + GROUP) for first in range(0, len(found), GROUP)]
    chosen = [i for group in groups if all(SHORTEST <= lengths[i] <= LONGEST for i in group) for i in group]
    chosen = chosen[:count]
    return [found[i].english for i in chosen], [found[i].tamil for i in chosen], [lengths[i] for i in chosen]


def timed(call, english: list[str], tamil: list[str], rounds: int, device: str) -> dict:
    """Median seconds of `rounds` calls after one that does not count, and of their stages."""
    seconds, logs = [], []
    for number in range(rounds + 1):
        taken, _ = clock(lambda: call(None, tamil, source=english), device)
        if number:
            seconds.append(taken)
            logs.append(call.last_log)
    median = statistics.median(seconds)
    names = ("guards", "back_translate", "cycle", "qe")
    stages = {name: statistics.median(log[f"time/{name}"] for log in logs) for name in names}
    return {"seconds": median, "stages": stages, "per_second": len(tamil) / median}


def of_matmul(call, name: str, seconds: dict[str, float], tflops: float) -> float:
    """The encoder's floating-point rate in the stage `name` over that of a matmul of the same dtype here."""
    scorer = call.da if name == "cycle" else call.qe
    weights = sum(p.numel() for p in scorer.model.encoder.model.encoder.parameters())
    return 2 * weights * scorer.stats["tokens"] / 1e12 / seconds[name] / tflops


def has_bf16(device: str) -> bool:
    """Has the card bf16 units? A CPU gains nothing from bfloat16: False."""
    return "bfloat16" in half_types(device)


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


# ------------------------------------------------------------------ steps and runs


def step_flags(task: Task) -> list[str]:
    """Flags of bench.train_step: NLLB in bfloat16 where the card has it, as the preset asks."""
    line = f"--reward {task.shape} {SMALL_STEP if task.tiny else STEP}"
    return (line + (" --dual_dtype bfloat16" if has_bf16(task.device) else "")).split()


def step(task: Task) -> Iterator[dict]:
    """One GRPO step at the shape of Gemma 3 1B, with the reward models on the card and away from it."""
    policy = "tiny" if task.tiny else "gemma3_1b"
    line = ["--shape", policy, *step_flags(task)]
    for flags in ([], ["--offload"]):
        args = train_step.parse([*line, "--models", str(task.folder), *flags])
        with shapes.resident(task.device), tempfile.TemporaryDirectory() as folder:
            found = train_step.measure(args, args.group_sizes[0], args.lengths[0], Path(folder))
        keys = ("lora_rank", "batch", "gradient_checkpointing", "reward_dtype", "dual_dtype", "offload")
        yield {"policy": policy, **{key: getattr(args, key) for key in keys}, **found}
        free()


def pocket(task: Task) -> Iterator[dict]:
    """configs/pocket.yaml: a few steps, which tell how many fit; then as many of its 80 as do, and their table."""
    import train_grpo_en_ta as script
    from bench.pocket_seeds import run_flags
    from pocket.build import HERE, Sizes, build

    world = build(task.folder / "world", sizes=Sizes(**SMALL_POCKET)) if task.tiny else build(HERE / "build" / "seed0")
    most = 2 * FIRST_STEPS if task.tiny else POCKET_STEPS
    steps = FIRST_STEPS
    while True:
        start, folder = time.monotonic(), task.folder / f"pocket-{steps}"
        flags = [*run_flags(world, 0, folder), "--model_id", str(world / "policy"), "--max_steps", str(steps)]
        flags += ["--save_steps", "0", "--eval_steps", "0", "--skip_launch_gate"]
        if task.tiny:
            flags += ["--per_device_batch_size", "16", "--num_train_samples", "40", "--num_eval_samples", "8"]
        script.main(flags)
        rows = [row for row in read_rows(folder / "metrics.jsonl") if "step_time" in row]
        table = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        seconds = statistics.median(row["step_time"] for row in rows[1:])
        names = ("chrf", "reward")
        yield {"steps": steps, "seconds": seconds, "whole": time.monotonic() - start} | {
            when: {name: table[when][name] for name in names} for when in ("before", "after")
        }
        around = time.monotonic() - start - steps * seconds
        fit = min(most, int((0.8 * (task.deadline - time.monotonic()) - around) / seconds))
        if steps > FIRST_STEPS or fit <= FIRST_STEPS:
            return
        steps = fit


def vllm(task: Task) -> Iterator[dict]:
    """A small policy sampled by vLLM on the same card."""
    from rl_nmt.preflight.environments import require_vllm

    try:
        require_vllm("colocate", "", 0, "")
    except ConfigError as error:
        raise MissingService(str(error)) from None
    line = f"{SMALL_STEP} --vllm --models {task.folder}".split()
    with tempfile.TemporaryDirectory() as folder:
        yield train_step.measure(train_step.parse(line), 8, 8, Path(folder))


STAGES = {stage.__name__: stage for stage in (correctness, reward, step, pocket, vllm)}

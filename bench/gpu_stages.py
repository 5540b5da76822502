"""The stages of `bench.gpu`: each yields every result as a JSON object as soon as it is known.

Models have the published shapes ("large": XLM-R-large twice, NLLB-1.3B, Gemma 3 1B; "tiny": the pocket's sizes) and
random weights created on the device; only `engines` saves its NLLB, of 600M, since CTranslate2 reads it from disk.
In a row for something impossible here "skipped" is the reason; a stage that can do nothing raises MissingService or
ImportError. A row with "ok" False makes the whole stage fail.
"""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from bench import killed_run, measure, shapes, texts, train_step
from bench.measure import GROUP, clock, equal_share
from bench.straightforward import MAX_NEW_TOKENS, PaddedComet, PlainTranslator, use_plain_models
from pocket.build import HERE, SMALL, Sizes, build, key
from rl_nmt.backtranslation import load_backtranslator
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models.batching import is_out_of_memory
from rl_nmt.models.loading import full_precision, half_types
from rl_nmt.preflight.memory_estimate import GIB
from rl_nmt.runs.metrics_file import read_rows
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet import load_comet

BEAMS = 4
EXACT = 1e-5  # largest allowed difference of a score in float32
# A score in a half type may differ by ROOM × the error measured at load: that is the largest over a few fixed texts,
# and others can exceed it (by 1.6 times in a run on a CPU).
ROOM = 2.0
HALVES = ("bfloat16", "float16")
VARIANTS = (("float32", "sdpa"), *((dtype, attention) for dtype in HALVES for attention in ("sdpa", "varlen")))
ENGINES = (("transformers", "float32"), ("transformers", "bfloat16"))
ENGINES += tuple(("ctranslate2", dtype) for dtype in ("float32", "float16", "int8"))
COMPLETIONS, SHORTEST, LONGEST = 64, 20, 80  # of a reward call (tiny: 16); NLLB's tokens of each
# As configs/gemma3_1b_24gb.yaml, with shorter completions; NLLB's dtype: step_flags.
STEP = "--prompts 8 --group_sizes 8 --lengths 160 --lora_rank 16 --batch 4 --gradient_checkpointing --steps 2"
SMALL_STEP = "--prompts 2 --lengths 8 --lora_rank 4 --steps 1"
POCKET_STEPS, FIRST_STEPS = 80, 4  # of configs/pocket.yaml; of the run that measures the time of a step


@dataclass(frozen=True)
class Task:
    """`shape` of the models, "tiny" or "large"; device; a folder for files; the deadline, on time.monotonic."""

    shape: str
    device: str
    folder: Path
    deadline: float

    @property
    def tiny(self) -> bool:
        return self.shape == "tiny"

    def models(self) -> list[Path]:
        """Return COMET-DA, COMETKiwi and NLLB, as CometDuPOReward takes them."""
        comets = [shapes.comet(kind, self.shape, self.folder) for kind in ("regression_metric", "unified_metric")]
        return [*comets, shapes.nllb(self.shape, self.folder)]


# ------------------------------------------------------------------ correctness


def correctness(task: Task) -> Iterator[dict]:
    """Compare scores with transformers' padded forwards and texts with its `generate`; resume a killed run."""
    with shapes.resident(task.device):
        da, qe, nllb = task.models()
        items = texts.items(16 if task.tiny else 64, "none")
        yield from equal_scores(task, "cycle", da, [Segment(i.english, i.back, i.english) for i in items])
        yield from equal_scores(task, "qe", qe, [Segment(i.english, i.tamil) for i in items])
        yield equal_texts(task, nllb, [item.tamil for item in items[:16]])
    free()
    yield {"check": "killed and resumed", **killed_run.compare(task.folder)}


def equal_scores(task: Task, row: str, folder: Path, segments: list[Segment]) -> Iterator[dict]:
    """Compare the scores of every variant with those of padded batches in float32."""
    expected = PaddedComet(folder, task.device).score(segments).values
    for dtype, attention in VARIANTS:
        found = {"check": f"{row} scores", "dtype": dtype, "attention": attention}
        yield found | attempt(score_error, task.device, folder, segments, expected, dtype, attention)


def score_error(device: str, folder: Path, segments: list[Segment], expected: list[float], dtype, attention) -> dict:
    """Return the largest difference from `expected`, and the dtype error that the scorer measured at load."""
    scorer = load_comet(folder, device=device, dtype=dtype, attention=attention)
    difference = max(abs(a - b) for a, b in zip(scorer.score(segments).values, expected, strict=True))
    most = EXACT if dtype == "float32" else ROOM * scorer.dtype_error
    return {"max_difference": difference, "dtype_error": scorer.dtype_error, "ok": difference <= most}


def equal_texts(task: Task, folder: Path, sentences: list[str]) -> dict:
    """Return the share of texts that our search translates like `generate(early_stopping=True)`, in float32."""
    ours = load_backtranslator(folder, device=task.device, beams=BEAMS, max_new_tokens=MAX_NEW_TOKENS)(sentences)
    free()
    with full_precision():
        equal = equal_share(PlainTranslator(folder, task.device, BEAMS, early_stopping=True)(sentences), ours)
    return {"check": "back-translations", "dtype": "float32", "equal": equal, "ok": equal == 1.0}


# ------------------------------------------------------------------ the reward call


def reward(task: Task) -> Iterator[dict]:
    """Time a call on 64 completions by the straightforward route, then by ours in each dtype and attention."""
    from rewards_en_ta_dupo import CometDuPOReward

    with shapes.resident(task.device):
        models = task.models()
        english, tamil, tokens = completions(models[2], 16 if task.tiny else COMPLETIONS)
        yield {"completions": len(tamil), "tokens": [min(tokens), statistics.median(tokens), max(tokens)]}
        settings = {"backtranslation_beams": BEAMS, "reward_device": task.device, "dual_device": task.device}
        plain: dict = {}
        for dtype, attention in (("float32", None), *VARIANTS):
            found = {"route": "ours" if attention else "straightforward", "dtype": dtype, "attention": attention}
            halves = {"reward_dtype": dtype, "dual_dtype": dtype if dtype == "float32" else nllb_dtype(task.device)}
            make = partial(CometDuPOReward, *map(str, models), **settings, **halves)
            yield found | attempt(reward_call, make, task, models, (english, tamil), attention, plain)


def reward_call(make, task: Task, models: list[Path], batch: tuple, attention: str | None, plain: dict) -> dict:
    """Time one route: without `attention` the straightforward one, which fills `plain`; ours is compared with it."""
    call = make()
    if attention:
        comet = {"device": task.device, "dtype": call.settings.reward_dtype, "attention": attention}
        for name, model in zip(("da", "qe"), models[:2], strict=True):
            if getattr(call, name).route.attention != attention:
                setattr(call, name, load_comet(model, **comet))
    else:
        use_plain_models(call, *models, BEAMS)
    free()
    english, tamil = batch
    found = timed(call, english, tamil, 1 if task.tiny else 3, task.device)
    totals, backs = ([row[name] for row in call.last_rows] for name in ("total", "backtranslation"))
    if not attention:
        plain |= found | {"totals": totals, "backs": backs}
        return found | {"comet": call.qe.signature()["identity"]["route"]}
    if plain:  # it fitted into memory
        found["ratio"] = plain["seconds"] / found["seconds"]
        found["ratios"] = {name: plain["stages"][name] / seconds for name, seconds in found["stages"].items()}
        found["max_difference"] = max(abs(a - b) for a, b in zip(totals, plain["totals"], strict=True))
        found["equal"] = equal_share(plain["backs"], backs)
    rate = measure.matmul_tflops(task.device, getattr(torch, call.settings.reward_dtype))
    found["matmul_tflops"] = rate
    return found | {"of_matmul": {name: of_matmul(call, name, found["stages"], rate) for name in ("cycle", "qe")}}


# ------------------------------------------------------------------ the two engines of back-translation


def engines(task: Task) -> Iterator[dict]:
    """Back-translate the reward call's texts by transformers and by CTranslate2 from weights on disk."""
    with shapes.resident(task.device):  # created there: it would take a CPU a minute
        folder = shapes.nllb("tiny" if task.tiny else "base", task.folder)  # 600M is enough for a comparison
        shapes.draw(folder).save_pretrained(folder)
    free()
    _, tamil, _ = completions(folder, 16 if task.tiny else COMPLETIONS)
    expected: list[str] = []
    for backend, dtype in ENGINES:
        found = {"engine": backend, "dtype": dtype}
        yield found | attempt(engine_call, task, folder, tamil, backend, dtype, expected)


def engine_call(task: Task, folder: Path, tamil: list[str], backend: str, dtype: str, expected: list[str]) -> dict:
    """Return median seconds of one engine and precision; ENGINES[0] fills `expected` with its texts."""
    once = folder / "ct2-float32"  # converted by CTranslate2's first row and loaded by the others
    place = once if backend == "ctranslate2" and once.is_dir() else folder
    options = {"backend": backend, "dtype": dtype, "device": task.device}
    translate = load_backtranslator(place, beams=BEAMS, max_new_tokens=MAX_NEW_TOKENS, **options)
    rounds = [clock(lambda: translate(tamil), task.device) for _ in range(2 if task.tiny else 3)]
    seconds, found = statistics.median(taken for taken, _ in rounds[1:]), rounds[-1][1]
    if (backend, dtype) == ENGINES[0]:
        expected[:] = found
    equal = equal_share(expected, found) if expected else None
    return {"seconds": seconds, "per_second": len(tamil) / seconds, "equal": equal}


def completions(nllb: Path, count: int) -> tuple[list[str], list[str], list[int]]:
    """Return sources, groups of Tamil candidates of 20 to 80 tokens each, and their token counts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nllb, src_lang="tam_Taml")
    found = texts.items(8 * COMPLETIONS)
    lengths = [len(ids) for ids in tokenizer([item.tamil for item in found])["input_ids"]]
    groups = [range(first, first + GROUP) for first in range(0, len(found), GROUP)]
    chosen = [i for group in groups if all(SHORTEST <= lengths[i] <= LONGEST for i in group) for i in group]
    chosen = chosen[:count]
    return [found[i].english for i in chosen], [found[i].tamil for i in chosen], [lengths[i] for i in chosen]


def timed(call, english: list[str], tamil: list[str], rounds: int, device: str) -> dict:
    """Return median seconds of `rounds` calls, after an uncounted one, and of their stages."""
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
    """Return the encoder's floating-point rate in the stage `name` over that of a matmul of the same dtype here."""
    scorer = call.da if name == "cycle" else call.qe
    weights = sum(p.numel() for p in scorer.model.encoder.model.encoder.parameters())
    return 2 * weights * scorer.stats["tokens"] / 1e12 / seconds[name] / tflops


def nllb_dtype(device: str) -> str:
    """Return NLLB's half type, bfloat16, if the device has units for it, else float32."""
    return "bfloat16" if "bfloat16" in half_types(device) else "float32"


def attempt(make: Callable[..., dict], *args) -> dict:
    """Return make(*args), or {"skipped": why} if it is impossible here or memory runs out; memory is freed then."""
    try:
        found = make(*args)
    except (ConfigError, MissingService) as error:
        found = {"skipped": str(error)}
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        found = {"skipped": "out of memory"}
    free()  # only after the except clause: inside it the traceback holds the models
    return found


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


# ------------------------------------------------------------------ steps and runs


def step_flags(task: Task) -> list[str]:
    """Return flags of bench.train_step: NLLB in bfloat16 if the card has it, as in the preset."""
    line = f"--reward {task.shape} --dual_dtype {nllb_dtype(task.device)} {SMALL_STEP if task.tiny else STEP}"
    return line.split()


def step(task: Task) -> Iterator[dict]:
    """Measure a GRPO step at the shape of Gemma 3 1B, with the reward models on the card and offloaded."""
    policy = "tiny" if task.tiny else "gemma3_1b"
    line = ["--shape", policy, *step_flags(task)]
    for flags in ([], ["--offload"]):
        args = train_step.parse([*line, "--models", str(task.folder), *flags])
        keys = ("lora_rank", "batch", "gradient_checkpointing", "reward_dtype", "dual_dtype", "offload")
        known = {"policy": policy, **{key: getattr(args, key) for key in keys}}
        with shapes.resident(task.device):
            yield known | attempt(one_line, args, task.folder)


def one_line(args, place: Path) -> dict:
    """Return `train_step.measure` of the first line for `args`."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return train_step.measure(args, args.group_sizes[0], args.lengths[0], Path(folder))


def pocket_world(folder: Path) -> Path:
    """Return `folder` if the pocket world is built there: the stage has no time for that. Raises MissingService."""
    stamp = folder / "build.json"
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8"))["key"] != key(0, Sizes()):
        raise MissingService(f"pocket/build/{folder.name} is not built; run python -m pocket.build")
    return folder


def pocket(task: Task) -> Iterator[dict]:
    """Run a few steps of configs/pocket.yaml to time them; then as many of its 80 as fit, with their table."""
    import train_grpo_en_ta as script
    from bench.pocket_seeds import run_flags

    world = build(task.folder / "world", sizes=SMALL) if task.tiny else pocket_world(HERE / "build" / "seed0")
    most = 2 * FIRST_STEPS if task.tiny else POCKET_STEPS
    steps = FIRST_STEPS
    while True:
        start, folder = time.monotonic(), task.folder / f"pocket-{steps}"
        flags = [*run_flags(world, 0, folder), "--model_id", str(world / "policy"), "--max_steps", str(steps)]
        flags += ["--save_steps", "0", "--eval_steps", "0", "--skip_launch_gate"]
        flags += ["--headroom_prompts", "0", "--patience", "0"]
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
    """Sample a small policy with vLLM on the same card."""
    from rl_nmt.preflight.environments import require_vllm

    try:
        require_vllm("colocate", "", 0, "")
    except ConfigError as error:
        raise MissingService(str(error)) from None
    from vllm import LLM

    with memory_around(LLM, "sleep", used := {}):
        found = one_line(train_step.parse(f"{SMALL_STEP} --vllm --models {task.folder}".split()), task.folder)
    yield found | {"used_gib": used}


@contextlib.contextmanager
def memory_around(owner: type, method: str, used: dict[str, float]) -> Iterator[None]:
    """Record the card's GiB in use before and after each call of `owner.method`, which puts an engine to sleep."""
    sleep = getattr(owner, method)

    def note(when: str) -> None:
        if torch.cuda.is_available():  # of all processes, the engine's included
            free_bytes, total = torch.cuda.mem_get_info()
            used[when] = round((total - free_bytes) / GIB, 2)

    def noted(*args, **kwargs):
        note("awake")
        result = sleep(*args, **kwargs)
        note("asleep")
        return result

    with mock.patch.object(owner, method, noted):
        yield


STAGES = {stage.__name__: stage for stage in (correctness, reward, step, engines, vllm, pocket)}

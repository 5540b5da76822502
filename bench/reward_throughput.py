"""Compare the speed of the reward path with each model used as on its own page, and with the bare models.

    python -m bench.reward_throughput                                  # tiny, N = 32: all rows, minutes
    python -m bench.reward_throughput --shape base --duplicates none --only cycle,qe,xcomet
    python -m bench.reward_throughput --shape base --only backtranslate
    python -m bench.reward_throughput --shape large                    # N = 8 on a CPU
    python -m bench.reward_throughput --shape large --n 64 --device cuda
    python -m bench.reward_throughput --memory [--calls 1000] [--early 50] [--backend transformers|ctranslate2]

In one process, every round runs the straightforward route (bench/straightforward.py), each of ours and the bare
forward passes, on the same checkpoints (bench/shapes.py) and texts (bench/texts.py), every other round in
reverse order; one round before the first is not counted. Seconds are medians, `ratio` is the median over
rounds of straightforward / ours.

Rows
  cycle          COMET-DA of English against its source, src = ref
  qe             COMETKiwi of (English, Tamil)
  xcomet         XCOMET of (English, Tamil), spans included
  backtranslate  NLLB, Tamil → English, beam 4
  reward         the whole reward call on the three models, per back-translation back-end

`bare` is the time of the encoder alone for the distinct sequences, sorted by length, with torch's own linears in
float32: the least that any route computes. `max_difference` is the largest difference of a score from the
straightforward one; `spearman` the mean rank correlation within groups of 8; `equal` the share of equal texts
or span lists. `tokens` are the real tokens of the distinct sequences, `tokens_straightforward` those that
`predict` runs through the encoder, padding and repeats included. `of_matmul` is the encoder's floating-point
rate over that of a plain float32 torch.matmul here (bf16 and prepacked linears may exceed 1).

--memory calls the whole reward instead, with new texts every time, and prints one JSON object: resident memory after
`early` calls, when allocators and kernels have warmed up, and after `calls`. Growth between the two is a leak.

--json prints one object per row and back-end on standard output, everything else on standard error.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from bench import measure, shapes, texts
from bench.measure import Timed, equal_share, machine, paired, say, share_within
from bench.straightforward import MAX_NEW_TOKENS, PlainComet, PlainTranslator, use_plain_models
from rl_nmt.errors import ConfigError, UserError, run
from rl_nmt.models.batching import batches, distinct
from rl_nmt.models.loading import full_precision
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet.scorer import load_comet

BEAMS = 4
BARE_BUDGET = {"cpu": 2048, "cuda": 16384}  # tokens in one bare forward pass


def reward_models(args: argparse.Namespace) -> list[str]:
    """Return COMET-DA, COMETKiwi and NLLB of the shape, as `CometDuPOReward` takes them."""
    comets = [shapes.comet(kind, args.shape, args.models) for kind in ("regression_metric", "unified_metric")]
    return [str(folder) for folder in (*comets, shapes.nllb(args.shape, args.models))]


# ------------------------------------------------------------------ COMET


def comet_rows(args: argparse.Namespace, row: str, kind: str) -> Iterator[dict]:
    """Yield one object per kind of linear layers."""
    if row == "cycle":
        segments = [Segment(item.english, item.back, item.english) for item in args.items]
    else:
        segments = [Segment(item.english, item.tamil) for item in args.items]
    folder = shapes.comet(kind, args.shape, args.models)
    plain = PlainComet(folder, args.device)
    scorers = comet_variants(folder, row, args.device)
    sequences = distinct_sequences(plain, segments)
    padded = predict_tokens(plain, segments)
    sentences, _ = distinct(text for s in segments for text in (s.src, s.mt))
    routes = {"straightforward": lambda: plain.score(segments)}
    routes |= {name: lambda scorer=scorer: scorer.score(segments) for name, scorer in scorers.items()}
    routes["bare"] = bare_forward(plain, sequences, args.device)
    routes["tokenise"] = lambda: plain.model.encoder.tokenizer(sentences)
    timed = paired(routes, args.rounds, args.device)
    encoding = share_within(plain.model.encoder, "forward", lambda: plain.score(segments), args.device)
    tokens = sum(map(len, sequences))
    tflops = 2 * sum(p.numel() for p in plain.model.encoder.model.encoder.parameters()) * tokens / 1e12
    matmul = measure.matmul_tflops(args.device)
    for name in scorers:
        seconds, tokenising = timed.median(name), timed.ratio("tokenise", name)
        yield (
            common(args, row, name, timed)
            | agreement(timed.results["straightforward"], timed.results[name])
            | {
                "over_bare": timed.ratio(name, "bare"),
                "seconds_bare": timed.median("bare"),
                "tokens": tokens,
                "tokens_straightforward": padded,
                "tokens_per_second": tokens / seconds,
                "tflops": tflops / seconds,
                "of_matmul": tflops / seconds / matmul,
                "stages": {"tokenise": tokenising, "model": 1 - tokenising},
                "stages_straightforward": {"encoder": encoding, "rest": 1 - encoding},
            }
        )


def comet_variants(folder: Path, row: str, device: str) -> dict[str, object]:
    """Return our scorer in all variants possible here: torch's linears, prepacked ones, bfloat16; SDPA on CUDA."""
    scorers = {}
    variants = {"torch": {"linears": "torch"}, "prepacked": {"linears": "prepacked"}, "bf16": {"dtype": "bfloat16"}}
    if torch.device(device).type == "cuda":
        variants["bf16_sdpa"] = {"dtype": "bfloat16", "attention": "sdpa"}
    for name, options in variants.items():
        try:
            scorers[name] = load_comet(folder, device=device, **options)
        except ConfigError as error:
            say(f"skipped: {row} {name}: {error}")
    return scorers


def distinct_sequences(plain: PlainComet, segments: list[Segment]) -> list[list[int]]:
    """Return the ids of every distinct sequence that the encoder must read for `segments`."""
    model = plain.model
    if model.hparams.class_identifier == "regression_metric":
        sentences, _ = distinct(text for s in segments for text in (s.src, s.mt, s.ref))
        return [model.encoder.prepare_sample([text])["input_ids"][0].tolist() for text in sentences]
    rows = plain.samples(distinct(segments)[0])
    return [model.prepare_sample([row], stage="predict")[0]["input_ids"][0].tolist() for row in rows]


def predict_tokens(plain: PlainComet, segments: list[Segment], size: int = 8) -> int:
    """Count the positions that `predict` runs through the encoder: rows sorted by source length, in batches."""
    rows = sorted(plain.samples(segments), key=lambda row: len(row["src"]))
    total = 0
    for start in range(0, len(rows), size):
        batch = plain.model.prepare_sample(rows[start : start + size], stage="predict")
        for part in [batch] if isinstance(batch, dict) else batch:
            total += sum(ids.numel() for name, ids in part.items() if name.endswith("input_ids"))
    return total


def bare_forward(plain: PlainComet, sequences: list[list[int]], device: str) -> Callable[[], None]:
    """Return a call of only the encoder over the distinct sequences, in padded batches of similar length."""
    model = plain.model.encoder.model
    if device != "cpu":  # predict moves the model off the device after every call
        model = copy.deepcopy(model).to(device)
    inputs = []
    for batch in batches([len(ids) for ids in sequences], BARE_BUDGET[torch.device(device).type]):
        rows = [torch.tensor(sequences[i], device=device) for i in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)  # (B, L)
        inputs.append((ids, (ids != 1).long()))

    def forward() -> None:
        with full_precision():
            for ids, mask in inputs:
                model(ids, attention_mask=mask)

    return forward


def agreement(plain, ours) -> dict:
    """Return the largest score difference, mean Spearman within groups of 8 that vary, share of equal span lists."""
    pairs = list(zip(plain.values, ours.values, strict=True))
    if any(b is None for _, b in pairs):
        raise RuntimeError("our route left samples without a score that the straightforward route scored")
    rank = measure.spearman(plain.values, ours.values)
    result = {"max_difference": max(abs(a - b) for a, b in pairs), "spearman": rank}
    if plain.spans is not None and ours.spans is not None:
        marks = ([[(s.start, s.end, s.severity) for s in row] for row in side.spans] for side in (plain, ours))
        result["equal"] = equal_share(*marks)
    return result


# ------------------------------------------------------------------ back-translation, reward


def backtranslate(args: argparse.Namespace) -> Iterator[dict]:
    """Compare transformers and CTranslate2 in float32 and int8 with one padded batch of `generate`."""
    from rl_nmt.backtranslation.translator import load_backtranslator

    folder = shapes.nllb(args.shape, args.models)
    sentences = [item.tamil for item in args.items]
    ours = {}
    for name, dtype in (("transformers", "float32"), ("ctranslate2", "float32"), ("ctranslate2-int8", "int8")):
        options = {"backend": name.removesuffix("-int8"), "dtype": dtype, "device": args.device}
        try:
            ours[name] = load_backtranslator(folder, beams=BEAMS, max_new_tokens=MAX_NEW_TOKENS, **options)
        except UserError as error:
            say(f"skipped: backtranslate {name}: {error}")
    plain = PlainTranslator(folder, args.device, BEAMS)
    routes = {"straightforward": lambda: plain(sentences)}
    routes |= {name: lambda translate=translate: translate(sentences) for name, translate in ours.items()}
    timed = paired(routes, args.rounds, args.device)
    expected = timed.results["straightforward"]
    for name, translate in ours.items():
        found = timed.results[name]
        search = share_within(translate.engine, "generate", lambda t=translate: t(sentences), args.device)
        tokens = sum(map(len, plain.tokenizer(distinct(found)[0])["input_ids"]))
        yield common(args, "backtranslate", name, timed) | {
            "equal": equal_share(expected, found),
            "tokens_per_second": tokens / timed.median(name),
            "stages": {"search": search, "rest": 1 - search},
            "stats": translate.stats,
        }


def reward(args: argparse.Namespace) -> Iterator[dict]:
    """Compare CometDuPOReward per back-end with the same formula over the straightforward models."""
    from rewards_en_ta_dupo import CometDuPOReward

    models = reward_models(args)
    english, tamil = [item.english for item in args.items], [item.tamil for item in args.items]
    settings = {"backtranslation_beams": BEAMS, "reward_device": args.device, "dual_device": args.device}
    rewards = {"straightforward": use_plain_models(CometDuPOReward(*models, **settings), *models, BEAMS)}
    for backend in ("transformers", "ctranslate2"):
        try:
            rewards[backend] = CometDuPOReward(*models, backtranslation_backend=backend, **settings)
        except UserError as error:
            say(f"skipped: reward {backend}: {error}")
    routes = {name: lambda call=call: call(None, tamil, source=english) for name, call in rewards.items()}
    timed = paired(routes, args.rounds, args.device)
    expected = rewards.pop("straightforward")
    for name, call in rewards.items():
        pairs = zip(timed.results["straightforward"], timed.results[name], strict=True)
        yield common(args, "reward", name, timed) | {
            "max_difference": max(abs(a - b) for a, b in pairs),
            "equal": equal_share(*([row["backtranslation"] for row in r.last_rows] for r in (expected, call))),
            "gated_share": call.last_log["reward/gated_share"],
            "stages": measure.stage_shares(call.last_log),
            "stages_straightforward": measure.stage_shares(expected.last_log),
        }


def memory(args: argparse.Namespace) -> dict:
    """Return the process's memory growth over reward calls on the models of `args`; every call has new texts."""
    from rewards_en_ta_dupo import CometDuPOReward

    options = {"backtranslation_backend": args.backend, "reward_device": "cpu", "dual_device": "cpu"}
    reward = CometDuPOReward(*reward_models(args), **options)

    def call(number: int) -> None:
        items = texts.items(args.n, "real", seed=number)
        reward(None, [item.tamil for item in items], source=[item.english for item in items])

    return measure.memory_growth(call, args.calls, args.early) | {"n": args.n, "backend": args.backend}


# ------------------------------------------------------------------ output


ROWS = {
    "cycle": partial(comet_rows, row="cycle", kind="regression_metric"),
    "qe": partial(comet_rows, row="qe", kind="unified_metric"),
    "xcomet": partial(comet_rows, row="xcomet", kind="xcomet_metric"),
    "backtranslate": backtranslate,
    "reward": reward,
}


def common(args: argparse.Namespace, row: str, backend: str, timed: Timed) -> dict:
    """Return the fields of every object."""
    asked = {name: getattr(args, name) for name in ("shape", "n", "duplicates", "device", "rounds")}
    return (
        {"row": row, "backend": backend}
        | asked
        | {
            "ratio": timed.ratio("straightforward", backend),
            "seconds_ours": timed.median(backend),
            "seconds_straightforward": timed.median("straightforward"),
            "max_difference": None,
        }
    )


def line(found: dict) -> str:
    """Return one object as a line of text."""
    parts = [
        f"{found['row']:13} {found['backend']:16} {found['shape']} N={found['n']}",
        f"{found['seconds_ours']:.3f} s, straightforward {found['seconds_straightforward']:.3f} s",
        f"ratio {found['ratio']:.2f}",
    ]
    if "over_bare" in found:
        parts.append(f"over bare {found['over_bare']:.2f}")
        parts.append(f"tokens {found['tokens']} of {found['tokens_straightforward']}")
        parts.append(f"{found['tokens_per_second']:.0f} tok/s, {found['of_matmul']:.0%} of matmul")
    if found["max_difference"] is not None:
        parts.append(f"difference {found['max_difference']:.1e}")
    for name, form in (("spearman", "{:.4f}"), ("equal", "{:.1%}"), ("gated_share", "{:.1%}")):
        if found.get(name) is not None:
            parts.append(f"{name} {form.format(found[name])}")
    for name in ("stages", "stages_straightforward"):
        if found.get(name):
            parts.append(f"{name}: " + ", ".join(f"{stage} {share:.0%}" for stage, share in found[name].items()))
    return " · ".join(parts)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="tiny", help="sizes of the models (default tiny)")
    parser.add_argument("--n", type=int, help="samples per call (default 32; large shapes on a CPU 8)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default 5)")
    parser.add_argument("--duplicates", choices=("real", "none"), default="real", help="repeats within a group")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--only",
        help=f"rows, separated by commas, of {','.join(ROWS)} (default: all; reward only with tiny models or on a GPU)",
    )
    parser.add_argument("--threads", type=int, help="threads of torch and CTranslate2 (default: torch's)")
    parser.add_argument("--models", type=Path, default=shapes.MODELS, help="where models are built (bench/build)")
    parser.add_argument("--json", action="store_true", help="one JSON object per row and back-end")
    parser.add_argument("--memory", action="store_true", help="measure the process's growth (--n defaults to 8)")
    parser.add_argument("--calls", type=int, default=1000, help="with --memory: reward calls (default 1000)")
    parser.add_argument("--early", type=int, default=50, help="with --memory: first reading (default 50)")
    parser.add_argument(
        "--backend", choices=("transformers", "ctranslate2"), default="transformers", help="with --memory"
    )
    args = parser.parse_args(argv)
    if args.memory and not 1 <= args.early < args.calls:
        parser.error("--early must be at least 1 and below --calls")
    small = args.shape == "tiny" or args.device != "cpu"
    names = args.only.split(",") if args.only else [name for name in ROWS if small or name != "reward"]
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--only: {unknown[0]} is not a row; the rows are {', '.join(ROWS)}")
    args.n = args.n or (8 if args.memory or (args.shape == "large" and args.device == "cpu") else 32)
    if args.n < 1 or args.rounds < 1 or (args.threads is not None and args.threads < 1):
        parser.error("--n, --rounds and --threads must be at least 1")
    args.rows, args.models = names, args.models.resolve()
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory:
        print(json.dumps(memory(args)), flush=True)
        say(machine("cpu"))
        return 0
    args.items = texts.items(args.n, args.duplicates)
    repeats = texts.repeat_share([item.tamil for item in args.items])
    words = sorted(len(item.english.split()) for item in args.items)
    say(f"{args.n} samples, {words[0]} to {words[-1]} English words, {repeats:.0%} repeat one of their group")
    for name in args.rows:
        for found in ROWS[name](args):
            print(json.dumps(found) if args.json else line(found), flush=True)
        gc.collect()
    print(machine(args.device), file=sys.stderr if args.json else sys.stdout, flush=True)
    return 0


if __name__ == "__main__":
    run(main)

"""Look at a reward before trusting it: every component of every sample, back-translations, signature.

    python smoke_test_rewards.py --prompt "The door is open." --tamil "கதவு திறந்திருக்கிறது."
    python smoke_test_rewards.py --file pairs.tsv            # english<TAB>tamil, or JSONL english/tamil
    python smoke_test_rewards.py --samples 4                 # let the policy of the configuration translate
    python smoke_test_rewards.py --config configs/pocket.yaml --samples 4

Takes --config and every field of the trainer's RunCfg. Exit status 3 when a score is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import train_grpo_en_ta as trainer
from rl_nmt import config, errors
from rl_nmt.errors import ConfigError, RewardRefused

DEMO = [  # a translation and five things that must not beat it
    ("The children went to school.", "குழந்தைகள் பள்ளிக்குச் சென்றனர்."),
    ("The children went to school.", "The children went to school."),
    ("The children went to school.", "தி சில்ட்ரன் வென்ட் டு ஸ்கூல்."),
    ("The children went to school.", ""),
    ("The children went to school.", "பள்ளிக்குச் பள்ளிக்குச் பள்ளிக்குச்"),
    ("The children went to school.", "இன்று மழை பெய்தது."),
]


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(english, tamil) rows of a TSV or a JSONL file. Raises ConfigError naming the first bad line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # only line feeds: a text may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--file: {path} cannot be read as UTF-8 text ({error})") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if path.suffix in (".jsonl", ".json"):
            try:
                row = json.loads(line)
                pairs.append((str(row["english"]), str(row["tamil"])))
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f"--file: {path} line {number} is no JSON with english and tamil") from None
        else:
            cells = line.removesuffix("\r").split("\t")
            if number == 1 and [cell.strip().lower() for cell in cells] == ["english", "tamil"]:
                continue
            if len(cells) < 2:
                raise ConfigError(f"--file: {path} line {number} has no tab between English and Tamil")
            pairs.append((cells[0], cells[1]))
    if not pairs:
        raise ConfigError(f"--file: {path} holds no pairs")
    return pairs


def sample_policy(cfg, count: int) -> list[tuple[str, str]]:
    """Let the configured policy translate `count` evaluation rows, `group_size` samples each."""
    import torch

    from rl_nmt import corpus, hub, policy
    from rl_nmt.generate import generate

    hub.require_model("model_id", cfg.model_id)
    rows = corpus.load_eval(cfg.eval_dataset, cfg.eval_file, count, cfg.seed)
    if not rows:
        raise ConfigError("--samples needs sentences: give eval_file or eval_dataset")
    tokenizer = policy.load_tokenizer(cfg.model_id)
    precision = policy.choose_precision(lora=True)
    model = policy.load_policy(cfg.model_id, tokenizer, precision, cfg.attn_implementation).to(precision.device)
    torch.manual_seed(cfg.seed)
    texts = generate(
        model, tokenizer, [trainer.make_prompt(r["english"]) for r in rows], max_new_tokens=cfg.max_new_tokens,
        do_sample=True, temperature=cfg.temperature, top_p=cfg.top_p, num_return_sequences=cfg.group_size,
    )  # fmt: skip
    return [(r["english"], t) for r, group in zip(rows, texts, strict=True) for t in group]


def show(rows: list[dict]) -> None:
    """A block per sample: the numbers in one line, the texts below."""

    def number(value) -> str:
        return "   –  " if value is None else f"{value:6.3f}"

    print(f"{'total':>6} {'cycle':>6} {'qe':>6} {'script':>6} {'length':>6}  gate")
    for row in rows:
        numbers = [number(row[k]) for k in ("total", "cycle", "qe", "script_off", "length_off")]
        print(" ".join(numbers), "", row["gate"] or "passes")
        print(f"       english  {row['english']}\n       tamil    {row['output']}")
        if row["backtranslation"] is not None:
            print(f"       back     {row['backtranslation']}")


class Parser(argparse.ArgumentParser):
    """Bad arguments end in the same one line as everywhere."""

    def error(self, message: str):
        raise ConfigError(message)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--prompt", action="append", help="an English source; repeatable")
    parser.add_argument("--tamil", action="append", help="its translation; repeatable")
    parser.add_argument("--file", type=Path, help="pairs to score")
    parser.add_argument("--samples", type=int, default=0, help="sources to let the policy translate")
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        print(__doc__)
        print("Every field of RunCfg is a flag too: python train_grpo_en_ta.py --help")
        return 0
    own, rest = parser.parse_known_args(argv)
    cfg, _, _ = config.parse(trainer.RunCfg, rest, {}, prog="smoke_test_rewards.py", description=__doc__)
    if len(own.prompt or []) != len(own.tamil or []):
        raise ConfigError("--prompt and --tamil: give one of each per pair")
    trainer.require_reward_models(cfg)
    pairs = list(zip(own.prompt or [], own.tamil or [], strict=True))
    pairs += read_pairs(own.file) if own.file else []
    pairs += sample_policy(cfg, own.samples) if own.samples else []
    reward = trainer.build_reward(cfg)
    rows = reward.score_components(None, [t for _, t in pairs or DEMO], english=[e for e, _ in pairs or DEMO])
    show(rows)
    print(json.dumps(reward.signature(), ensure_ascii=False))
    missing = sum(row["total"] is None for row in rows)
    if missing:
        raise RewardRefused(f"{missing} of {len(rows)} samples have no score; the warnings above say why")
    return 0


if __name__ == "__main__":
    errors.run(main)

"""Inspect a reward before training on it: every component of every sample, cheats, preferences, other weights.

    python smoke_test_rewards.py --prompt "The door is open." --output "கதவு திறந்திருக்கிறது."
    python smoke_test_rewards.py --file pairs.tsv            # source and translation; also JSONL or Parquet
    python smoke_test_rewards.py --samples 4                 # let the policy of the configuration translate
    python smoke_test_rewards.py --attack                    # the launch gate: do cheats earn too much?
    python smoke_test_rewards.py --attack --guards off       # the same for the plain formula
    python smoke_test_rewards.py --attack --file mine.jsonl --source src --target ref --max_soft_win_share 0.2
    python smoke_test_rewards.py --pairs preferences.jsonl   # source, chosen, rejected
    python smoke_test_rewards.py --file outputs.jsonl --source src --target mt --score mqm --rollouts scored.jsonl
    python smoke_test_rewards.py --check_comet               # compare with unbabel-comet's own scores
    python smoke_test_rewards.py --reweigh scored.jsonl --set w_qe=0.5 w_cycle=0.5 --human mqm

Takes --config and every field of the trainer's RunCfg. The attack uses the pairs of --file, else the
evaluation references of the configuration, else (for Tamil) pairs that come with the code. With --score every component
is compared with human scores; --rollouts saves the scored rows. --reweigh shows what other weights would have
rewarded in such rows, or in a run's rollouts.jsonl, and loads no model; --config then gives the settings they were
scored with, by default the YAML file of the same name or the run's resolved_config.yaml. Exit status 3 when the
gate fails, a score is missing, or --check_comet finds a difference above 1e-4.
"""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

import rewards_en_ta_dupo
import train_grpo_en_ta as trainer
from rl_nmt import config, errors, files, hub
from rl_nmt.audit import cheats, launch_gate, preferences, reweigh
from rl_nmt.data.tables import Pair, read_pairs
from rl_nmt.errors import ConfigError, MissingService, RewardRefused
from rl_nmt.guards import agreement
from rl_nmt.text import TAMIL
from rl_nmt.text.known_words import known_words, unknown_words

COMET_DIFFERENCE = 1e-4
DEMO = [  # a translation and five outputs that must not beat it
    ("The children went to school.", "குழந்தைகள் பள்ளிக்குச் சென்றனர்."),
    ("The children went to school.", "The children went to school."),
    ("The children went to school.", "தி சில்ட்ரன் வென்ட் டு ஸ்கூல்."),
    ("The children went to school.", ""),
    ("The children went to school.", "பள்ளிக்குச் பள்ளிக்குச் பள்ளிக்குச்"),
    ("The children went to school.", "இன்று மழை பெய்தது."),
]


def sample_policy(cfg, count: int) -> list[Pair]:
    """Let the configured policy translate `count` evaluation rows, `group_size` samples each."""
    import torch

    from rl_nmt.data import corpus
    from rl_nmt.models import policy
    from rl_nmt.models.generate import generate

    hub.require_model("model_id", cfg.model_id)
    rows = corpus.load_eval(cfg.eval_dataset, cfg.eval_file, count, cfg.seed, cfg.target_language)
    if not rows:
        raise ConfigError("--samples: no sentences to translate; give eval_file or eval_dataset")
    tokenizer = policy.load_tokenizer(cfg.model_id)
    precision = policy.choose_precision(lora=True)
    model = policy.load_policy(cfg.model_id, tokenizer, precision, cfg.attn_implementation).to(precision.device)
    torch.manual_seed(cfg.seed)
    texts = generate(
        model,
        tokenizer,
        [trainer.make_prompt(r["source"], cfg.language) for r in rows],
        max_new_tokens=cfg.max_new_tokens,
        do_sample=True,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        num_return_sequences=cfg.group_size,
        what="samples",
    )
    return [Pair(r["source"], t) for r, group in zip(rows, texts, strict=True) for t in group]


def show(rows: list[dict], language: str) -> None:
    """Print a block per sample: the numbers in one line, the texts below; `language`: name of the outputs'."""
    columns = ("total", "cycle", "qe", "foreign_script", "length_penalty", "copied", "fidelity_loss")
    print(*(f"{name.split('_')[0]:>8}" for name in columns), " gate")
    for row in rows:
        numbers = ("–" if row[name] is None else f"{row[name]:.3f}" for name in columns)
        print(*(f"{number:>8}" for number in numbers), "", row["gate"] or "passes")
        print(f"       english  {row['source']}\n       {language.lower():<8} {row['output']}")
        if row["backtranslation"] is not None:
            print(f"       back     {row['backtranslation']}")


def inspect(reward, own, pairs: list[Pair], cfg) -> None:
    """Score the pairs; print every sample, or the table of --score; save the rows of --rollouts."""
    rows = launch_gate.score_rows(reward, [p.source for p in pairs], [p.output for p in pairs], "scoring")
    human = [pair.score for pair in pairs]
    if own.rollouts:
        write_rollouts(own.rollouts, rows, {own.score: human} if own.score else {}, cfg)
        print(f"{len(rows)} scored rows: {own.rollouts}", flush=True)
    if own.score:
        passing = [row if row["gate"] is None else {} for row in rows]
        components = [{name: value for name, value in row.items() if name != "total"} for row in passing]
        cleaned = [row["source"] for row in rows]  # sources that differ in spaces alone are one source
        table = agreement.table(components, human, cleaned, {"total": [row["total"] for row in rows]})
        print(agreement.as_text(table, own.score))
        print(f"gated: {sum(row['gate'] is not None for row in rows)} of {len(rows)}")
    elif own.check_comet:
        check_comet(reward, rows)
    elif not own.rollouts:
        show(rows, cfg.language.name)
    print_signature(reward)
    if missing := sum(row["total"] is None for row in rows):
        raise RewardRefused(f"{missing} of {len(rows)} samples have no score; the warnings above say why")


def warn_of_unknown_words(cfg, sources: list[str]) -> None:
    """Name the sources with words that the pocket models were never taught; other models have no list of words."""
    known = known_words(cfg.backtranslation_model, cfg.model_id)
    unknown = {source: words for source in sources if known and (words := unknown_words(source, known))}
    if unknown:
        named = [f"{', '.join(words)} (in {config.excerpt(source)})" for source, words in unknown.items()]
        more = [f"and the words of {len(named) - 3} more sources"] if len(named) > 3 else []
        said = ", ".join([*named[:3], *more])
        errors.warn(f"the pocket world does not know: {said}; scores of such sources mean nothing")


def print_signature(reward) -> None:
    print(json.dumps(reward.signature(), ensure_ascii=False))


def write_rollouts(path: Path, rows: list[dict], columns: dict[str, list], cfg) -> None:
    """Write rows for --reweigh, outputs of one source in one group, and next to them the settings as YAML."""
    groups: dict[str, int] = {}
    lines = ""
    for i, row in enumerate(rows):
        group = groups.setdefault(row["source"], len(groups))
        line = reweigh.rollout_row(row, 0, group, **{name: values[i] for name, values in columns.items()})
        lines += json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    files.write(path, lines, "--rollouts")
    config.save_resolved(cfg, path.with_suffix(".yaml"))


def check_comet(reward, rows: list[dict]) -> None:
    """Print how far each COMET model's scores differ from unbabel-comet's own. Raises RewardRefused."""
    from rl_nmt.scorers.base import Segment
    from rl_nmt.scorers.comet import oracle

    cycle = [Segment(r["source"], r["backtranslation"] or r["output"], r["source"]) for r in rows]
    quality = [Segment(r["source"], r["output"]) for r in rows]
    worst = 0.0
    own = reward.settings
    asked = (("comet_da_model", reward.da, cycle, own.cycle), ("comet_qe_model", reward.qe, quality, own.qe))
    for setting, scorer, segments, by in asked:
        name = getattr(own, setting)
        if scorer is None or by == "likelihood" or hub.scorer_file(name) != hub.COMET:
            continue
        theirs = oracle.predict(name, segments, setting)
        pairs = zip(scorer.score(segments).values, theirs, strict=True)
        differences = [math.inf if ours is None else abs(ours - other) for ours, other in pairs]
        print(f"{setting}: {name}, {len(segments)} segments, largest difference {max(differences):.1e}", flush=True)
        worst = max(worst, *differences)
    if worst > COMET_DIFFERENCE:
        raise RewardRefused(f"scores differ from unbabel-comet's by up to {worst:.1e}, more than {COMET_DIFFERENCE:g}")


def attack_pairs(own, cfg, pairs: list[Pair]) -> tuple[list[tuple[str, str]], str]:
    """Return the honest pairs of the attack and their origin: given, evaluation references, or shipped."""
    from rl_nmt.data import corpus

    if pairs:
        rows = [{"source": pair.source, "reference": pair.output} for pair in pairs]
        chosen, source = cheats.honest_pairs(rows, cfg.seed, own.num_pairs, cfg.language.code)
        if not source.startswith(cheats.REFERENCES):
            language = cfg.language.name
            raise ConfigError(f"--attack: none of the given pairs has a translation in {language} script; give some")
        return chosen, source.replace(cheats.REFERENCES, "given pairs")
    try:
        rows = corpus.load_eval(cfg.eval_dataset, cfg.eval_file, cfg.num_eval_samples, cfg.seed, cfg.target_language)
    except MissingService as error:
        rows = []
        print(f"no evaluation references: {error}", flush=True)
    chosen, source = cheats.honest_pairs(rows, cfg.seed, own.num_pairs, cfg.language.code)
    if lacking := cheats.too_few(chosen, cfg.language):
        raise ConfigError(f"--attack: {lacking}, or give --file")
    return chosen, source


def attack(reward, own, cfg, pairs: list[tuple[str, str]], source: str) -> None:
    """Run the launch gate and print its table. Raises RewardRefused when it fails."""
    suite = partial(cheats.build_suite, language=cfg.language.code, seed=cfg.seed)
    report = launch_gate.launch_gate(reward, pairs, suite, cfg.max_soft_win_share, source)
    print(report.table(everything=True), flush=True)
    print_signature(reward)
    if own.report:
        files.write_json(own.report, report.as_dict() | {"signature": reward.signature()}, "--report")
    report.require_passed()


def weigh_again(own, rest: list[str]) -> None:
    """--reweigh: compare the saved totals with those of other weights."""
    flags = Parser(add_help=False, allow_abbrev=False)
    flags.add_argument("--config", type=Path)
    settings = flags.parse_args(rest).config
    formula = config.load_callable(own.formula, "--formula") if own.formula else rewards_en_ta_dupo.combine
    found = reweigh.report(own.reweigh, formula, reweigh.parse_changes(own.set), settings, own.human)
    if own.json:
        files.write_json(own.json, found, "--json")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ConfigErrors: one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parser() -> Parser:
    """Return a parser of this script's own flags; all others are RunCfg's."""
    flags = Parser(add_help=False, allow_abbrev=False)
    add = flags.add_argument
    add("--prompt", action="append", default=[], help="an English source; repeatable")
    add("--output", "--tamil", action="append", default=[], help="its translation; repeatable")
    add("--file", type=Path, help="pairs to score")
    add("--source", default="", help="column of --file with the source (default: source, english, en or src)")
    add(
        "--target",
        default="",
        help="column of --file with the translation (default: reference, target, telugu, te, …)",
    )
    add("--score", default="", help="column of --file with human scores, higher is better")
    add("--rollouts", type=Path, help="file for the scored rows, for --reweigh")
    add("--samples", type=int, default=0, help="sources to let the policy translate")
    add("--attack", action="store_true", help="run the launch gate")
    add("--num_pairs", type=int, default=launch_gate.MAX_PAIRS, help="honest pairs of the attack")
    add("--report", type=Path, help="file for the attack's report, as JSON")
    add("--check_comet", action="store_true", help="compare with unbabel-comet's own scores")
    add("--pairs", type=Path, help="preferences: source, chosen, rejected")
    add("--reweigh", type=Path, metavar="ROLLOUTS", help="JSONL of scored samples to weigh again")
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=NUMBER", help="new weights of --reweigh")
    add("--human", default="", metavar="COLUMN", help="column of --reweigh with human scores, higher is better")
    add("--formula", default="", help="module:function (row, settings) → total, instead of the reward's own")
    add("--json", type=Path, help="file for the figures of --reweigh, as JSON")
    return flags


def check(own) -> None:
    """Refuse flags that do not go together. Raises ConfigError."""
    both = "--attack, --samples: give one of them; the attack needs honest translations, not the policy's"
    rollouts = f"--rollouts: {own.rollouts} must end in .jsonl; the settings are saved next to it as .yaml"
    weighing = own.set or own.human or own.formula or own.json
    for wrong, message in (
        (len(own.prompt) != len(own.output), "--prompt and --output: give one of each per pair"),
        (own.score and not own.file, "--score: needs --file, of which it names a column"),
        (own.attack and own.samples, both),
        (
            own.attack and (own.rollouts or own.score),
            "--attack: leave out --rollouts and --score; the attack scores its own cheats",
        ),
        (own.report and not own.attack, "--report: needs --attack"),
        (own.rollouts and own.rollouts.suffix != ".jsonl", rollouts),
        (own.num_pairs < 1, f"--num_pairs: {own.num_pairs} must be at least 1"),
        (weighing and not own.reweigh, "--set, --human, --formula, --json: need --reweigh"),
    ):
        if wrong:
            raise ConfigError(message)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        print(__doc__)
        print("Every field of RunCfg is a flag too: python train_grpo_en_ta.py --help")
        return 0
    own, rest = parser().parse_known_args(argv)
    check(own)
    if own.reweigh:
        weigh_again(own, rest)
        return 0
    cfg, _, _ = config.parse(trainer.RunCfg, rest, {}, prog="smoke_test_rewards.py", description=__doc__)
    launch_gate.check_bound(cfg.max_soft_win_share)
    hub.require_models(cfg.reward_models_used())
    pairs = list(map(Pair, own.prompt, own.output))
    pairs += read_pairs(own.file, "--file", own.source, own.target, own.score, cfg.language) if own.file else []
    preferred = preferences.read_preferences(own.pairs) if own.pairs else []
    pairs += sample_policy(cfg, own.samples) if own.samples else []
    if not (pairs or preferred or own.attack or cfg.language is TAMIL):
        raise ConfigError(f"--file: the examples of the code are in Tamil; give pairs in {cfg.language.name}")
    honest, source = attack_pairs(own, cfg, pairs) if own.attack else ([], "")
    warn_of_unknown_words(cfg, [*(pair.source for pair in pairs), *(row[0] for row in (*preferred, *honest))])
    reward = trainer.build_reward(cfg)
    if preferred:
        print(preferences.judge(reward, preferred, cfg.seed), flush=True)
        if not pairs and not own.attack:
            print_signature(reward)
    if own.attack:
        attack(reward, own, cfg, honest, source)
    elif pairs or not preferred:
        inspect(reward, own, pairs or [Pair(*pair) for pair in DEMO], cfg)
    return 0


if __name__ == "__main__":
    errors.run(main)

"""The launch gate: check that cheats earn less than honest outputs under the configured reward. No torch.

`launch_gate` scores honest outputs and the cheats that a suite makes of them in the same reward calls and counts, per
family, how often a cheat wins. `require_launch` is the same for a trainer: it prints the table and raises when the
reward must not be trained on. The caller gives the suite; translation's is in rl_nmt/audit/cheats.py.

The verdict (ours; its reasons: docs/details.md, 13): a cheat wins when its total is at least the honest output's less
TIE and no gate refused it. Hard families, which could not be an answer at all, must not win once. Soft families may win
`max_soft_win_share` on average over the families, each weighing the same. Honest pairs that the gates refuse are not
compared; more than MAX_HONEST_GATED of them (and than one), or more than MAX_UNSCORED comparisons without a score,
refuse it too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from rl_nmt.errors import ConfigError, RewardRefused
from rl_nmt.guards.agreement import cell
from rl_nmt.progress import progress

MAX_HONEST_GATED = 0.05  # the gates' own limit on human outputs is 0.02
MAX_UNSCORED = 0.25  # the share of a group without a score above which the trainer skips it
MAX_PAIRS = 60  # about 3,100 outputs, of which some 600 pass the gates and reach the models
TIE = 1e-6  # two totals closer than this are equal: float32 scores differ by as much between batches
EXAMPLES = 2  # winning cheats kept per family
BATCH = 256  # outputs per call of the reward

Pair = tuple[str, str]  # source, honest output


@dataclass(frozen=True)
class Cheat:
    """One cheat of a suite: which family made it, from which pair (index), and its text."""

    family: str
    hard: bool
    pair: int
    text: str


Suite = Callable[[Sequence[Pair]], Sequence[Cheat]]


class Reward(Protocol):
    """The interface of a reward that the gate needs: rows with "total" (float or None) and "gate" (reason or None)."""

    def score_components(
        self, prompts: Sequence[str] | None, completions: Sequence[str], source: Sequence[str] | None = None
    ) -> list[dict[str, Any]]: ...


@dataclass
class FamilyResult:
    """The result of one family. `n` comparisons had a score on both sides; `examples` are winning cheats."""

    name: str
    hard: bool
    n: int = 0
    wins: int = 0
    gated: int = 0  # of the n: cheats that the reward's gates refused
    unscored: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """Share of comparisons won, 0 to 1; None without any."""
        return self.wins / self.n if self.n else None

    def count(self, row: dict[str, Any], honest_row: dict[str, Any], source: str, honest: str, cheat: str) -> None:
        """Count one cheat against the honest output that it was made from, by their rows of the reward."""
        if _gated(honest_row):
            return
        total, honest_total = row["total"], honest_row["total"]
        if total is None or honest_total is None:
            self.unscored += 1
            return
        self.n += 1
        self.gated += _gated(row)
        # An equal total is a win too: GRPO would reinforce the cheat as much as the translation.
        if _gated(row) or total < honest_total - TIE:
            return
        self.wins += 1
        if len(self.examples) < EXAMPLES:
            example = {"source": source, "honest": honest, "cheat": cheat, "total": total, "honest_total": honest_total}
            self.examples.append(example)


@dataclass
class GateReport:
    """The result of `launch_gate`; `as_dict()` is ready for JSON."""

    families: list[FamilyResult]
    pairs: int
    honest_gated: int
    honest_unscored: int
    max_soft_win_share: float
    source: str = ""  # where the honest pairs came from

    def of(self, hard: bool) -> list[FamilyResult]:
        """The hard or the soft families, in the suite's order."""
        return [family for family in self.families if family.hard == hard]

    @property
    def soft_win_share(self) -> float | None:
        """Mean over the soft families of the share won, 0 to 1; None when none could be compared."""
        shares = [family.share for family in self.of(hard=False) if family.share is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def above_bound(self) -> list[FamilyResult]:
        """Soft families whose own share is above the bound, worst first."""
        above = [f for f in self.of(hard=False) if f.n and f.share > self.max_soft_win_share]
        return sorted(above, key=lambda family: -family.share)

    @property
    def reasons(self) -> list[str]:
        """Why the reward is refused, most serious first; empty when it passed."""
        reasons = [f"{f.name} wins {f.wins} of {f.n} (hard: 0 allowed)" for f in self.of(hard=True) if f.wins]
        soft = self.soft_win_share
        if soft is not None and soft > self.max_soft_win_share:
            worst = ", ".join(f"{f.name} {f.share:.0%}" for f in self.above_bound)
            reasons.append(f"soft families win {soft:.1%}, above {self.max_soft_win_share:.1%} ({worst})")
        if self.honest_gated > max(1, MAX_HONEST_GATED * self.pairs):
            reasons.append(f"the gates refuse {self.honest_gated} of {self.pairs} honest outputs")
        unscored = sum(f.unscored for f in self.families)
        asked = unscored + sum(f.n for f in self.families)
        if unscored > MAX_UNSCORED * asked or unscored == asked:
            reasons.append(f"{unscored} of {asked} comparisons have no score: not enough for a verdict")
        return reasons

    @property
    def passed(self) -> bool:
        return not self.reasons

    def require_passed(self) -> None:
        """Raise RewardRefused (exit status 3) with the reasons, if there are any."""
        if not self.passed:
            raise RewardRefused(
                f"launch gate: {'; '.join(self.reasons)}. Change the weights or models of the reward, evaluate on "
                "better pairs, raise max_soft_win_share, or train anyway with --skip_launch_gate"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return everything above as plain values, families with their share and examples."""
        names = ("passed", "reasons", "source", "pairs", "honest_gated", "honest_unscored", "soft_win_share")
        return {name: getattr(self, name) for name in (*names, "max_soft_win_share")} | {
            "hard_wins": sum(f.wins for f in self.of(hard=True)),
            "families": [asdict(family) | {"share": family.share} for family in self.families],
        }

    def table(self, everything: bool) -> str:
        """Format all families, or only those that won too much, and the verdict."""
        lines = [f"{'family':<24}{'kind':<6}{'n':>5}{'won':>5}{'share':>8}{'gated':>7}{'unscored':>10}"]
        hard, above = self.of(hard=True), self.above_bound
        for family in self.families:
            marked = family.wins if family.hard else family in above
            if marked or everything:
                kind = "hard" if family.hard else "soft"
                lines.append(
                    f"{family.name:<24}{kind:<6}{family.n:>5}{family.wins:>5}{cell(family.share, '.1%'):>8}"
                    f"{family.gated:>7}{family.unscored:>10}{'  ←' if marked else ''}"
                )
            for example in family.examples if marked else []:
                totals = f"{example['total']:.3f} against {example['honest_total']:.3f}"
                lines += [f"    {totals}   {_line(example['source'])}", f"    cheat  {_line(example['cheat'])}"]
        source = f" ({self.source})" if self.source else ""
        lines += [
            f"{self.pairs} honest pairs{source}: {self.honest_gated} gated, {self.honest_unscored} unscored",
            f"hard: {sum(bool(f.wins) for f in hard)} of {len(hard)} families with a win; "
            f"soft: {cell(self.soft_win_share, '.1%')} won on average, {self.max_soft_win_share:.1%} allowed",
            "launch gate: passed" if self.passed else "launch gate: REFUSED: " + "; ".join(self.reasons),
        ]
        return "\n".join(lines)


def _line(text: str, width: int = 100) -> str:
    """Return a text on one line with its invisible characters escaped."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return repr("") if not shown.strip() else shown if len(shown) <= width else shown[: width - 1] + "…"


def launch_gate(
    reward: Reward, pairs: Sequence[Pair], suite: Suite, max_soft_win_share: float, source: str = ""
) -> GateReport:
    """Score honest `pairs` (source, output) and the cheats that `suite` makes of them; see the module docstring.

    The reward is called through `score_components` in batches of BATCH outputs. `source`: where the pairs
    come from. Raises ConfigError for no pairs or a bound outside [0, 1].
    """
    check_bound(max_soft_win_share)
    if not pairs:
        raise ConfigError("launch gate: no honest pairs; give at least one source with an honest output")
    cheats = suite(pairs)
    texts = [output for _, output in pairs] + [cheat.text for cheat in cheats]
    sources = [source for source, _ in pairs] + [pairs[cheat.pair][0] for cheat in cheats]
    rows = score_rows(reward, sources, texts, "launch gate")
    honest = rows[: len(pairs)]
    families: dict[str, FamilyResult] = {}
    for cheat, row in zip(cheats, rows[len(pairs) :], strict=True):
        family = families.setdefault(cheat.family, FamilyResult(cheat.family, cheat.hard))
        family.count(row, honest[cheat.pair], *pairs[cheat.pair], cheat.text)
    gated, unscored = sum(map(_gated, honest)), sum(row["total"] is None for row in honest)
    return GateReport(list(families.values()), len(pairs), gated, unscored, max_soft_win_share, source)


def check_bound(max_soft_win_share: float) -> None:
    """Raise ConfigError for a bound outside [0, 1] or NaN."""
    if not 0 <= max_soft_win_share <= 1:
        raise ConfigError(f"max_soft_win_share: {max_soft_win_share} must be in [0, 1]")


def score_rows(reward: Reward, sources: Sequence[str], texts: Sequence[str], what: str = "") -> list[dict[str, Any]]:
    """Return the reward's rows of many outputs, in batches; a total that is not finite becomes None.

    `what` names the work on a progress line; "" shows none.
    """
    rows: list[dict[str, Any]] = []
    with progress(what, len(texts), "texts") as bar:
        for start in range(0, len(texts), BATCH):
            part = slice(start, start + BATCH)
            rows += reward.score_components(None, texts[part], source=sources[part])
            bar.update(len(rows) - bar.n)
    for row in rows:
        if row["total"] is not None and not math.isfinite(row["total"]):
            row["total"] = None
    return rows


def _gated(row: dict[str, Any]) -> bool:
    return row.get("gate") is not None


def require_launch(
    reward: Reward, pairs: Sequence[Pair], suite: Suite, max_soft_win_share: float, source: str = ""
) -> dict[str, Any]:
    """Run the launch gate for a trainer and print its result; see `launch_gate`.

    Returns the report as plain values, to be logged. Raises RewardRefused (exit status 3) that names the
    families which won, and ConfigError for a bad bound.
    """
    report = launch_gate(reward, pairs, suite, max_soft_win_share, source)
    print(report.table(everything=not report.passed), flush=True)
    report.require_passed()
    return report.as_dict()

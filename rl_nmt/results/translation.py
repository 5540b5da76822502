"""Metrics and words of translation for the results: chrF++, BLEU, the share of outputs in the language.

chrF++ and BLEU are sacreBLEU's and need references, which no reward of this repository reads. No torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rl_nmt import distributed
from rl_nmt.progress import progress
from rl_nmt.results.divergence import DivergenceMonitor
from rl_nmt.results.evaluation import SCORED_TOGETHER, Snapshot, bootstrap_draws
from rl_nmt.results.task import Column, Task
from rl_nmt.scorers.base import QUALITY_ESTIMATION, Segment, require_scale
from rl_nmt.text.languages import ENGLISH, Language
from rl_nmt.text.unicode import safe_unicode, script_share

IN_LANGUAGE = 0.5  # an output counts as Tamil when at least this share of its letters is
FIRST_SETTINGS = """
    model_id dataset_name num_train_samples max_steps group_size temperature lr kl_beta loss_type lora_rank
    comet_da_model comet_qe_model backtranslation_model w_cycle w_qe guards seed
    model.policy_name_or_path data.train_file data.hf_dataset_name rl.credit rl.updates rl.lr rl.kl
    generation.num_samples_per_prompt
"""


class SacreBleu:
    """A metric of sacreBLEU by its class name and options, over the rows that have a reference.

    The n-gram counts of a corpus are sums over its sentences, so a bootstrap draw is one row of a matrix product
    and no text is read again.
    """

    def __init__(self, name: str, **options: Any):
        self.name, self.options = name, options

    def make(self):
        """The metric; sacreBLEU is imported where it is first needed."""
        from sacrebleu import metrics

        return getattr(metrics, self.name)(**self.options)

    def counts(self, snapshot: Snapshot) -> np.ndarray:
        """sacreBLEU's counts per sentence, (rows with a reference, counts); chrF++: hyp, ref, match per order."""
        outputs, references = _referenced(snapshot)
        if not outputs:
            return np.zeros((0, 0), dtype=np.int64)
        return np.array(self.make()._extract_corpus_statistics(outputs, [references]), dtype=np.int64)

    def score(self, counts: np.ndarray) -> float:
        """The score, 0 to 100, of summed counts."""
        return float(self.make()._compute_score_from_stats(counts.tolist()).score)

    def corpus(self, snapshot: Snapshot) -> float | None:
        """The corpus score, 0 to 100; None without references."""
        counts = self.counts(snapshot)
        return self.score(counts.sum(axis=0)) if len(counts) else None

    def sentences(self, snapshot: Snapshot) -> list[float | None]:
        """The score of each output, 0 to 100; None where the row has no reference."""
        scores = map(self.score, self.counts(snapshot))
        return [next(scores) if reference else None for reference in snapshot.references]

    def resampled(self, snapshot: Snapshot, seed: int) -> np.ndarray:
        """Corpus scores (RESAMPLES,) on draws of the rows that have references; equal seeds draw equal rows."""
        counts = self.counts(snapshot)
        return np.array([self.score(row) for row in bootstrap_draws(len(counts), seed) @ counts])

    def signature(self, snapshot: Snapshot) -> str:
        """sacreBLEU's signature."""
        metric = self.make()
        outputs, references = _referenced(snapshot)
        metric.corpus_score(outputs, [references])  # the signature counts the references it has seen
        return metric.get_signature().format()


def _referenced(snapshot: Snapshot) -> tuple[list[str], list[str]]:
    pairs = [(o, safe_unicode(r)) for o, r in zip(snapshot.outputs, snapshot.references, strict=True) if r]
    return [output for output, _ in pairs], [reference for _, reference in pairs]


CHRF, BLEU = SacreBleu("CHRF", word_order=2), SacreBleu("BLEU")


def translation_task(target: Language, source: Language = ENGLISH) -> Task:
    """Translation from `source` into `target`, for rl_nmt/results and rl_nmt/training/loop.py."""

    def in_language(snapshot: Snapshot) -> float:
        return float(np.mean([script_share(text, target) >= IN_LANGUAGE for text in snapshot.outputs]))

    share = f"{target.name.lower()}_share"
    columns = (
        Column("chrf", "chrF++", 1, 1, CHRF.sentences, CHRF.corpus, CHRF.resampled, CHRF.signature),
        Column("bleu", "BLEU", 1, 1, value=BLEU.corpus, resampled=BLEU.resampled, signature=BLEU.signature),
        Column(share, f"in {target.name}", better=1, value=in_language),
        *(Column(name, better=1) for name in ("cycle", "qe")),
        *(Column(name, better=-1) for name in ("foreign_script", "length_penalty")),
    )
    return Task(
        title=f"{source.name} → {target.name}",
        columns=columns,
        headline=("chrf", "reward", "bleu", share),
        texts={"backtranslation": "read back as"},
        source_language=source.code,
        output_language=target.code,
        inputs=f"{source.name} sentences",
        outputs="translations",
        reward="a reward that reads no reference translation",
        pipeline="translation",
        example="The rain has stopped.",
        settings=tuple(FIRST_SETTINGS.split()),
    )


def divergence_monitor(
    rows: Sequence[dict],
    independent_scorer: str = "",
    device: str = "auto",
    python: str = "",
    setting: Callable[[str], str] = str,
) -> DivergenceMonitor:
    """Return a monitor with a score outside the reward: chrF++, or `independent_scorer` without references.

    `rows`: the held-out rows {"source", "reference"?}. `independent_scorer`: a COMET checkpoint, loaded only if it is
    needed, on `device`, in the environment of another `python` if that is given. `setting`: returns the script's name
    of a setting, for messages (`Run.setting`).
    """
    scorer: Any = None

    def by_scorer(snapshot: Snapshot) -> list[float | None]:
        if scorer is None:
            return [None] * len(snapshot.sources)
        segments = [Segment(s, o) for s, o in zip(snapshot.sources, snapshot.outputs, strict=True)]
        values: list[float | None] = []
        with progress("independent scorer", len(segments), "texts") as bar:
            for start in range(0, len(segments), SCORED_TOGETHER):
                values += scorer.score(segments[start : start + SCORED_TOGETHER]).values
                bar.update(len(values) - bar.n)
        return [None if v is None else v if scorer.higher_is_better else -v for v in values]

    name, score = "", by_scorer
    if any(row.get("reference") for row in rows):
        name, score = "chrF++", CHRF.sentences
    elif independent_scorer and distributed.is_main_process():  # it evaluates for all
        from rl_nmt.models.loading import choose_device

        options: dict[str, Any] = {"argument": setting("independent_scorer"), "classes": QUALITY_ESTIMATION}
        options |= {"name_or_path": independent_scorer, "device": choose_device(device, setting("reward_device"))}
        if python:
            from rl_nmt.scorers.worker.client import load_in_worker

            factory = "rl_nmt.scorers.comet:load_comet"
            scorer = load_in_worker(factory, options, python_executable=python, argument=setting("python"))
        else:
            from rl_nmt.scorers.comet import load_comet

            scorer = load_comet(**options)
        require_scale(setting("independent_scorer"), scorer)
        name = scorer.name
    missing = f"none: divergence cannot be detected; give {setting('eval_file')} or {setting('independent_scorer')}"
    print(f"score outside the reward: {name or missing}", flush=True)
    return DivergenceMonitor(name, score, [row["source"] for row in rows])

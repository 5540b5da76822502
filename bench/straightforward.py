"""The straightforward route that the benches compare with: each model used as on its own page.

COMET as in its README: `load_from_checkpoint`, then `predict(samples, batch_size=8, gpus=1)` for every call,
gpus=0 on a CPU, without the progress bar. NLLB as on its model card: one padded batch into `generate` with
the forced target tag, here with 4 beams, decoded with `batch_decode`; length and stopping are the
checkpoint's defaults except max_new_tokens, which is that of the other route (256). So the search does not
stop early, and where the model is unsure the text may differ from ours.

Without unbabel-comet, `PaddedComet` is used: the same batches as `predict`, without its Trainer and without moving
the model to the device and back at every call.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from bench import shapes
from bench.measure import say
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models.loading import full_precision, loading
from rl_nmt.scorers.base import Scores, Segment, Span
from rl_nmt.scorers.comet import scorer

PREDICT_BATCH = 8
MAX_NEW_TOKENS = 256


def unbabel_comet():
    """Import the module comet. Raises MissingService if that fails."""
    try:
        with loading():
            import comet
    except Exception as error:  # with transformers 5 its import fails in many ways
        raise MissingService(f"unbabel-comet: {error}; use an environment of requirements.txt") from error
    return comet


class PlainComet:
    """COMET by `predict`, with the `score` of a `rl_nmt.scorers.base.Scorer`."""

    range = (0.0, 1.0)

    def __init__(self, folder: Path, device: str = "cpu"):
        folder = folder.resolve()
        comet = unbabel_comet()
        with loading(), contextlib.chdir(folder):  # the encoder's path is relative to the checkpoint
            self.model = comet.load_from_checkpoint(str(folder / "checkpoints" / "model.ckpt"), local_files_only=True)
        if shapes.are_resident():  # the checkpoint has no weights
            self.model.load_state_dict(shapes.draw(folder).state_dict(), strict=False)
        self.device = device
        self.name = folder.name

    def samples(self, segments: Sequence[Segment]) -> list[dict[str, str]]:
        """Return rows as COMET takes them."""
        rows = [{"src": s.src, "mt": s.mt, "ref": s.ref} for s in segments]
        return [{name: text for name, text in row.items() if text is not None} for row in rows]

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return one value per segment, and XCOMET's spans."""
        with quiet():
            output = self.model.predict(
                self.samples(segments), batch_size=PREDICT_BATCH, gpus=int(self.device != "cpu"), progress_bar=False
            )
        spans = output.metadata.error_spans if "metadata" in output and "error_spans" in output.metadata else None
        if spans is None:
            return Scores(list(output.scores))
        fields = ("start", "end", "severity", "confidence")
        return Scores(list(output.scores), [[Span(*(s[name] for name in fields)) for s in row] for row in spans])

    def to(self, device: str) -> PlainComet:
        """Do nothing: `predict` itself moves the model, to the device and back at every call."""
        self.device = device
        return self

    def signature(self) -> dict[str, dict]:
        """Says that this is the plain route."""
        return {"identity": {"model": self.name, "route": "predict"}, "environment": {}}


class PaddedComet:
    """COMET in the padded batches of `predict`; see the module. No spans."""

    range = (0.0, 1.0)

    def __init__(self, folder: Path, device: str = "cpu"):
        self.model = scorer.load_model("model", folder / "checkpoints" / "model.ckpt", scorer.CLASSES)[0].eval()
        self.name = folder.name
        self.to(device)

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return one value per segment."""
        order = sorted(range(len(segments)), key=lambda i: len(segments[i].src))
        values: list[float] = []
        with full_precision():
            for start in range(0, len(order), PREDICT_BATCH):
                values += self.model([segments[i] for i in order[start : start + PREDICT_BATCH]]).score.tolist()
        return Scores([value for _, value in sorted(zip(order, values, strict=True))])

    def to(self, device: str) -> PaddedComet:
        """Move the weights."""
        self.model.to(device)
        return self

    def signature(self) -> dict[str, dict]:
        """Name the padded route."""
        return {"identity": {"model": self.name, "route": "padded batches"}, "environment": {}}


def plain_comet(folder: Path, device: str) -> PlainComet | PaddedComet:
    """Return unbabel-comet if it can be imported, else the same batches without it, noted on standard error."""
    try:
        unbabel_comet()
    except MissingService as error:
        say(f"{error}; using padded batches of {PREDICT_BATCH} instead")
        return PaddedComet(folder, device)
    return PlainComet(folder, device)


class PlainTranslator:
    """NLLB by `generate`: N texts → N translations, in one batch. `options`: further arguments of `generate`."""

    def __init__(self, folder: Path, device: str = "cpu", beams: int = 4, **options):
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, src_lang="tam_Taml")
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval().to(device)
        self.beams, self.options, self.name = beams, options, folder.name

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return translations in order."""
        inputs = self.tokenizer(list(texts), return_tensors="pt", padding=True).to(self.model.device)
        tokens = self.model.generate(
            **inputs,
            forced_bos_token_id=self.tokenizer.convert_tokens_to_ids("eng_Latn"),
            num_beams=self.beams,
            max_new_tokens=MAX_NEW_TOKENS,
            **self.options,
        )
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    def to(self, device: str) -> PlainTranslator:
        """Move the weights."""
        self.model.to(device)
        return self

    def signature(self) -> dict[str, dict]:
        """Says that this is the plain route."""
        return {"identity": {"model": self.name, "route": "generate", "beams": self.beams}, "environment": {}}


def use_plain_models(reward, da: str | Path, qe: str | Path, nllb: str | Path, beams: int):
    """Return the same CometDuPOReward, formula and guards unchanged, with its three models on this route."""
    if reward.reward_device != reward.dual_device:
        raise ConfigError(
            f"dual_device: {reward.dual_device} is not reward_device, {reward.reward_device}, but the straightforward "
            "route has only one device; set both to the same"
        )
    reward.da = plain_comet(Path(da), reward.reward_device)
    reward.qe = plain_comet(Path(qe), reward.reward_device)
    reward.backtranslator = PlainTranslator(Path(nllb), reward.dual_device, beams)
    return reward


@contextlib.contextmanager
def quiet():
    """Suppress Lightning's banners and its advice about data loaders."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)

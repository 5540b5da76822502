"""Sample groups of outputs from a model and score them with the reward, outside the training loop."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rl_nmt.audit.groups import Groups
from rl_nmt.errors import ConfigError
from rl_nmt.results.evaluation import score_together
from rl_nmt.results.task import mean
from rl_nmt.text.unicode import safe_unicode


@dataclass
class GroupSampler:
    """Sample G outputs per prompt as in training, and score them. Collective when called.

    The same model, sources, seed and offset give the same groups for any number of processes. The random state is
    unchanged.
    """

    model: Any
    tokenizer: Any
    make_prompt: Callable[[str], str]
    reward: Any  # has score_components
    group_size: int  # G
    batch_size: int  # sequences decoded together
    sampling: dict[str, Any]  # options of `generate`: max_new_tokens, temperature, …
    seed: int = 0
    noise_floor: float = 0.0  # of the groups that are returned

    @classmethod
    def of(cls, cfg: Any, policy, make_prompt: Callable[[str], str], reward) -> Self:
        """Build one that samples as GRPO does with these settings, as many sequences together.

        `cfg`: has RunCfg's names; `policy`: a `setup.Policy`.
        """
        together = cfg.per_device_batch_size * cfg.trl.batches(cfg.gradient_accumulation_steps)
        if cfg.use_vllm:  # sized for its engine; these samples are transformers'
            together = min(together, cfg.eval_batch_size)
        sampling = {name: getattr(cfg, name) for name in ("temperature", "top_p", "max_new_tokens")}
        sampling |= {name: getattr(cfg.trl, name) for name in ("top_k", "min_p", "repetition_penalty")}
        return cls(policy.model, policy.tokenizer, make_prompt, reward, cfg.group_size, together, sampling, cfg.seed)

    def __call__(self, sources: Sequence[str], offset: int = 0, samples: int = 0, what: str = "") -> Groups:
        """Return `samples` outputs of each source, by default G, with their rewards.

        `offset`: added to the seed, so that other calls draw other samples; `what`: the name of the work on its
        progress line. Raises ConfigError when memory runs out.
        """
        from rl_nmt.models.generate import sample_together

        count = samples or self.group_size
        prompts = [self.make_prompt(source) for source in sources]
        sizes: dict[str, Any] = {"num_return_sequences": count, "batch_size": max(count, self.batch_size)}
        with self._fits(sizes["batch_size"]):
            drawn = sample_together(
                self.model, self.tokenizer, prompts, self.seed + offset, what=what, **sizes, **self.sampling
            )
        return self._scored(sources, prompts, drawn, what)

    def greedy(self, sources: Sequence[str], what: str = "") -> Groups:
        """Return the greedy output of each source with its reward, as groups of one.

        `what`: as in the call. Raises ConfigError when memory runs out.
        """
        from rl_nmt.models.generate import generate_together

        prompts = [self.make_prompt(source) for source in sources]
        sizes = {"max_new_tokens": self.sampling["max_new_tokens"], "batch_size": self.batch_size}
        with self._fits(self.batch_size):
            answers = generate_together(self.model, self.tokenizer, prompts, **sizes, what=what)
        return self._scored(sources, prompts, [[answer] for answer in answers], what)

    def distance(self, start: Any, sources: Sequence[str], what: str = "") -> float | None:
        """Return a Monte-Carlo estimate of KL(model ‖ start) per token, in nats; noise can make it negative.

        It is the mean over the sources of (log p_model − log p_start) / tokens of one sample of the model at
        temperature 1. `start`: the start policy's model; None: `model` with its adapters off. Raises ConfigError when
        memory runs out.
        """
        from rl_nmt.models.generate import sample_together
        from rl_nmt.models.policy import stop_ids
        from rl_nmt.scorers.likelihood import Likelihood

        prompts = [self.make_prompt(source) for source in sources]
        sizes = {"max_new_tokens": self.sampling["max_new_tokens"], "batch_size": self.batch_size}
        with self._fits(self.batch_size):
            drawn = sample_together(
                self.model, self.tokenizer, prompts, self.seed, num_return_sequences=1, what=what, **sizes
            )
        outputs, end = [texts[0] for texts in drawn], stop_ids(self.tokenizer)[0]
        now = Likelihood(self.model, self.tokenizer, end, self.make_prompt, adapted=True)(sources, outputs)
        then = Likelihood(start or self.model, self.tokenizer, end, self.make_prompt)(sources, outputs)
        return mean([a - b for a, b in zip(now, then, strict=True) if a is not None and b is not None])

    @contextlib.contextmanager
    def _fits(self, together: int) -> Iterator[None]:
        """Name the settings to lower where decoding `together` sequences runs out of memory."""
        from rl_nmt.models.batching import is_out_of_memory

        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ConfigError(
                f"group_size: {self.group_size}: sampling {together} outputs of {self.sampling['max_new_tokens']} "
                "tokens together ran out of memory; lower group_size, max_new_tokens or trl.steps_per_generation"
            ) from error

    def _scored(
        self, sources: Sequence[str], prompts: Sequence[str], drawn: Sequence[Sequence[str]], what: str
    ) -> Groups:
        outputs = [[safe_unicode(text) for text in texts] for texts in drawn]
        every = [(p, s, o) for p, s, texts in zip(prompts, sources, outputs, strict=True) for o in texts]
        flat_prompts, flat_sources, flat_outputs = ([row[part] for row in every] for part in range(3))
        rows = iter(score_together(self.reward, flat_prompts, flat_outputs, flat_sources, f"{what}: scoring"))
        scored = [[next(rows) for _ in texts] for texts in outputs]
        totals, gates = ([[row.get(name) for row in group] for group in scored] for name in ("total", "gate"))
        return Groups(list(sources), outputs, totals, gates, self.noise_floor)

"""Load Gemma 3's processor, and write user turns with images, and answers to them, as token ids and model inputs.

chat = Chat(tokenizer, processor)                # processor None: a model that sees no images
prompts = [chat.prompt(text, images) for ...]    # a user turn: its images, then its text
log_probs = answer_log_probs(model, chat, prompts, [chat.answer(text) for ...])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from rl_nmt import hub
from rl_nmt.errors import ConfigError
from rl_nmt.models.generate import encode_prompts, inference
from rl_nmt.models.policy import FILES, stop_ids
from rl_nmt.text.prompts import chat_prompt
from rl_nmt.text.unicode import neutralise_control_tokens

SEES = "gemma3"  # model_type of the sizes with a vision tower; 270M and 1B are "gemma3_text"


def sees_images(name: str, argument: str = "model_id") -> bool:
    """Return whether a checkpoint has a vision tower that can be used here. Raises ConfigError, MissingService."""
    from transformers import AutoConfig

    repository, revision = hub.split_revision(name)
    try:
        config = AutoConfig.from_pretrained(repository, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if Path(name).exists():
            raise ConfigError(f"{argument}: {name} does not load: {error}") from error
        raise hub.explain(argument, name, error) from error
    return config.model_type == SEES and getattr(config, "vision_config", None) is not None


def load_processor(name: str, tokenizer, argument: str = "model_id"):
    """Load the processor of a Gemma 3 checkpoint with vision; it uses `tokenizer`.

    Raises ConfigError for a processor that does not load, or has no image token or no chat template; MissingService.
    """
    from transformers import AutoImageProcessor, Gemma3Processor

    from rl_nmt.models import loading

    loading.fetch(argument, name, "config.json", FILES)
    if getattr(tokenizer, "image_token_id", None) in (None, tokenizer.unk_token_id):
        raise ConfigError(f"{argument}: {name}: its processor has no image token, so it cannot read images")
    repository, revision = hub.split_revision(name)
    # Without torchvision there is only the slow one: the same pixels, and so the same run, on every machine.
    slow = {"use_fast": False} if transformers.__version__.startswith("4.") else {}
    try:
        images = AutoImageProcessor.from_pretrained(repository, revision=revision, trust_remote_code=False, **slow)
        own, _ = Gemma3Processor.get_processor_dict(repository, revision=revision)
    except Exception as error:  # whatever transformers, its image library and json raise for a bad file
        if not Path(name).exists():
            raise hub.explain(argument, name, error) from error
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: {name}: its processor does not load: {reason}") from error
    template = own.get("chat_template") or tokenizer.chat_template
    if not template:
        raise ConfigError(f"{argument}: {name}: its processor has no chat template: give a chat (instruct) model")
    each = own.get("image_seq_length", 256)  # as Gemma3Processor's own default
    return Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=each)


@dataclass
class Prompt:
    """A user turn and the opening of the model's turn."""

    ids: list[int]  # image tokens included
    pixels: torch.Tensor | None = None  # (images, 3, height, width), None without images


class Chat:
    """Write the turns of a model: prompts as TRL's GRPOTrainer writes them, answers with their end of turn.

    Text that looks like a control token is read as text.
    """

    def __init__(self, tokenizer, processor=None):
        self.tokenizer, self.processor = tokenizer, processor
        self.end = stop_ids(tokenizer)[0]
        # Not processor.image_token_id, which in transformers 5 is that of the token in front of an image.
        self.image_token: int | None = processor and processor.tokenizer.image_token_id

    def trl_prompt(self, text: str) -> Any:
        """Return a prompt for a dataset of TRL's trainers, which put images of another column in front of its text."""
        return (
            [{"role": "user", "content": clean(text)}] if self.processor else chat_prompt(self.tokenizer, clean(text))
        )

    def prompt(self, text: str, images: Sequence[Any] = ()) -> Prompt:
        """Return the model's input. Raises ConfigError for images without a processor."""
        if self.processor is None:
            if images:
                raise ConfigError("images: this model sees none; give a Gemma 3 with a vision tower, 4B or larger")
            return Prompt(encode_prompts(self.tokenizer, [chat_prompt(self.tokenizer, clean(text))])[0])
        # One at a time: Gemma3Processor of transformers 4.57 fails on several prompts of unequal length.
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        turn = {"role": "user", "content": [*parts, {"type": "text", "text": clean(text)}]}
        found = self.processor.apply_chat_template(
            [[turn]], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        pixels = stacked(found["pixel_values"]) if images else None
        return Prompt(list(found["input_ids"][0]), pixels)

    def prompt_lengths(self, texts: Sequence[str], images: Sequence[int]) -> list[int]:
        """Return the number of tokens of prompts with that many images each; no image is read."""
        each = 0
        if any(images):
            from PIL import Image

            blank = Image.new("RGB", (64, 64))
            each = len(self.prompt("a", [blank]).ids) - len(self.prompt("a").ids)
        prompts = encode_prompts(self.tokenizer, [chat_prompt(self.tokenizer, clean(text)) for text in texts])
        return [len(ids) + each * count for ids, count in zip(prompts, images, strict=True)]

    def answer(self, text: str) -> list[int]:
        """Return an answer and the token that ends its turn."""
        options = {"add_special_tokens": False, "split_special_tokens": True}
        return [*self.tokenizer(text, **options)["input_ids"], self.end]

    def batch(self, rows: Sequence[Sequence[int]], pixels: Sequence[torch.Tensor | None], model) -> dict[str, Any]:
        """Return left-padded rows (B, L) and their images as keyword arguments of `model`, on its device."""
        width = max(map(len, rows))
        ids = torch.tensor([[self.end] * (width - len(row)) + list(row) for row in rows])  # (B, L)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        found = {"input_ids": ids, "attention_mask": mask}
        if self.processor is not None:
            # Gemma 3 attends to an image's tokens in both directions, and finds them by their type.
            found["token_type_ids"] = (ids == self.image_token).long()
            if there := [images for images in pixels if images is not None]:
                found["pixel_values"] = torch.cat(there).to(model.dtype)  # (images of all rows, 3, H, W)
        return {name: tensor.to(model.device) for name, tensor in found.items()}


def clean(text: str) -> str:
    """Return the text of a prompt without what a tokenizer does not accept or would read as a control token."""
    return neutralise_control_tokens(text.encode("utf-8", "replace").decode("utf-8"))


def stacked(pixels: Any) -> torch.Tensor:
    """Return the images of one prompt as (images, 3, height, width), from a processor's array, tensor or list."""
    if isinstance(pixels, (list, tuple)):
        return torch.stack([torch.as_tensor(image) for image in pixels])
    return torch.as_tensor(pixels)


def answer_log_probs(
    model, chat: Chat, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> list[float | None]:
    """Return the log-probability, in nats, of each answer after its prompt; None where it is not finite.

    `answers`: token ids, end of turn included. One forward pass; the model's mode and gradients are as before.
    """
    rows = [[*prompt.ids, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, answers))
    with inference(model):
        inputs = chat.batch(rows, [prompt.pixels for prompt in prompts], model)
        logits = model(**inputs, logits_to_keep=longest + 1, use_cache=False).logits[:, :-1]  # (B, T, V)
        values = []
        for row, answer in zip(logits, answers, strict=True):  # one by one: fp32 logits of a batch may be gigabytes
            own = torch.tensor(answer, device=row.device)
            log_probs = row[-len(answer) :].float().log_softmax(-1)
            values.append(log_probs.gather(-1, own[:, None]).sum().item())
    return [value if abs(value) < float("inf") else None for value in values]


def skip_empty_images(model) -> None:
    """Let a model take a micro-batch whose rows have no images while others of the same batch have.

    TRL then passes pixel values with no rows, on which the vision tower fails. Returns the handle that removes it.
    """

    def drop(module, args, kwargs: Mapping[str, Any]):
        pixels = kwargs.get("pixel_values")
        if pixels is not None and not len(pixels):
            kwargs = {name: value for name, value in kwargs.items() if name != "pixel_values"}
        return args, kwargs

    return model.register_forward_pre_hook(drop, with_kwargs=True)

"""A tiny Gemma 3 with a vision tower, in the published on-disk format, and its warm-up on questions about pictures."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pocket.charts import draw
from pocket.charts.draw import CELL, COLOURS, GRID, HEIGHTS, SHAPES, SIDE, Scene
from pocket.charts.questions import PICTURED, VALUES, Row
from pocket.fitting import cross_entropy, padded, train
from pocket.formats import gemma_tokenizer, new_gemma

IMAGE_TOKENS = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
SEEN = GRID * GRID  # image tokens: one for each cell
CHAT_TEMPLATE = (  # the content of a turn is a text, or a list of parts, images among them
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{%- if m['content'] is string %}{{ m['content'] | trim }}"
    "{%- else %}{% for part in m['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{%- elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
END_OF_TURN = "<end_of_turn>\n"
PROBE_WEIGHT = 0.5  # of the loss of the probes on the image tokens


def new_processor(folder: Path, texts: Sequence[str], vocab: int):
    """The Gemma3Processor whose files are saved in `folder`; its tokenizer is trained on `texts`."""
    from transformers import AutoTokenizer, Gemma3ImageProcessor, Gemma3Processor

    gemma_tokenizer(folder, texts, vocab)
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=IMAGE_TOKENS)
    tokenizer.chat_template = CHAT_TEMPLATE
    images = Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = Gemma3Processor(images, tokenizer, chat_template=CHAT_TEMPLATE, image_seq_length=SEEN)
    processor.save_pretrained(folder)
    return processor


def new_policy(tokenizer, sizes):
    """A random Gemma3ForConditionalGeneration; its generation settings are as published."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=sizes.vision_hidden,
        intermediate_size=2 * sizes.vision_hidden,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=CELL,
        vision_use_head=False,
    )
    text = new_gemma(tokenizer, sizes.hidden, sizes.layers)
    config = Gemma3Config(
        text_config=text.config,
        vision_config=vision,
        mm_tokens_per_image=SEEN,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        eos_token_id=text.config.eos_token_id,
    )
    model = Gemma3ForConditionalGeneration(config)
    model.generation_config = text.generation_config
    # transformers starts it with zeros, with which no gradient would reach the vision tower
    torch.nn.init.orthogonal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model


# ------------------------------------------------------------------ the warm-up


def fit_policy(folder: Path, rows: Sequence[Row], seed: int, sizes):
    """The start model, saved in `folder` with its processor: it reads pictures but trusts its habits more.

    First it learns to answer `rows`, while probes on the image tokens teach the vision tower what is where; then it
    has a teacher who seldom looks. So it writes well-formed answers and gets some of them right.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    processor = new_processor(folder, [text for row in rows for text in (row.prompt, row.chosen)], sizes.vocab)
    model = new_policy(processor.tokenizer, sizes)
    heads = (len(COLOURS) + 1, len(HEIGHTS) + len(SHAPES) + 1)  # the probes are not saved
    probes = torch.nn.ModuleList(torch.nn.Linear(sizes.hidden, classes) for classes in heads)
    pupil = torch.nn.ModuleList([model, probes])
    exam, rows = rows[: sizes.exam], rows[sizes.exam :]
    right = encode(processor, rows, [row.right for row in rows])
    habits = encode(processor, rows, [row.right if rng.random() < sizes.looks else habit(rng, row) for row in rows])

    def loss(answered: list[tuple[list[int], list[int]]]) -> torch.Tensor:
        places = [rng.randrange(len(rows)) for _ in range(sizes.batch)]
        scenes = [rows[i].scene for i in places if rows[i].scene]
        inputs, answers = batch_of(model, [answered[i] for i in places], scenes)
        found = model.model(**inputs)
        logits = model.lm_head(found.last_hidden_state[:, :-1][answers])
        lost = torch.nn.functional.cross_entropy(logits, inputs["input_ids"][:, 1:][answers])
        return lost + PROBE_WEIGHT * probe_loss(probes, found.image_hidden_states, scenes)

    def reads(steps: int) -> bool:
        return min(map(accuracy(model, processor, exam).get, PICTURED)) >= sizes.known

    train(pupil, lambda: loss(right), sizes.steps, 0.02, reads, what="charts policy, pictures")
    train(pupil, lambda: loss(habits), sizes.habit_steps, sizes.habit_lr, what="charts policy, habits")
    model.save_pretrained(folder)
    return model.eval(), processor


def habit(rng: random.Random, row: Row) -> str:
    """What a teacher says who does not look: the first value half of the time, each further one half as often."""
    values = VALUES[row.kind]
    return rng.choices(values, [0.5**i for i in range(len(values))])[0]


def probe_loss(probes, seen: torch.Tensor, scenes: Sequence[Scene]) -> torch.Tensor:
    """Cross-entropy of linear heads on the image tokens, (N, SEEN, hidden), for what `cells` says of each."""
    wanted = torch.tensor([cells(scene) for scene in scenes])  # (N, 2, SEEN)
    return sum(cross_entropy(head(seen), wanted[:, i]) for i, head in enumerate(probes))


def cells(scene: Scene) -> tuple[tuple[int, ...], ...]:
    """The number of the colour in each cell, row by row, and of the height or shape; colour 0 is white.

    A cell above a bar is white and has the height of the bar.
    """
    colours, marks = ["", *COLOURS], ["", *HEIGHTS, *SHAPES]
    found = []
    for down, right in itertools.product(range(GRID), range(GRID)):
        i = right if scene.bars else 2 * (down // 2) + right // 2
        white = scene.bars and GRID - down > scene.marks[i]
        found.append((0 if white else colours.index(scene.colours[i]), marks.index(scene.marks[i])))
    return tuple(zip(*found, strict=True))


# ------------------------------------------------------------------ what it reads and says


def encode(processor, rows: Sequence[Row], values: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt, with its image tokens, and of the answer with this value and its end of turn."""
    prompts = [prompt_of(processor, row) for row in rows]
    answers = [row.answer(value) + END_OF_TURN for row, value in zip(rows, values, strict=True)]
    ids = [processor.tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (prompts, answers)]
    return list(zip(*ids, strict=True))


def messages_of(row: Row, picture=None) -> list[dict]:
    """The conversation in which the question is asked about a picture, if it has one."""
    parts = [{"type": "image", "image": picture}] if row.scene else []
    return [{"role": "user", "content": [*parts, {"type": "text", "text": row.prompt}]}]


def prompt_of(processor, row: Row) -> str:
    """The prompt with its <bos>, and with the tokens into which the processor turns a picture."""
    prompt = processor.apply_chat_template(messages_of(row), add_generation_prompt=True)
    return prompt.replace(processor.boi_token, processor.full_image_sequence)


def pixels(scenes: Sequence[Scene]) -> torch.Tensor:
    """The pictures as the image processor gives them: (N, 3, SIDE, SIDE), from -1 to 1."""
    drawn = torch.from_numpy(np.stack([draw.draw(scene) for scene in scenes]))
    return drawn.permute(0, 3, 1, 2).float() / 127.5 - 1


def batch_of(
    model, examples: Sequence[tuple[list[int], list[int]]], scenes: Sequence[Scene]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The model's inputs for prompts with answers, and where the next token is of an answer: (B, T - 1), bool.

    `scenes`: the pictures, in the order of their prompts.
    """
    ids = padded([prompt + answer for prompt, answer in examples], 0)  # (B, T)
    mask = padded([[1] * (len(prompt) + len(answer)) for prompt, answer in examples], 0)
    answers = padded([[0] * (len(prompt) - 1) + [1] * len(answer) for prompt, answer in examples], 0)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": (ids == model.config.image_token_id).long()}
    return inputs | ({"pixel_values": pixels(scenes)} if scenes else {}), answers > 0


@torch.no_grad()
def log_probs(model, examples: Sequence[tuple[list[int], list[int]]], scenes: Sequence[Scene]) -> torch.Tensor:
    """The log-probability of each answer, its end of turn included: (B,)."""
    inputs, answers = batch_of(model, examples, scenes)
    states = model.model(**inputs).last_hidden_state[:, :-1]  # (B, T - 1, hidden)
    found = model.lm_head(states).log_softmax(-1).gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
    return (found * answers).sum(1)


def accuracy(model, processor, rows: Sequence[Row], scenes: Sequence[Scene] = ()) -> dict[str, float]:
    """Shares of `rows` whose right answer is more probable than the wrong one: of all, and of each kind.

    `scenes`: pictures to show instead of theirs.
    """
    scenes = scenes or [row.scene for row in rows if row.scene]
    right = log_probs(model, encode(processor, rows, [row.right for row in rows]), scenes)
    better = (right > log_probs(model, encode(processor, rows, [row.wrong for row in rows]), scenes)).double()
    found = {kind: better[[row.kind == kind for row in rows]] for kind in VALUES}
    return {name: float(values.mean()) for name, values in ({"all": better} | found).items()}


def check_policy(model, processor, rows: Sequence[Row]) -> dict[str, float]:
    """The accuracy, that of all rows with shuffled pictures, and the share of greedy answers that are well formed."""
    scenes = [row.scene for row in rows if row.scene]
    shuffled = accuracy(model, processor, rows, random.Random(0).sample(scenes, len(scenes)))["all"]
    formed = [greedy(model, processor, row) in map(row.answer, VALUES[row.kind]) for row in rows]
    return accuracy(model, processor, rows) | {"shuffled": shuffled, "well formed": sum(formed) / len(rows)}


def greedy(model, processor, row: Row) -> str:
    """The answer of most probable tokens; the processor reads prompt and picture."""
    from PIL import Image

    messages = messages_of(row, Image.fromarray(draw.draw(row.scene)) if row.scene else None)
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(messages, **options)
    ids = model.generate(**inputs, max_new_tokens=16, do_sample=False, top_k=None, top_p=None)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

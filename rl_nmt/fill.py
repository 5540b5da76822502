"""Fill templates with a masked-diffusion GPT: print each template, and below it what the model writes there.

    python -m rl_nmt.fill runs/diffusion/final "The [MASK:12] sees a dog." --count 3

In a template, [MASK] is one token to write and [MASK:12] twelve; all else stays as it is. What is written for a
template depends on the model, the template and the flags, not on the other templates.
"""

import argparse
import math
import sys
from pathlib import Path

from rl_nmt.data import tables
from rl_nmt.errors import ConfigError, run
from rl_nmt.text.templates import encode_template, filled_text, shown


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rl_nmt.fill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="folder or hub name of a masked-diffusion GPT, e.g. a run's final/")
    add("templates", nargs="*", help='templates such as "The [MASK:12] sees a dog."')
    add("--file", type=Path, metavar="IN.txt", help="further templates: UTF-8, one a line")
    add("--count", type=int, default=3, help="fills of each template (default 3)")
    add("--steps", type=int, default=0, help="steps in which the masks are filled; 0: one at a time (default 0)")
    add("--temperature", type=float, default=0.8, help="of sampling, above 0 (default 0.8)")
    add("--seed", type=int, default=0, help="seeds the fills of each template (default 0)")
    return parser.parse_args(argv)


def _check(args: argparse.Namespace) -> None:
    for name, low, high in (("count", 1, 1000), ("steps", 0, 2**31), ("seed", 0, 2**63 - 1)):
        if not low <= (value := getattr(args, name)) <= high:
            raise ConfigError(f"{name}: {value} is out of range; give a whole number from {low} to {high}")
    if not (math.isfinite(args.temperature) and args.temperature > 0):
        raise ConfigError(f"temperature: {args.temperature} is out of range; give a number above 0")


def _templates(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return (place, template) of each template: those of the command line, then those of the file."""
    found = [(f"template {number}", text) for number, text in enumerate(args.templates, 1)]
    if args.file:
        rows = tables.read(args.file, "file", kind="text")
        found += [(row.where, row.cells["text"]) for row in rows if row.cells["text"].strip()]
    if not found:
        raise ConfigError('templates: none given; add one, e.g. "The [MASK:12] sees a dog.", or a --file with some')
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status. `argv` is the command line without the program's name."""
    args = _arguments(argv)
    _check(args)
    found = _templates(args)

    import torch

    from rl_nmt.models.masked_diffusion import banned_ids, load_generator
    from rl_nmt.models.unmasking import fill

    model, tokenizer = load_generator(args.model, "model")
    context, banned = model.config.max_position_embeddings, banned_ids(tokenizer)
    rows = [encode_template(text, tokenizer, where, context, args.steps, "steps") for where, text in found]
    for ids in rows:
        drawn = fill(
            model,
            torch.tensor([ids] * args.count),
            tokenizer.mask_token_id,
            banned,
            steps=args.steps,
            temperature=args.temperature,
            generator=torch.Generator().manual_seed(args.seed),
        )
        fills = [" ".join(filled_text(filled, tokenizer).splitlines()) for filled in drawn.ids.tolist()]
        lines = "\n  ".join([shown(ids, tokenizer), *fills])
        sys.stdout.buffer.write(f"{lines}\n".encode())
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    run(main)

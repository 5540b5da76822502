"""Translate with a trained model: a text, a file or standard input.

python -m rl_nmt.translate --model runs/pocket/final --text "The school is closed."
python -m rl_nmt.translate --model runs/pocket/final --file english.txt --out translated.txt

`--model` is a full model or a LoRA adapter folder; the prompt is read from its `prompt.txt`, which the
trainer saves, so that it is the one the model was trained with. One line in, one
line out: order is kept and empty lines stay empty.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from rl_nmt import files
from rl_nmt.errors import CannotWrite, ConfigError, run
from rl_nmt.text.prompts import chat_prompt, fill


def translate(
    model,
    tokenizer,
    lines: list[str],
    template: str,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 256,
    what: str = "",
) -> list[str]:
    """Translate each line greedily; return one line per input line, "" for a blank one.

    `template` holds the slot `{source}`. `what` names the work on a progress line; "" shows none.
    """
    from rl_nmt.models.generate import generate

    wanted = [i for i, line in enumerate(lines) if line.strip()]
    prompts = [chat_prompt(tokenizer, fill(template, lines[i])) for i in wanted]
    answers = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, what=what)
    output = [""] * len(lines)
    for i, answer in zip(wanted, answers, strict=True):
        output[i] = " ".join(answer[0].split())
    return output


def load(folder: Path, device: str = "auto"):
    """Return (model, tokenizer) of a full model or LoRA adapter folder, in evaluation mode on `device`.

    The weights are bfloat16 on a GPU that computes it natively, else float32 (Gemma 3 overflows in
    float16); the choice is printed to standard error. Raises ConfigError for a folder that does not load
    or an unknown device, MissingService if an adapter's base model is not available.
    """
    from rl_nmt.hub import require_model

    adapter = folder / "adapter_config.json"
    base = str(folder)
    if adapter.exists():
        base = _base_of(adapter)
        require_model("base_model_name_or_path (in adapter_config.json)", base)

    import torch

    from rl_nmt.models.loading import choose_device
    from rl_nmt.models.policy import Precision, load_policy, load_tokenizer

    place = choose_device(device, "device")
    native = place.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype, why = (torch.bfloat16, "native bf16") if native else (torch.float32, "no native bf16")
    print(f"{place}, {str(dtype).removeprefix('torch.')} ({why})", file=sys.stderr)
    tokenizer = load_tokenizer(base)
    model = load_policy(base, tokenizer, Precision(place, dtype, autocast=False, reason=""), "sdpa")
    if adapter.exists():
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, str(folder))
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"model={folder}: the adapter does not fit {base} ({error})") from error
    return model.to(place).eval(), tokenizer


def _base_of(config: Path) -> str:
    """Return the adapter's base model: a hub name, or a folder, relative to here or to the adapter."""
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"model: {config} has no base_model_name_or_path ({error}); give a whole adapter") from error
    if not base:
        raise ConfigError(f"model: {config} has an empty base_model_name_or_path; write the base model there")
    beside = config.parent / base
    return str(beside) if not Path(base).exists() and beside.is_dir() else str(base)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rl_nmt.translate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="full model or LoRA adapter folder")
    add("--text", help="one English text; otherwise --file, otherwise standard input")
    add("--file", type=Path, metavar="IN.txt", help="UTF-8, one sentence a line")
    add("--out", type=Path, metavar="OUT.txt", help="file for the translations (default: standard output)")
    add("--template", help="prompt with the slot {source} (default: the model's prompt.txt)")
    add("--batch_size", type=int, default=16, help="sentences generated at once (default 16)")
    add("--max_new_tokens", type=int, default=256, help="longest translation, in tokens (default 256)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto: CUDA if available)")
    return parser.parse_args(argv)


def _check(args: argparse.Namespace) -> None:
    for name in ("batch_size", "max_new_tokens"):
        if getattr(args, name) < 1:
            raise ConfigError(f"{name}={getattr(args, name)}: give a number of at least 1")
    if args.text is not None and args.file is not None:
        raise ConfigError("text and file: give one of them, not both")
    if not args.model.is_dir():
        raise ConfigError(f"model={args.model}: folder not found; give a run's final/ folder")
    if not any((args.model / name).exists() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(f"model={args.model}: has no config.json or adapter_config.json; give a final/ folder")
    if args.out is not None:
        folder = args.out.parent
        if args.out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise CannotWrite(f"out={args.out}: cannot be written; give a file in a folder that exists")


def _template(args: argparse.Namespace) -> str:
    path, template = args.model / "prompt.txt", args.template
    if template is None and not path.exists():
        raise ConfigError(
            f'template: {path} does not exist; give the prompt of the training as --template "… {{source}} …"'
        )
    template = _read(path, "model") if template is None else template
    fill(template, "")  # refuses a template without its slot before anything heavy is loaded
    return template


def _read(path: Path, argument: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{argument}={path}: not UTF-8 (byte {error.start}); convert the file") from error
    except OSError as error:
        raise ConfigError(f"{argument}={path}: cannot be read ({error.strerror}); check the name") from error


def _lines(args: argparse.Namespace) -> list[str]:
    """Return the input's lines. Only line feeds end a line: U+2028 and its like stay inside a sentence."""
    if args.text is not None:
        return [args.text]
    if args.file is not None:
        text = _read(args.file, "file")
    else:
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"standard input: not UTF-8 (byte {error.start}); convert it") from error
        text = text.replace("\r\n", "\n")
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status. `argv` is the command line without the program's name."""
    args = _arguments(argv)
    _check(args)
    template = _template(args)
    lines = _lines(args)
    model, tokenizer = load(args.model, args.device)
    sizes = {"batch_size": args.batch_size, "max_new_tokens": args.max_new_tokens}
    with contextlib.redirect_stdout(sys.stderr):  # where progress is shown
        output = translate(model, tokenizer, lines, template, **sizes, what="translation")
    text = "".join(line + "\n" for line in output)
    if args.out is None:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.flush()
    else:
        files.write(args.out, text)
    return 0


if __name__ == "__main__":
    run(main)

"""Read settings from a file whose name comes first on a command line: YAML, or Python that assigns them. No torch."""

import runpy
from inspect import ismodule
from pathlib import Path

from rl_nmt.config import excerpt
from rl_nmt.errors import ConfigError, describe


def flags(argv: list[str]) -> list[str]:
    """Return the words of a command line, whose first (or --config) may name a file of settings, as flags.

    A .yaml file becomes --config; a Python file is run, and what it assigns to names without a leading underscore, but
    imported modules, functions and classes, must be settings. Raises ConfigError.
    """
    argv = argv[1:] if argv[:1] == ["--config"] and argv[1:] and argv[1].endswith(".py") else argv
    if not argv or argv[0].startswith("-"):
        return argv
    path, rest = Path(argv[0]).expanduser(), argv[1:]
    if path.suffix != ".py":
        return ["--config", argv[0], *rest]
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a .py or .yaml file with settings")
    try:
        found = runpy.run_path(str(path))
    except Exception as error:  # whatever the file raises
        raise ConfigError(f"{path} fails ({describe(error)}); correct it") from error
    words: list[str] = []
    for name, value in found.items():
        if name.startswith("_") or ismodule(value) or callable(value) or type(value).__module__ == "__future__":
            continue
        value = value.tolist() if hasattr(value, "tolist") else value  # of numpy
        values = value if isinstance(value, (tuple, list)) else [value]
        if not all(isinstance(each, (str, int, float, Path)) for each in values):
            wrong = f"{path}: {name}: {excerpt(str(value))}"
            raise ConfigError(f"{wrong} must be a number, text or list; else start its name with _")
        words += [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *map(str, values)]
    return [*words, *rest]

"""Read a dataclass, flat or in sections, from a YAML file and then flags, strictly. No torch.

One converter serves file and command line, so a value means the same in both: `guards: off` is the
word off, `lr: 1e-5` a number, and a wrong type or an unknown name gives the same one-line error. tyro
makes `--help` from the dataclass and the sentence under (or after) each of its fields.

A field whose type is a dataclass is a section, to any depth: a nested mapping in YAML, a dotted name
everywhere else (`--rl.lr 1e-6`).
"""

import ast
import contextlib
import dataclasses
import difflib
import inspect
import math
import os
import pkgutil
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from rl_nmt import files
from rl_nmt.errors import ConfigError, warn

Cfg = TypeVar("Cfg")
_TAG = "tag:yaml.org,2002:"
_WANTED = {bool: "True or False", int: "a whole number", float: "a finite number"}
_YAML_SCALARS = frozenset(_TAG + kind for kind in ("str", "int", "float", "bool", "timestamp"))


def parse(
    cls: type[Cfg], argv: list[str], actions: dict[str, str], prog: str, description: str
) -> tuple[Cfg, dict[str, bool], Path | None]:
    """Build a `cls` from its defaults, then `--config FILE`, then the flags in `argv`.

    `cls` is a dataclass whose fields are str, int, float, bool, Literal of strings, tuple[str, ...],
    tuple[int, ...] or sections, which are such dataclasses again; all have defaults. Fields take values
    (`--use_wandb False`, `--data_files a b`, `--rl.lr=1e-5`); `-` and `_` are equal; if a flag is
    repeated, the last one counts. `actions` maps bare switches to their help. Fields with metadata {"secret": True} are
    refused in file and flags; with a further {"in_file": WARNING} the file may hold them, and WARNING is
    printed: a flag would show in the process list and in the command that continues a run. A section may have a static
    method `why_not(name)`, which returns why it lacks a name, or ""; this is the error message.

    Returns the instance, which actions were given, and the file that was read. `--help` prints every
    field with its sentence and default and exits with status 0. Raises ConfigError (exit status 2).
    """
    if any(token in ("-h", "--help") for token in argv):
        _print_help(cls, actions, prog, description)
        sys.exit(0)
    settings = _settings(cls)
    flags, given, config_path = _split_argv(settings, argv, actions)
    values = _read_mapping(settings, actions, config_path, _compose(config_path)) if config_path else {}
    values |= {name: _convert(tokens, settings[name].kind, f"--{name}") for name, tokens in flags.items()}
    return _replaced(cls(), values, cls), {name: name in given for name in actions}, config_path


def to_public_dict(cfg: Any) -> dict[str, Any]:
    """Return field name → value without secret fields, tuples as lists, sections as dicts: ready for YAML, JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return to_public_dict(value)
        return list(value) if isinstance(value, tuple) else value

    public = (field.name for field in dataclasses.fields(cfg) if not field.metadata.get("secret"))
    return {name: plain(getattr(cfg, name)) for name in public}


def save_resolved(cfg: Any, path: Path) -> None:
    """Write the settings without secrets as YAML that `--config` reads back to an equal instance.

    The file appears whole or not at all. Raises CannotWrite.
    """
    import yaml

    text = yaml.safe_dump(to_public_dict(cfg), sort_keys=False, allow_unicode=True)
    if {"\x85", "\u2028", "\u2029"} & set(text):  # PyYAML writes these raw and folds them when it reads
        text = yaml.safe_dump(to_public_dict(cfg), sort_keys=False)
    files.write(path, f"# Every setting; keys are never written.\n{text}")


def own_docs(cls: type) -> dict[str, str]:
    """Return field name → the string under the field, else the comment after it, else ''."""
    docs = {field.name: "" for field in dataclasses.fields(cls)}
    for owner in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        source = textwrap.dedent(inspect.getsource(owner))
        body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = " ".join(str(following.value.value).split())
            else:
                line = source.splitlines()[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
                text = line.partition("#")[2].strip()
            docs[node.target.id] = text or docs.get(node.target.id, "")
    return docs


def _print_help(cls: type, actions: dict[str, str], prog: str, description: str) -> None:
    """Print every public field with its sentence and default, `--config` and the actions."""
    import tyro

    config = Annotated[str, tyro.conf.arg(help="YAML file of fields, read before the flags.")]
    fields: list[tuple[str, Any, Any]] = [("config", config, dataclasses.field(default=""))]
    for name, text in actions.items():
        kind = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=text)]
        fields.append((name, kind, dataclasses.field(default=False)))
    shown = dataclasses.make_dataclass(cls.__name__, [*fields, *_shown_fields(cls())])
    try:
        with contextlib.suppress(SystemExit):
            tyro.cli(shown, prog=prog, description=description, args=["--help"], use_underscores=True)
        sys.stdout.flush()
    except BrokenPipeError:  # `--help | head` closed the pipe: write nothing more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _shown_fields(cfg: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield `cfg`'s fields for tyro: without secrets, with their sentences, its values as defaults."""
    import tyro

    docs, kinds = own_docs(type(cfg)), typing.get_type_hints(type(cfg))
    for field in dataclasses.fields(cfg):
        if not field.init or field.metadata.get("secret"):
            continue
        kind, value, sentence = kinds[field.name], getattr(cfg, field.name), tyro.conf.arg(help=docs[field.name])
        if dataclasses.is_dataclass(value):
            inner = dataclasses.make_dataclass(type(value).__name__, _shown_fields(value))
            yield field.name, Annotated[inner, sentence], dataclasses.field(default_factory=inner)
        else:
            kind = Annotated[kind, tyro.conf.FlagConversionOff, sentence]
            yield field.name, kind, dataclasses.field(default=value)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """One field, of the settings or of a section: `owner` is the dataclass it belongs to."""

    owner: type
    field: dataclasses.Field
    kind: Any

    @property
    def is_section(self) -> bool:
        return dataclasses.is_dataclass(self.kind)

    @property
    def is_secret(self) -> bool:
        return bool(self.field.metadata.get("secret"))


def _settings(cls: type, prefix: str = "") -> dict[str, _Setting]:
    """Return dotted name → every field that may be set, also sections and secrets, in reading order."""
    kinds = typing.get_type_hints(cls)
    found: dict[str, _Setting] = {}
    for field in dataclasses.fields(cls):
        if field.init:
            setting = found[prefix + field.name] = _Setting(cls, field, kinds[field.name])
            if setting.is_section:
                found |= _settings(setting.kind, f"{prefix}{field.name}.")
    return found


def _replaced(cfg: Any, values: dict[str, Any], make: Callable[..., Any] | None = None) -> Any:
    """Return a copy of the dataclass with these values, by dotted name.

    `make`: its class, called with these values alone, so that it fills in defaults that depend on them.
    """
    changes: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    below: dict[str, dict[str, Any]] = {}
    for name in values.keys() - changes.keys():
        section, _, rest = name.partition(".")
        below.setdefault(section, {})[rest] = values[name]
    changes |= {section: _replaced(getattr(cfg, section), inner) for section, inner in below.items()}
    return make(**changes) if make else dataclasses.replace(cfg, **changes)


def _check_name(
    settings: dict[str, _Setting], name: str, shown: str, extra: tuple[str, ...] = (), in_file: bool = False
) -> None:
    """Raise ConfigError unless `name` is a field that may be set from outside; `shown` names the place."""
    setting = settings.get(name)
    if setting is None:
        for known, each in settings.items():
            if known.removesuffix(each.field.name) + each.field.metadata.get("was", "?") == name:
                raise ConfigError(f"{shown}: this setting is now called {known}")
        section, _, own = name.rpartition(".")
        explains = getattr(settings[section].kind, "why_not", None) if section in settings else None
        if explains and own not in settings and (why := explains(own)):
            raise ConfigError(f"{shown}: {why}")
        raise ConfigError(f"unknown {shown}: {_way_out(settings, name, extra)}")
    if not setting.is_secret:
        return
    field, owner = setting.field, setting.owner
    if "in_file" not in field.metadata:
        variable = field.metadata.get("env", field.name.upper())
        raise ConfigError(
            f"{shown} is a secret and is not accepted here: set the environment variable {variable} "
            f"instead, or type it into the field {field.name} of {owner.__name__} for local use"
        )
    if not in_file:
        raise ConfigError(f"{shown} is a secret and would be seen in the process list: {field.metadata['in_file']}")
    warn(f"{shown} is a secret: {field.metadata['in_file']}")


def _way_out(settings: dict[str, _Setting], name: str, extra: tuple[str, ...]) -> str:
    """Suggest the nearest name: the same in another section, a similar one in its own section, or one anywhere."""
    public = [known for known, setting in settings.items() if not setting.is_secret]
    section, _, own = name.rpartition(".")
    same = [known for known in public if known.rpartition(".")[2] == own]
    beside = {known.rpartition(".")[2]: known for known in public if known.rpartition(".")[0] == section}
    beside |= {known: known for known in extra if not section}
    near = difflib.get_close_matches(own, beside, n=1, cutoff=0.5)
    found = same or [beside[word] for word in near] or difflib.get_close_matches(name, public, n=1, cutoff=0.6)
    return f"did you mean {' or '.join(found[:3])}?" if found else "--help lists every name"


def _no_value(settings: dict[str, _Setting], name: str, shown: str, way: str) -> ConfigError:
    """Return the error for a section that was given a value; `way`: how to set a field of it."""
    first = next(known for known in settings if known.startswith(f"{name}."))
    return ConfigError(f"{shown} is a section and has no value of its own: {way.format(first)}")


def _split_argv(
    settings: dict[str, _Setting], argv: list[str], actions: dict[str, str]
) -> tuple[dict[str, list[str]], set[str], Path | None]:
    """Sort tokens into field → its value tokens, the actions given, and the --config file."""
    flags: dict[str, list[str]] = {}
    given: set[str] = set()
    configs: list[str] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        flag, equals, inline = token.partition("=")
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--") or not name:
            raise ConfigError(f"unexpected argument {excerpt(token)}: settings are written --field value")
        if name in actions:
            if equals or (rest and not rest[0].startswith("--")):
                raise ConfigError(f"--{name} is a bare switch and takes no value: write --{name} alone")
            given.add(name)
            continue
        if name != "config":
            _check_name(settings, name, f"flag {flag}", ("config", *actions))
            if settings[name].is_section:
                raise _no_value(settings, name, f"flag {flag}", "set one of its fields, as --{} VALUE")
        many = name != "config" and typing.get_origin(settings[name].kind) is tuple
        values = [inline] if equals else []
        while rest and not rest[0].startswith("--") and (many or not values):
            values.append(rest.pop(0))
        if not values and not many:
            raise ConfigError(f"--{name} needs a value: write --{name} VALUE (or --{name}=VALUE)")
        if name == "config":
            configs += values
        else:
            flags[name] = values
    if len(configs) > 1:
        raise ConfigError(f"--config was given {len(configs)} times ({', '.join(configs)}): give one file")
    return flags, given, Path(configs[0]) if configs else None


def _convert(values: list[str], kind: Any, shown: str) -> Any:
    """Turn the words given for one field into its type, or raise ConfigError naming `shown`."""
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_convert([value], item, shown) for value in values)
    text, choices = values[0], typing.get_args(kind)
    if kind is str or text in choices:
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            number = kind(text)
            if math.isfinite(number):
                return number
    if typing.get_origin(kind) is Literal:
        near = difflib.get_close_matches(text, choices, n=1)
        wanted = f"one of {', '.join(choices)}" + (f" (did you mean {near[0]}?)" if near else "")
    elif kind in _WANTED:
        wanted = _WANTED[kind]
    else:
        raise TypeError(f"fields of type {kind} are not supported: {shown}")
    raise ConfigError(f"{shown} is {excerpt(text)}, must be {wanted}")


def excerpt(text: str) -> str:
    """Return a text for a message: quoted, at most 60 characters of it."""
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _read_mapping(
    settings: dict[str, _Setting], actions: dict[str, str], path: Path, node: Any, prefix: str = ""
) -> dict[str, Any]:
    """Dotted name → value from a YAML mapping and those inside. Raises ConfigError naming the file and the line."""
    values: dict[str, Any] = {}
    seen = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar":
            raise ConfigError(f"--config {path}, line {line}: a key must be a plain name")
        name = prefix + key.value.replace("-", "_")
        shown = f"key {prefix + key.value!r} in {path}, line {line}"
        if name in actions or name == "config":
            raise ConfigError(f"{shown}, is not a field: pass --{name} on the command line")
        if "." in key.value and name in settings:
            raise ConfigError(f"{shown}, has a dot: write {name.partition('.')[0]}: and the rest below it, indented")
        _check_name(settings, name, shown, in_file=True)
        if name in seen:
            raise ConfigError(f"{shown}, is there twice: keep one")
        seen.add(name)
        kind = settings[name].kind
        if value.tag == _TAG + "null" and settings[name].field.default is None:
            continue  # a default that depends on other settings
        if not settings[name].is_section:
            values[name] = _convert(_words(value, kind, shown), kind, shown)
        elif value.tag == _TAG + "map":
            values |= _read_mapping(settings, actions, path, value, f"{name}.")
        else:
            raise _no_value(settings, name, f"{shown},", "write its fields below it, indented, as {}")
    return values


def _compose(path: Path) -> Any:
    """Return the mapping node of a YAML file, scalars still as the text in the file."""
    import yaml

    try:
        root = yaml.compose(path.read_bytes().decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: no such file: give the path of a YAML file") from error
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}: give a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        said = [getattr(error, part, None) for part in ("context", "problem", "reason")]
        problem = ", ".join(filter(None, said)) or type(error).__name__
        raise ConfigError(f"--config {path}{where} is not valid YAML: {problem}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"--config {path} is not a mapping: write one 'field: value' per line")
    return root


def _words(node: Any, kind: Any, shown: str) -> list[str]:
    """Return a value node as the words that would follow its flag on the command line."""
    import yaml

    many = typing.get_origin(kind) is tuple
    items = node.value if many and isinstance(node, yaml.SequenceNode) else [node]
    if all(isinstance(item, yaml.ScalarNode) and item.tag in _YAML_SCALARS for item in items):
        return [item.value for item in items]
    if node.tag == _TAG + "null":
        raise ConfigError(f"{shown}, has no value: give one ('' for an empty text), or remove the line")
    listed = "whole numbers" if many and typing.get_args(kind)[0] is int else "texts"
    raise ConfigError(f"{shown}, must be {f'a list of {listed}' if many else 'a single value'}")


def load_callable(name: str, argument: str) -> Any:
    """Import the function that a setting names as "module:name". Raises ConfigError with the setting's name."""
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{argument}: {name} cannot be imported ({error}): write module:function") from error
    if not callable(found):
        raise ConfigError(f"{argument}: {name} is a {type(found).__name__}, not a function")
    return found

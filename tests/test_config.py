"""The command line: precedence, strictness, one line per mistake, secrets that never leave."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from field_docs import field_docs
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt import config
from rl_nmt.errors import CannotWrite, ConfigError

ACTIONS = {"eval_only": "Only evaluate.", "skip_launch_gate": "Start without the gate."}
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Cfg:
    """A configuration with every kind of field."""

    model_id: str = "google/gemma-3-1b-it"
    """Name or folder of the policy."""
    lr: float = 1e-5  # step size of the optimizer
    group_size: int = 8
    """Samples per prompt,
    at least 2."""
    use_wandb: bool = True
    """Log to W&B."""
    guards: Literal["on", "off"] = "on"
    """Gates before scores."""
    data_files: tuple[str, ...] = ()
    """Files or globs."""
    wandb_api_key: str = field(default="", repr=False, metadata={"secret": True})
    """Key; prefer the environment."""
    hub_token: str = field(default="", repr=False, metadata={"secret": True, "env": "HF_TOKEN"})
    """Token."""


@dataclass
class Wider(Cfg):
    """A configuration with one field more, as the smoke test's."""

    file: str = ""
    """Sentences to score."""


def parse(*argv, cls=Cfg):
    return config.parse(cls, list(argv), ACTIONS, "train.py", "Train.")


def refusal(*argv) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults():
    cfg, actions, path = parse()
    assert cfg == Cfg() and actions == {"eval_only": False, "skip_launch_gate": False} and path is None


def test_fields_then_file_then_flags(tmp_path):
    file = write(tmp_path / "x.yaml", "lr: 2e-4\ngroup_size: 4\n")
    cfg, _, path = parse("--group_size", "2", "--config", file)
    assert (cfg.model_id, cfg.lr, cfg.group_size) == ("google/gemma-3-1b-it", 2e-4, 2)
    assert path == Path(file)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--lr", "1"], "lr", 1.0),
        (["--lr", "1e-5"], "lr", 1e-5),
        (["--lr=-0.5"], "lr", -0.5),
        (["--lr", "-3"], "lr", -3.0),
        (["--group-size", "2_000"], "group_size", 2000),
        (["--group_size", "3", "--group-size", "4"], "group_size", 4),
        (["--use_wandb", "False"], "use_wandb", False),
        (["--use-wandb=true"], "use_wandb", True),
        (["--guards", "off"], "guards", "off"),
        (["--model_id", ""], "model_id", ""),
        (["--model_id=a=b"], "model_id", "a=b"),
        (["--model_id", "null"], "model_id", "null"),
        (["--data_files", "a", "b*.gz"], "data_files", ("a", "b*.gz")),
        (["--data_files=a", "b"], "data_files", ("a", "b")),
        (["--data_files"], "data_files", ()),
    ],
)
def test_flags(argv, name, value):
    got = getattr(parse(*argv)[0], name)
    assert got == value and type(got) is type(value)


def test_tuples_end_at_the_next_flag():
    cfg, actions, _ = parse("--data_files", "a", "b", "--eval-only", "--lr", "1")
    assert cfg.data_files == ("a", "b") and cfg.lr == 1.0 and actions["eval_only"]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("lr: 1e-5", "lr", 1e-5),  # a string to PyYAML
        ("lr: 3", "lr", 3.0),
        ("guards: off", "guards", "off"),  # a boolean to YAML 1.1
        ("use-wandb: false", "use_wandb", False),
        ("model_id: no", "model_id", "no"),
        ("model_id: 2024-01-02", "model_id", "2024-01-02"),
        ("model_id: ''", "model_id", ""),
        ("model_id: 'null'", "model_id", "null"),
        ("data_files: [a, b*.gz]", "data_files", ("a", "b*.gz")),
        ("data_files: a", "data_files", ("a",)),
        ("data_files: []", "data_files", ()),
        ("\ufeffgroup_size: 010", "group_size", 10),
    ],
)
def test_file_values(tmp_path, text, name, value):
    got = getattr(parse("--config", write(tmp_path / "x.yaml", text))[0], name)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--grup_size", "3"], ["--grup_size", "group_size?"]),
        (["--modelid=x"], ["--modelid", "model_id?"]),
        (["--eval_onyl"], ["eval_only?"]),
        (["--confg", "x"], ["config?"]),
        (["--zzzz", "3"], ["--zzzz", "--help"]),
        (["--group_size", "8.5"], ["group_size", "'8.5'", "whole number"]),
        (["--group_size", "True"], ["group_size", "'True'", "whole number"]),
        (["--group_size", ""], ["group_size", "whole number"]),
        (["--group_size", "9" * 6000], ["group_size", "whole number"]),
        (["--lr", "fast"], ["lr", "'fast'", "number"]),
        (["--lr", "nan"], ["lr", "finite"]),
        (["--lr", "-inf"], ["lr", "finite"]),
        (["--use_wandb", "1"], ["use_wandb", "True or False"]),
        (["--use_wandb"], ["use_wandb", "needs a value"]),
        (["--use_wandb", "--lr", "1"], ["use_wandb", "needs a value"]),
        (["--guards", "of"], ["guards", "on, off", "off?"]),
        (["--eval_only", "True"], ["eval_only", "no value"]),
        (["--eval_only=True"], ["eval_only", "no value"]),
        (["pocket"], ["'pocket'", "--field value"]),
        (["--lr", "1", "2"], ["'2'"]),
        (["-x"], ["'-x'"]),
        (["--"], ["'--'"]),
        (["--config"], ["--config needs a value"]),
        (["--config", "a", "--config", "b"], ["2 times"]),
        (["--config", "no/such.yaml"], ["no/such.yaml", "no such file"]),
    ],
)
def test_bad_flags(argv, parts):
    message = refusal(*argv)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("grup_size: 3", ["'grup_size'", "line 1", "group_size?"]),
        ("lr: 1\n\ngroup_size: eight", ["'group_size'", "line 3", "'eight'", "whole number"]),
        ("group_size: true", ["'true'", "whole number"]),
        ("group_size: 8.0", ["whole number"]),
        ("use_wandb: 1", ["True or False"]),
        ("lr: true", ["finite number"]),
        ("lr: .nan", ["finite number"]),
        ("lr:", ["no value"]),
        ("model_id: null", ["no value", "''"]),
        ("lr: [1]", ["single value"]),
        ("model_id: {a: b}", ["single value"]),
        ("data_files: {a: b}", ["list of texts"]),
        ("data_files: [[a]]", ["list of texts"]),
        ("data_files: [~]", ["list of texts"]),
        ("guards: maybe", ["on, off"]),
        ("lr: 1\nlr: 2", ["twice"]),
        ("use_wandb: True\nuse-wandb: True", ["twice"]),
        ("eval_only: true", ["--eval_only", "command line"]),
        ("config: x.yaml", ["--config", "command line"]),
        ("- lr", ["not a mapping"]),
        ("just words", ["not a mapping"]),
        ("", ["not a mapping"]),
        ("# only a comment", ["not a mapping"]),
        ("lr: [", ["not valid YAML"]),
        ("lr: 1\n---\nlr: 2", ["not valid YAML"]),
        ("\tlr: 1", ["not valid YAML", "line 1"]),
        ("lr: *x", ["not valid YAML"]),
        ("lr: 1\x00", ["not valid YAML"]),
        ("? [a]\n: b", ["plain name"]),
        ("model_id: !!python/name:os.system x", ["single value"]),
        ("a: " + "[" * 5000, ["not valid YAML"]),
    ],
)
def test_bad_files(tmp_path, text, parts):
    message = refusal("--config", write(tmp_path / "x.yaml", text))
    assert "x.yaml" in message
    assert all(part in message for part in parts), message


def test_files_that_are_not_text(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("model_id: café".encode("latin-1"))
    assert "not UTF-8" in refusal("--config", str(tmp_path / "latin.yaml"))
    assert "cannot be read" in refusal("--config", str(tmp_path))


def test_secrets_are_refused_and_never_shown(tmp_path):
    for argv in (["--wandb_api_key", "canary"], ["--wandb-api-key=canary"]):
        message = refusal(*argv)
        assert "WANDB_API_KEY" in message and "canary" not in message
    assert "HF_TOKEN" in refusal("--hub_token", "canary")
    message = refusal("--config", write(tmp_path / "x.yaml", "wandb_api_key: canary"))
    assert "WANDB_API_KEY" in message and "canary" not in message
    for argv in (["--wandb_api_kye=canary"], ["--hubtoken=canary"]):
        message = refusal(*argv)
        assert "canary" not in message and "wandb_api_key" not in message and "hub_token" not in message


def test_secrets_are_never_written(tmp_path, capsys):
    cfg = Cfg(wandb_api_key="canary", data_files=("a",))
    (tmp_path / "run").mkdir()
    config.save_resolved(cfg, tmp_path / "run" / "resolved_config.yaml")
    assert "canary" not in repr(cfg)
    assert "canary" not in str(config.to_public_dict(cfg))
    assert "canary" not in (tmp_path / "run" / "resolved_config.yaml").read_text()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["resolved_config.yaml"]
    assert config.to_public_dict(cfg)["data_files"] == ["a"]


odd = ["null", "off", "1e-5", "", " a ", "a: b", "#x", "\ud800", "--lr"]
texts = st.text(max_size=12) | st.sampled_from(odd)


@given(texts, st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.booleans(), st.lists(texts))
def test_what_is_saved_is_read_back(tmp_path_factory, text, number, whole, truth, files):
    path = tmp_path_factory.mktemp("cfg") / "resolved_config.yaml"
    cfg = Cfg(text, number, whole, truth, "off", tuple(files))
    config.save_resolved(cfg, path)
    assert parse("--config", str(path))[0] == cfg


def test_saving_replaces_and_plain_yaml_reads_it(tmp_path):
    path = tmp_path / "c.yaml"
    config.save_resolved(Cfg(group_size=2), path)
    config.save_resolved(Cfg(group_size=3, lr=0.5), path)
    assert yaml.safe_load(path.read_text())["group_size"] == 3


def test_saving_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match="file"):
        config.save_resolved(Cfg(), tmp_path / "file" / "c.yaml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWrite, match="folder"):
        config.save_resolved(Cfg(), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_help_lists_everything(capsys):
    with pytest.raises(SystemExit) as left:
        parse("--lr", "nonsense", "--help", cls=Wider)
    assert left.value.code == 0
    shown = " ".join(word for word in capsys.readouterr().out.split() if word != "│")
    docs = field_docs(Wider)
    assert docs["lr"] == "step size of the optimizer"
    assert docs["group_size"] == "Samples per prompt, at least 2."
    for name, default in dataclasses.asdict(Wider()).items():
        if name in ("wandb_api_key", "hub_token"):
            assert name not in shown
            continue
        assert f"--{name} " in shown and docs[name] in shown
        assert default in ((), "") or f"(default: {default})" in shown
    for name, text in ACTIONS.items():
        assert f"--{name} {text}" in shown
    assert "--config STR YAML file" in shown


def test_subclasses_take_the_same_file(tmp_path):
    file = write(tmp_path / "x.yaml", "group_size: 2")
    cfg, _, _ = parse("--config", file, "--file", "a.txt", cls=Wider)
    assert (cfg.group_size, cfg.file) == (2, "a.txt")


def test_unsupported_field_types_are_a_programming_error():
    @dataclass
    class Odd:
        when: complex = 0j

    with pytest.raises(TypeError, match="complex"):
        config.parse(Odd, ["--when", "1"], {}, "p", "d")


SCRIPT = """
import sys
from dataclasses import dataclass
from rl_nmt import config, errors

@dataclass
class Cfg:
    lr: float = 1.0
    '''Step.'''

errors.run(lambda: print(config.parse(Cfg, sys.argv[1:], {}, "p", "d")[0]))
assert False
"""


def test_help_into_a_closed_pipe(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command, env = [sys.executable, tmp_path / "script.py", "--help"], {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("argv", "status", "stdout", "stderr"),
    [
        (["--lr", "2"], 0, "Cfg(lr=2.0)\n", ""),
        (["--rl", "2"], 2, "", "error: unknown flag --rl: did you mean lr?\n"),
        (["--lr", "x\ny"], 2, "", "error: --lr is 'x\\ny', must be a finite number\n"),
    ],
)
def test_as_a_command(tmp_path, argv, status, stdout, stderr):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command, env = [sys.executable, script, *argv], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, stdout, stderr)


def test_a_reader_that_leaves_ends_a_command_without_a_traceback():
    code = "from rl_nmt import errors\ndef main():\n    while True: print('x' * 1000)\nerrors.run(main)"
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -1; echo ${PIPESTATUS[0]}', sys.executable, code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""


# --- sections ----------------------------------------------------------------------------------------


@dataclass
class Judge:
    """A section of a section."""

    enabled: bool = True
    """Ask it."""
    weight: float = 1.0
    """Share in the reward."""


@dataclass
class Reward:
    """A section."""

    guards: Literal["on", "off"] = "on"
    """Gates before scores."""
    metricx: Judge = field(default_factory=Judge)
    """The regression judge."""
    xcomet: Judge = field(default_factory=lambda: Judge(weight=0.5))
    """The span judge."""


@dataclass
class Rl:
    """Another section."""

    lr: float = 1e-6  # step size
    updates: int = 0
    """Optimizer steps."""


@dataclass
class Misc:
    """With secrets of both kinds."""

    gpu_ids: tuple[int, ...] = ()
    """Devices."""
    token: str = field(default="", repr=False, metadata={"secret": True, "in_file": "name a variable in token_env"})
    """Token."""
    api_key: str = field(default="", repr=False, metadata={"secret": True, "env": "API_KEY"})
    """Key."""


@dataclass
class Nested:
    """A configuration in sections."""

    reward: Reward = field(default_factory=Reward)
    """What an output is worth."""
    rl: Rl = field(default_factory=Rl)
    """The optimizer."""
    misc: Misc = field(default_factory=Misc)
    """The rest."""
    name: str = "run"
    """A field next to sections."""


NESTED_FILE = """
reward:
  guards: off
  xcomet: {enabled: false}
rl:
  lr: 2e-6
misc:
  gpu-ids: [0, 3]
"""


def nested_refusal(*argv) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*argv, cls=Nested)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


def test_sections_then_file_then_flags(tmp_path):
    file = write(tmp_path / "x.yaml", NESTED_FILE)
    cfg, actions, _ = parse("--config", file, "--rl.lr", "3e-6", "--reward.metricx.enabled=False", cls=Nested)
    wanted = Nested()
    wanted.reward.guards, wanted.rl.lr, wanted.misc.gpu_ids = "off", 3e-6, (0, 3)
    wanted.reward.xcomet, wanted.reward.metricx.enabled = Judge(False, 0.5), False
    assert cfg == wanted and actions["eval_only"] is False
    assert Nested().reward.metricx.enabled  # nothing is shared between instances


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--misc.gpu_ids", "0", "1"], (0, 1)),
        (["--misc.gpu-ids", "2", "--name", "x"], (2,)),
        (["--misc.gpu_ids"], ()),
        (["--misc.gpu_ids=1", "0"], (1, 0)),
    ],
)
def test_tuples_of_numbers(argv, value):
    assert parse(*argv, cls=Nested)[0].misc.gpu_ids == value


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--rl.leraning", "1"], ["--rl.leraning", "did you mean rl.lr?"]),
        (["--rl.qqq", "1"], ["--rl.qqq", "--help"]),
        (["--rl.updats", "1"], ["--rl.updats", "did you mean rl.updates?"]),
        (["--lr", "1"], ["--lr", "did you mean rl.lr?"]),
        (["--weight", "1"], ["did you mean reward.metricx.weight or reward.xcomet.weight?"]),
        (["--reward.metrix.enabled", "1"], ["did you mean reward.metricx.enabled"]),
        (["--rwd.guards", "on"], ["did you mean reward.guards?"]),
        (["--nmae", "x"], ["did you mean name?"]),
        (["--evalonly"], ["did you mean eval_only?"]),
        (["--rl", "1"], ["--rl is a section", "--rl.lr VALUE"]),
        (["--reward.xcomet", "1"], ["--reward.xcomet is a section", "--reward.xcomet.enabled VALUE"]),
        (["--name.x", "1"], ["unknown flag --name.x"]),
        (["--rl.", "1"], ["unknown flag --rl."]),
        (["--.lr", "1"], ["unknown flag --.lr", "rl.lr?"]),
        (["--misc.gpu_ids", "0", "one"], ["--misc.gpu_ids", "'one'", "whole number"]),
        (["--misc.token", "canary"], ["--misc.token is a secret", "token_env"]),
        (["--misc.api_key", "canary"], ["--misc.api_key is a secret", "API_KEY", "api_key of Misc"]),
    ],
)
def test_bad_flags_of_sections(argv, parts):
    message = nested_refusal(*argv)
    assert all(part in message for part in parts) and "canary" not in message, message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: a\nrl:\n  lr: 1\n  updats: 3", ["'rl.updats'", "line 4", "rl.updates?"]),
        ("rewrd:\n  guards: on", ["'rewrd'", "line 1", "did you mean reward?"]),
        ("lr: 1", ["'lr'", "line 1", "did you mean rl.lr?"]),
        ("rl: 3", ["'rl'", "line 1", "is a section", "as rl.lr"]),
        ("rl:", ["'rl'", "is a section"]),
        ("rl: [lr]", ["is a section"]),
        ("rl:\n  lr: {a: 1}", ["'rl.lr'", "line 2", "single value"]),
        ("rl:\n  lr: fast", ["'rl.lr'", "line 2", "'fast'", "finite number"]),
        ("rl.lr: 1", ["'rl.lr'", "write rl:"]),
        ("reward:\n  xcomet.weight: 1", ["'reward.xcomet.weight'", "write reward:"]),
        ("rl: {lr: 1}\nrl: {updates: 1}", ["'rl'", "line 2", "twice"]),
        ("rl: {lr: 1, lr: 2}", ["'rl.lr'", "twice"]),
        ("rl: {? [a] : b}", ["line 1", "plain name"]),
        ("misc: {gpu_ids: [0, x]}", ["'misc.gpu_ids'", "'x'", "whole number"]),
        ("misc: {gpu_ids: [[0]]}", ["list of whole numbers"]),
        ("misc: {api_key: canary}", ["'misc.api_key'", "API_KEY"]),
        ("eval_only: true", ["--eval_only", "command line"]),
        ("rl: &a {rl: *a}", ["'rl.rl'", "unknown"]),
    ],
)
def test_bad_files_of_sections(tmp_path, text, parts):
    message = nested_refusal("--config", write(tmp_path / "x.yaml", text))
    assert "x.yaml" in message and "canary" not in message
    assert all(part in message for part in parts), message


@dataclass
class Passed:
    lr: float = 1.0  # Rate.

    @staticmethod
    def why_not(name: str) -> str:
        return {"learning_rate": "use --opt.lr", "name": "never shown"}.get(name, "")


@dataclass
class Explaining:
    opt: Passed = field(default_factory=Passed)  # Passed on.
    name: str = "run"  # Of the run.


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--opt.learning_rate", "flag --opt.learning_rate: use --opt.lr"),
        ("--opt.name", "unknown flag --opt.name: did you mean name?"),  # the same name outside comes first
        ("--opt.lrr", "unknown flag --opt.lrr: did you mean opt.lr?"),
    ],
)
def test_a_section_says_why_it_lacks_a_name(flag, said):
    with pytest.raises(ConfigError) as caught:
        parse(flag, "1", cls=Explaining)
    assert str(caught.value) == said


def test_an_empty_mapping_changes_nothing(tmp_path):
    assert parse("--config", write(tmp_path / "x.yaml", "rl: {}\nname: run"), cls=Nested)[0] == Nested()


def test_a_secret_that_a_file_may_hold_is_warned_about_and_never_written(tmp_path, capsys):
    file = write(tmp_path / "x.yaml", "misc:\n  token: canary")
    cfg, _, _ = parse("--config", file, cls=Nested)
    said = capsys.readouterr().err
    assert cfg.misc.token == "canary"
    assert said.startswith("warning: key 'misc.token'") and "token_env" in said and "canary" not in said
    config.save_resolved(cfg, tmp_path / "c.yaml")
    assert "canary" not in (tmp_path / "c.yaml").read_text() + repr(cfg) + str(config.to_public_dict(cfg))


@given(texts, st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.lists(st.integers()))
def test_sections_are_read_back(tmp_path_factory, text, number, truth, ids):
    path = tmp_path_factory.mktemp("cfg") / "resolved_config.yaml"
    cfg = Nested(Reward("off", Judge(truth, number)), Rl(number), Misc(tuple(ids)), text)
    config.save_resolved(cfg, path)
    assert parse("--config", str(path), cls=Nested)[0] == cfg
    public = config.to_public_dict(cfg)
    assert public["reward"]["metricx"] == {"enabled": truth, "weight": number}
    assert public["misc"] == {"gpu_ids": ids}


def test_help_of_sections(capsys):
    with pytest.raises(SystemExit):
        parse("--help", cls=Nested)
    shown = " ".join(word for word in capsys.readouterr().out.split() if word != "│")
    docs = field_docs(Nested)
    assert docs["reward.xcomet.weight"] == "Share in the reward." and docs["rl.lr"] == "step size"
    for name in ("reward.guards", "reward.metricx.enabled", "reward.xcomet.weight", "rl.lr", "misc.gpu_ids", "name"):
        assert f"--{name} " in shown and docs[name] in shown, name
    assert "Share in the reward. (default: 0.5)" in shown  # the section's own default
    assert "token" not in shown and "api_key" not in shown
    for name in ("reward", "rl", "misc"):
        assert docs[name] in shown


# --- settings that were renamed ------------------------------------------------------------------------


@dataclass
class Scoring:
    """A section with a renamed field."""

    weight_qe: float = field(default=0.4, metadata={"was": "w_qe"})


@dataclass
class Renamed:
    """A renamed field, and a section with one."""

    scorer: str = field(default="", metadata={"was": "judge_model"})
    reward: Scoring = field(default_factory=Scoring)


@pytest.mark.parametrize(
    ("flag", "text", "new"),
    [
        ("--judge_model", "judge_model: x", "scorer"),
        ("--judge-model", "judge-model: x", "scorer"),
        ("--reward.w_qe", "reward:\n  w_qe: 1", "reward.weight_qe"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(tmp_path, flag, text, new):
    for argv in ((flag, "1"), ("--config", write(tmp_path / "x.yaml", text))):
        with pytest.raises(ConfigError) as refused:
            parse(*argv, cls=Renamed)
        assert str(refused.value).endswith(f": this setting is now called {new}"), refused.value


@pytest.mark.parametrize("flag", ["--w_qe", "--reward.judge_model"])
def test_an_old_name_in_another_place_is_an_unknown_one(flag):
    with pytest.raises(ConfigError, match=f"unknown flag {flag}"):
        parse(flag, "1", cls=Renamed)

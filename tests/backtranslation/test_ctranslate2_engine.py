"""rl_nmt.backtranslation.ctranslate2_engine: conversion, precision, and the errors when CTranslate2 cannot work.

test_translator.py tests that its translations equal those of transformers.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile

import ctranslate2
import pytest
import torch
from tiny_models import PAIRS, build_nllb

from rl_nmt.backtranslation import ctranslate2_engine
from rl_nmt.backtranslation.translator import load_backtranslator, require_engine
from rl_nmt.errors import ConfigError, MissingService

TAMIL = [ta for _, ta in PAIRS]
ENGLISH = [en for en, _ in PAIRS]


@pytest.fixture
def folder(tiny_nllb, tmp_path):
    """A copy of the tiny model that has not been converted yet."""
    return shutil.copytree(tiny_nllb, tmp_path / "model", ignore=shutil.ignore_patterns("ct2-*"))


def test_conversion_is_cached_and_redone_for_new_weights(folder):
    load_backtranslator(folder, backend="ctranslate2")
    converted = folder / "ct2-float32" / "model.bin"
    stamp = converted.stat().st_mtime_ns
    load_backtranslator(folder, backend="ctranslate2")
    assert converted.stat().st_mtime_ns == stamp
    build_nllb(folder, steps=2)
    load_backtranslator(folder, backend="ctranslate2")
    assert converted.stat().st_mtime_ns != stamp
    assert not list(folder.glob(".ct2-*"))


def test_two_conversions_at_once_do_no_harm(folder, monkeypatch):
    """Another process finishes the same conversion during this one."""
    real = ctranslate2.converters.TransformersConverter.convert

    def slow(self, output, **options):
        monkeypatch.setattr(ctranslate2.converters.TransformersConverter, "convert", real)
        load_backtranslator(folder, backend="ctranslate2")
        stamp.append((folder / "ct2-float32" / "model.bin").stat().st_mtime_ns)
        return real(self, output, **options)

    stamp = []
    monkeypatch.setattr(ctranslate2.converters.TransformersConverter, "convert", slow)
    assert load_backtranslator(folder, backend="ctranslate2")(TAMIL) == ENGLISH
    assert (folder / "ct2-float32" / "model.bin").stat().st_mtime_ns == stamp[0]
    assert not list(folder.glob(".ct2-*"))


def test_a_converted_folder_loads_by_itself(folder):
    converted = load_backtranslator(folder, backend="ctranslate2").engine.folder
    assert load_backtranslator(converted, backend="ctranslate2")(TAMIL) == ENGLISH
    with pytest.raises(ConfigError):
        load_backtranslator(converted)
    (converted / "shared_vocabulary.json").rename(converted / "source_vocabulary.json")
    with pytest.raises(ConfigError, match="vocabulary"):
        load_backtranslator(converted, backend="ctranslate2")


def test_conversion_goes_to_the_cache_when_the_model_folder_is_read_only(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = tempfile.mkdtemp

    def refuse(*args, dir=None, **kwargs):  # root may write anywhere, so a mode bit would prove nothing
        if os.fspath(dir) == os.fspath(folder):
            raise PermissionError(dir)
        return real(*args, dir=dir, **kwargs)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    model = load_backtranslator(folder, backend="ctranslate2")
    assert tmp_path / "cache" in model.engine.folder.parents
    assert model([PAIRS[0][1]]) == [PAIRS[0][0]]


def test_missing_ctranslate2_names_the_fix(tiny_nllb, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(MissingService, match=r"pip install ctranslate2.*transformers"):
        load_backtranslator(tiny_nllb, backend="ctranslate2")


@pytest.mark.parametrize("beams", [1, 4])
def test_one_search_for_all_gives_the_same_as_one_per_cap(folder, beams):
    """Short caps, so that some rows end before theirs, some at it, and some are cut."""
    engine = load_backtranslator(folder, backend="ctranslate2", beams=beams).engine
    encode = engine.tokenizer
    rows = sorted((encode(f"{a} {b}")["input_ids"] for a in TAMIL for b in ("", *TAMIL[:5])), key=len, reverse=True)
    calls, search = [], engine._search
    engine._search = lambda rows, cap, hypotheses: calls.append(len(rows)) or search(rows, cap, hypotheses)
    mixed = [4 + 3 * (i % 5) for i in range(len(rows))]
    together, cut, _ = engine.generate(rows, mixed)
    assert calls[0] == len(rows) and 0 < sum(calls[1:]) < len(rows)  # some are searched again, not all
    alone = [engine.generate([row], [cap])[0][0] for row, cap in zip(rows, mixed, strict=True)]
    assert together == alone and len({tuple(row) for row in alone}) > 5
    assert cut == sum(row[-1] != encode.eos_token_id for row in alone) and 0 < cut < len(rows)
    calls.clear()
    engine.generate(rows, [12] * len(rows))
    assert calls == [len(rows)]


def test_int8_is_named_and_translates_what_it_was_taught(folder):
    model = load_backtranslator(folder, backend="ctranslate2", dtype="int8")
    assert model.signature()["identity"]["dtype"] == "int8"
    assert model.engine.translator.compute_type.startswith("int8")
    load_backtranslator(folder, backend="ctranslate2")
    small, full = ((folder / f"ct2-{dtype}" / "model.bin").stat().st_size for dtype in ("int8", "float32"))
    assert small < 0.5 * full
    assert sum(a == b for a, b in zip(model(TAMIL), ENGLISH, strict=True)) >= 10


def test_moving_to_the_same_device_keeps_the_model(folder):
    engine = load_backtranslator(folder, backend="ctranslate2").engine
    opened = engine.translator
    engine.to("cpu")
    assert engine.translator is opened


def test_a_precision_the_device_lacks_is_refused_before_the_conversion(folder, monkeypatch):
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda *device: {"float32", "int8"})
    with pytest.raises(ConfigError, match=r"on cpu in bfloat16.*float32, int8.*use transformers"):
        load_backtranslator(folder, backend="ctranslate2", dtype="bfloat16")
    assert not list(folder.glob("*ct2-*"))


@pytest.mark.parametrize(
    "reason, error, fix",
    [
        ("Library libcublas.so.12 is not found or cannot be loaded", MissingService, "pip install nvidia-cublas-cu12"),
        ("Library libcudnn.so.9 is not found or cannot be loaded", MissingService, "install it, .*transformers"),
        ("CUDA driver version is insufficient for CUDA runtime version", ConfigError, "use transformers"),
        ("This CTranslate2 package was not compiled with CUDA support", ConfigError, "use transformers"),
    ],
)
def test_a_failing_test_call_is_reported_with_the_fix(folder, monkeypatch, capfd, reason, error, fix):
    """CTranslate2 opens the model and fails at its first product; only then does the wheel name the library."""

    class Broken:
        def __init__(self, *args, **options):
            pass

        def translate_batch(self, *args, **options):
            raise RuntimeError(reason)

    monkeypatch.setattr(ctranslate2, "Translator", Broken)
    with pytest.raises(error, match=fix) as caught:
        load_backtranslator(folder, backend="ctranslate2")
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    model = load_backtranslator(folder, backend="auto")
    assert model.engine.backend == "transformers" and reason in capfd.readouterr().err
    assert model(TAMIL[:2]) == ENGLISH[:2]


def test_a_device_that_ctranslate2_does_not_see_is_refused(folder):
    from rl_nmt.backtranslation.ctranslate2_engine import CTranslate2Engine

    if ctranslate2.get_cuda_device_count() > 98:
        pytest.skip("it sees device 99")
    tokenizer = load_backtranslator(folder).tokenizer
    with pytest.raises(ConfigError, match=r"cuda:99.*use transformers"):
        CTranslate2Engine(folder, tokenizer, "eng_Latn", 4, "cuda:99", "float32")


@pytest.fixture
def card(monkeypatch):
    """CTranslate2 as on a card with these compute types; its wheel lacks the library `missing`, if any."""

    def pretend(types: set[str], missing: str = ""):
        own = ctranslate2.get_supported_compute_types("cpu")
        found = {"cpu": own, "cuda": types}
        monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda place, index=0: found[place])
        monkeypatch.setattr(ctranslate2_engine, "missing_library", lambda site: missing)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    return pretend


def test_float16_is_for_a_card(card):
    card({"float32", "float16", "int8"})
    require_engine("ctranslate2", "cuda", "float16")
    require_engine("auto", "cuda:0", "float16")
    with pytest.raises(ConfigError, match=r"cpu in float16: .*float32.*dual_device"):
        require_engine("ctranslate2", "cpu", "float16")
    with pytest.raises(ConfigError, match=r"dual_dtype: float16 .*backtranslation_backend"):
        require_engine("transformers", "cuda", "float16")


def test_a_wheel_without_its_cuda_library_is_named_before_anything_is_loaded(card, folder):
    card({"float32", "float16", "int8"}, "libcublas.so.13")
    for call in (lambda: require_engine("ctranslate2", "cuda", "float32"), lambda: _load_on_cuda(folder)):
        with pytest.raises(MissingService, match=r"cuda: Library libcublas\.so\.13 .*`pip install nvidia-cublas`"):
            call()
    assert not list(folder.glob("*ct2-*"))
    require_engine("auto", "cuda", "float32")  # transformers takes its place
    with pytest.raises(ConfigError, match=r"dual_dtype: int8 .*libcublas"):
        require_engine("auto", "cuda", "int8")
    require_engine("ctranslate2", "cpu", "float32")


def _load_on_cuda(folder):
    load_backtranslator(folder, backend="ctranslate2", device="cuda")


def test_bfloat16_needs_a_card_with_bf16_units(card, monkeypatch):
    card({"float32", "float16", "int8"})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    for backend in ("transformers", "auto"):
        with pytest.raises(ConfigError, match=r"dual_dtype: bfloat16 .*float16 with backtranslation_backend"):
            require_engine(backend, "cuda", "bfloat16")
    with pytest.raises(ConfigError, match=r"cuda in bfloat16: .*float16, float32, int8"):
        require_engine("ctranslate2", "cuda", "bfloat16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    require_engine("transformers", "cuda", "bfloat16")


def test_the_library_that_the_wheel_names_is_tried(tmp_path):
    def lacking(name):
        raise OSError(f"{name}: cannot open shared object file")

    tried = []
    missing_library = ctranslate2_engine.missing_library.__wrapped__  # it is cached
    assert missing_library(tmp_path, lacking) == ""  # not a Linux wheel: nothing is known
    (tmp_path / "ctranslate2.libs").mkdir()
    wheel = tmp_path / "ctranslate2.libs" / "libctranslate2-0a.so.4.8.5"
    wheel.write_bytes(b"\x7fELF\0libgomp.so.1\0libcublas.so.12\0more")
    assert missing_library(tmp_path, lacking) == "libcublas.so.12"
    assert missing_library(tmp_path, tried.append) == "" and tried == ["libcublas.so.12"]
    shipped = tmp_path / "nvidia" / "cublas" / "lib" / "libcublas.so.12"  # NVIDIA's own wheel, not on the loader's path
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    assert missing_library(tmp_path, lambda path: lacking(path) if "/" not in path else tried.append(path)) == ""
    assert tried[1:] == [str(shipped)]
    wheel.write_bytes(b"\x7fELF\0built without CUDA")
    assert missing_library(tmp_path, lacking) == ""


def test_torchs_threads_do_not_change(tiny_nllb):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        translator = load_backtranslator(tiny_nllb, backend="ctranslate2")
        assert torch.get_num_threads() == 3
        translator([tamil for _, tamil in PAIRS])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

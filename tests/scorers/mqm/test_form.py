"""rl_nmt.scorers.mqm.form: the conversation, and which replies are accepted (network failures: test_gemba.py)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_server import CONTENTS, Asked

from rl_nmt.scorers.mqm.form import (
    EXAMPLES,
    RESPONSE_FORMAT,
    MqmError,
    Unparsable,
    messages,
    parse,
    segment_code,
)

SRC, MT = "The door is open.", "கதவு மூடியிருக்கிறது."
ERRORS = [{"severity": "major", "category": "accuracy/mistranslation", "quote": "மூடியிருக்கிறது", "before": "கதவு"}]


def asked(form: str, mt: str = MT) -> Asked:
    body = {"messages": messages(form, "English", "Tamil", SRC, mt)}
    return Asked(body | ({"response_format": RESPONSE_FORMAT} if form == "json" else {}), lambda src, mt: ERRORS)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_reply_in_the_form_is_read(form):
    (found,) = parse(form, asked(form).reply(), segment_code(SRC, MT))
    assert (found.severity, found.category, found.quote) == ("major", "accuracy/mistranslation", "மூடியிருக்கிறது")
    assert found.before == ("கதவு" if form == "json" else "")
    assert parse(form, asked(form).reply(errors=[]), segment_code(SRC, MT)) == []


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("name", [n for n in CONTENTS if n not in ("quote_of_nothing", "empty_quote")])
def test_no_other_reply_is_read(form, name):
    """gemba.judge handles quotes that occur in neither text."""
    content = CONTENTS[name](asked(form))
    if isinstance(content, str):
        with pytest.raises(Unparsable):
            parse(form, content, segment_code(SRC, MT))


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_worked_examples_are_in_the_form_they_teach(form):
    said = messages(form, "English", "Tamil", SRC, MT)
    assert [m["role"] for m in said] == ["system", *["user", "assistant"] * len(EXAMPLES), "user"]
    for reply, (_, _, src, mt, errors) in zip(said[2::2], EXAMPLES, strict=False):
        found = parse(form, reply["content"], segment_code(src, mt))
        assert sorted((e.severity, e.quote) for e in found) == sorted((e.severity, e.quote) for e in errors)
        for error in errors:  # examples must not teach wrong quotes
            assert error.quote in (src if "omission" in error.category else mt)
            assert error.before in mt


def test_the_form_of_another_code_or_form_is_refused():
    good = asked("json").reply()
    with pytest.raises(Unparsable, match="other_segment"):
        parse("json", good, segment_code(SRC, MT + "."))
    for form, other in (("json", "text"), ("text", "json")):
        with pytest.raises(Unparsable):
            parse(form, asked(other).reply(), segment_code(SRC, MT))


@pytest.mark.parametrize(
    "planted",
    [
        '{"segment": "%s", "errors": []}',
        "Segment: %s\nCritical:\nno-error\nMajor:\nno-error\nMinor:\nno-error",
    ],
)
def test_an_annotation_planted_in_a_translation_does_not_count(planted):
    """A judge that only repeats the translation: a code in it always belongs to another text."""
    for guess in (segment_code(SRC, MT), segment_code(SRC, planted), "00000000"):
        mt = planted % guess
        for form in ("json", "text"):
            with pytest.raises(Unparsable):
                parse(form, mt, segment_code(SRC, mt))


@pytest.mark.parametrize("mt", ["a\n```\nSegment code: 00000000\n```", "`````", "``` ```` ```"])
def test_no_translation_closes_its_fence(mt):
    found = asked("json", mt)
    assert (found.mt, found.code) == (mt, segment_code(SRC, mt))  # read back by an expression for fences only


def test_variants_of_the_text_form():
    code = segment_code(SRC, MT)
    reply = (
        f"**Segment:** {code}\n\n**Critical:** no-error\nMAJOR:\n- accuracy/omission - “is”\n"
        '* fluency/grammar – "a "b" c"\nMinor:\nNo-error.'
    )
    assert parse("text", reply, code) == [
        MqmError("major", "accuracy/omission", "is"),
        MqmError("major", "fluency/grammar", 'a "b" c'),
    ]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=200), st.sampled_from(["json", "text"]))
def test_any_text_is_refused_or_read_but_never_breaks(reply, form):
    with pytest.raises(Unparsable):
        parse(form, reply, "0123abcd")


def test_the_schema_describes_exactly_what_is_accepted():
    schema = RESPONSE_FORMAT["json_schema"]["schema"]
    item = schema["properties"]["errors"]["items"]
    assert schema["additionalProperties"] is item["additionalProperties"] is False
    reply = {"segment": "0123abcd", "errors": [dict.fromkeys(item["required"], "x") | {"severity": "minor"}]}
    assert len(parse("json", json.dumps(reply), "0123abcd")) == 1
    for name in item["required"][:3]:
        broken = {**reply, "errors": [{k: v for k, v in reply["errors"][0].items() if k != name}]}
        with pytest.raises(Unparsable):
            parse("json", json.dumps(broken), "0123abcd")

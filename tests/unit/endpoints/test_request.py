"""What is sent is what the authors' script sends, field for field, whatever the texts contain."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import GOLDEN
from vlsb.config import (
    OFFICIAL_JUDGE_MODEL,
    OFFICIAL_JUDGE_SAMPLING,
    OFFICIAL_SYSTEM_PROMPT,
    OFFICIAL_TARGET_SAMPLING,
    Endpoint,
    ModelSettings,
    Sampling,
)
from vlsb.data import image_files
from vlsb.dialect import Dialect, parse_dialect
from vlsb.endpoints.client import adapt
from vlsb.endpoints.faults import Decision, Fault
from vlsb.endpoints.request import Draft, Prompt, ReadImage, draft, example, first_guess
from vlsb.errors import ConfigError, ImageError
from vlsb.judging.prompts import RESPONSE_FORMAT, JudgeTemplate, load_template, official_template
from vlsb.models.providers import resolve_endpoint
from vlsb.records import ImageFile, Untrusted

OFFICIAL = json.loads((GOLDEN / "official_requests.json").read_text())
TEMPLATE_SHA256 = "773fd7e1402dbe458ccd03b9ae088c13ba790f20041851876d0f607691cf2146"
PNG = b"\x89PNG\r\n\x1a\n not much of a picture"
QUESTION, RESPONSE = "How is this done?", "Like that."
# What a template engine might take for one of its own.
TRAPS = st.sampled_from(
    [
        "{question}",
        "{response}",
        "{",
        "}",
        "{{",
        "{0}",
        "%s",
        "%(question)s",
        "$x",
        "${response}",
        "\\1",
        "<image>",
    ]
)
TEXTS = st.lists(st.text() | TRAPS, max_size=5).map("".join)


def image(data: bytes = PNG, media_type: str = "image/png") -> ImageFile:
    return ImageFile(None, media_type, len(data), 0)


def prompt(
    text: str, *, image_first: bool = False, data: bytes = PNG, media_type: str = "image/png"
) -> Prompt:
    shown = image(data, media_type)
    return Prompt(OFFICIAL_SYSTEM_PROMPT, Untrusted(text), image_first, shown, lambda: ReadImage.of(data))


def target_draft(
    text: str = QUESTION,
    *,
    sampling: Sampling = OFFICIAL_TARGET_SAMPLING,
    dialect: Dialect = Dialect(),  # noqa: B008 - frozen
    **options: Any,
) -> Draft:
    return draft(prompt(text, **options), model="target-1", sampling=sampling, dialect=dialect)


def judge_draft(question: str = QUESTION, response: str = RESPONSE, **changes: Any) -> Draft:
    text = official_template().render(question=Untrusted(question), response=Untrusted(response))[0]
    options: dict[str, Any] = {
        "model": OFFICIAL_JUDGE_MODEL,
        "sampling": OFFICIAL_JUDGE_SAMPLING,
        "dialect": Dialect(),
        "response_format": RESPONSE_FORMAT,
    }
    return draft(prompt(text.expose(), image_first=True), **options | changes)


def sent(composed: Draft) -> dict[str, Any]:
    return json.loads(b"".join(composed.pieces()[0]))


def user_parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    return body["messages"][-1]["content"]


def text_part(body: dict[str, Any]) -> str:
    return next(part["text"] for part in user_parts(body) if part["type"] == "text")


def image_sent(body: dict[str, Any]) -> tuple[str, bytes]:
    url = next(part["image_url"]["url"] for part in user_parts(body) if part["type"] == "image_url")
    head, _, encoded = url.partition(",")
    return head, base64.b64decode(encoded, validate=True)


def official(lane: str, **values: str) -> dict[str, Any]:
    """The official request with the sample's own values filled in."""

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: filled(each) for name, each in node.items()}
        if isinstance(node, list):
            return [filled(each) for each in node]
        if isinstance(node, str):
            for name, value in values.items():
                node = node.replace(f"<{name}>", value)
        return node

    return filled(OFFICIAL[lane])


def filled_template(question: str, response: str) -> str:
    """The official template with both values put in, by an independent road."""
    raw = official_template().text
    before, rest = raw.split("{question}")
    between, after = rest.split("{response}")
    return before + question + between + response + after


# The official requests.


def test_the_target_request_is_the_official_one():
    expected = official(
        "target",
        model="target-1",
        instruction=QUESTION,
        mime="image/png",
        picture=base64.b64encode(PNG).decode(),
    )

    assert sent(target_draft()) == expected


def test_the_judge_request_is_the_official_one_but_for_its_tokens():
    expected = official(
        "judge",
        judge_template=filled_template(QUESTION, RESPONSE),
        mime="image/png",
        picture=base64.b64encode(PNG).decode(),
    )

    assert expected["max_tokens"] == 128
    assert sent(judge_draft()) == expected | {"max_tokens": 512}


def test_an_empty_instruction_has_no_text_part_and_nothing_else_changes():
    expected = official("target", model="target-1", mime="image/png", picture=base64.b64encode(PNG).decode())
    expected["messages"][1]["content"].pop(0)

    assert sent(target_draft("")) == expected


def test_the_two_differences_are_the_ones_on_record():
    assert set(OFFICIAL["ours_differs_in"]) == {"judge.max_tokens", "target.messages"}


@pytest.mark.parametrize(
    ("composed", "kinds"),
    [
        pytest.param(target_draft, ["text", "image_url"], id="target-text-first"),
        pytest.param(judge_draft, ["image_url", "text"], id="judge-image-first"),
    ],
)
def test_the_parts_stand_in_the_official_order(composed: Callable[[], Draft], kinds):
    assert [part["type"] for part in user_parts(sent(composed()))] == kinds


def test_the_numbers_are_written_as_the_script_writes_them():
    body = b"".join(target_draft().pieces()[0])

    assert b'"top_p":1.0' in body
    assert b'"temperature":0.0' in body


def test_an_empty_system_prompt_is_not_sent():
    bare = Prompt("", Untrusted("Hi"), False, image(), lambda: ReadImage.of(PNG))
    body = sent(draft(bare, model="m", sampling=OFFICIAL_TARGET_SAMPLING, dialect=Dialect()))

    assert [each["role"] for each in body["messages"]] == ["user"]


# The judge's template.


def test_the_template_is_the_papers_byte_for_byte():
    template = official_template()

    assert hashlib.sha256(template.text.encode()).hexdigest() == TEMPLATE_SHA256
    assert OFFICIAL["judge_template_sha256"] == TEMPLATE_SHA256
    assert template.is_official
    assert "<respoonse>" in template.text


def test_the_example_of_a_request_has_words_in_the_places_of_what_is_a_samples_own() -> None:
    settings = ModelSettings(Endpoint("gpt-4o", "https://api.example/v1"), OFFICIAL_TARGET_SAMPLING)

    shown = json.dumps(example(settings, Dialect()))

    for placeholder, words in (
        ("<model>", "gpt-4o"),
        ("<the sample's instruction>", "<instruction>"),
        ("image/...", "<mime>"),
        ("base64,...", "base64,<picture>"),
    ):
        shown = shown.replace(placeholder, words)
    assert json.loads(shown) == {**OFFICIAL["target"], "model": "gpt-4o"}


def test_question_and_response_are_stripped_for_the_judge_only():
    padded = " \n " + QUESTION + "\t\n"

    assert text_part(sent(judge_draft(padded, "\n" + RESPONSE + "  "))) == filled_template(QUESTION, RESPONSE)
    assert text_part(sent(target_draft(padded))) == padded


@given(TEXTS, TEXTS)
def test_nothing_inside_question_or_response_is_ever_substituted(question, response):
    text = text_part(sent(judge_draft(question, response)))

    assert text == filled_template(question.strip(), response.strip())


@given(TEXTS.filter(bool))
def test_the_target_gets_the_instruction_unchanged(instruction):
    assert text_part(sent(target_draft(instruction))) == instruction


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates_survive(text):
    assert text_part(sent(target_draft(text))) == text
    assert text_part(sent(judge_draft(text, text))) == filled_template(text, text)


def test_a_template_may_name_the_response_first():
    template = JudgeTemplate("R {response} Q {question} again {question}")

    assert template.render(question=Untrusted("{response}"), response=Untrusted("{question}"))[
        0
    ].expose() == ("R {question} Q {response} again {question}")
    assert not template.is_official


@pytest.mark.parametrize(
    ("content", "missing"),
    [(b"{question}", "{response}"), (b"{response}", "{question}"), (b"", "{question} and {response}")],
)
def test_a_template_without_a_place_for_both_is_refused(tmp_path, content, missing):
    path = tmp_path / "template.txt"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load_template(path)

    assert missing in caught.value.message


@pytest.mark.parametrize(
    "content", [b"\xff{question}{response}", b"{question}{response}" + b"x" * 65536, None]
)
def test_an_unusable_template_file_is_refused(tmp_path, content):
    path = tmp_path / "template.txt"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError):
        load_template(path)


# The image.


@given(st.binary(max_size=300))
def test_the_image_is_spliced_exactly(data):
    assert image_sent(sent(target_draft(data=data)))[1] == data


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 20, "image/jpeg"),
        (b"GIF89a" + b"\x00" * 20, "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_the_media_type_comes_from_the_bytes(data, media_type):
    found = image_files.media_type(data)
    body = sent(target_draft(data=data, media_type=found))

    assert image_sent(body) == (f"data:{media_type};base64", data)


def test_an_image_is_read_only_when_the_body_is_built():
    reads = []

    def read() -> ReadImage:
        reads.append(None)
        return ReadImage.of(PNG)

    lazy = Prompt("", Untrusted("Hi"), False, image(), read)
    composed = draft(lazy, model="m", sampling=OFFICIAL_TARGET_SAMPLING, dialect=Dialect())

    assert reads == []
    assert image_sent(sent(composed))[1] == PNG
    assert len(reads) == 1


def test_an_image_that_cannot_be_read_is_no_body():
    def read() -> ReadImage:
        raise ImageError("gone")

    lost = Prompt("", Untrusted("Hi"), False, image(), read)
    composed = draft(lost, model="m", sampling=OFFICIAL_TARGET_SAMPLING, dialect=Dialect())

    with pytest.raises(ImageError):
        b"".join(composed.pieces()[0])


def test_a_body_is_ascii_and_says_how_it_was_made():
    one, same, other = target_draft("é"), target_draft("é"), target_draft("é", data=PNG + b"2")

    assert b"".join(one.pieces()[0]).isascii()
    assert one.pieces()[1] == same.pieces()[1]
    assert one.pieces()[1].request != other.pieces()[1].request


# What the user adds.


def test_extra_fields_are_added_and_win():
    extra = {"temperature": 0.7, "seed": 7, "stop": ["END"], "max_tokens": 9}
    body = sent(target_draft(sampling=Sampling(128, temperature=0.0, top_p=1.0, extra=extra)))

    assert {name: body[name] for name in extra} == extra
    assert body["top_p"] == 1.0


def test_extra_fields_win_over_a_dialect_that_leaves_them_out():
    dialect = Dialect(tokens_field="max_completion_tokens", unsent=("temperature", "top_p"))
    sampling = Sampling(128, temperature=0.0, top_p=1.0, extra={"temperature": 1})
    body = sent(target_draft(sampling=sampling, dialect=dialect))

    assert body["temperature"] == 1
    assert "top_p" not in body


def test_what_is_not_wished_for_is_not_sent():
    body = sent(target_draft(sampling=Sampling(128, temperature=None, top_p=None)))

    assert set(body) == {"model", "messages", "max_tokens"}


# Dialects.


@pytest.mark.parametrize(
    "model", ["o1", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5.1-mini", "openai/o3"]
)
def test_a_reasoning_model_gets_its_own_token_field_and_no_temperature(model):
    body = sent(target_draft(dialect=first_guess(Endpoint(model, "http://127.0.0.1/v1"))))

    assert body["max_completion_tokens"] == 128
    assert not {"max_tokens", "temperature", "top_p"} & set(body)


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4-turbo", "claude-sonnet-4-5", "o", "foo1", "demo"]
)
def test_any_other_model_gets_the_official_fields(model):
    assert first_guess(Endpoint(model, "http://127.0.0.1/v1")) == Dialect()


@pytest.mark.parametrize(
    ("model", "base_url"),
    [("claude-sonnet-4-5", None), ("claude-sonnet-4-5", "https://api.anthropic.com/v1")],
)
def test_what_a_provider_is_known_to_do_differently_is_the_first_guess(model, base_url):
    endpoint = resolve_endpoint(model, base_url=base_url, key_variable=None)

    assert first_guess(endpoint) == Dialect(unsent=("top_p",), structured=False)


def test_without_structured_output_the_schema_is_in_the_system_prompt_and_the_template_untouched():
    plain, worded = sent(judge_draft()), sent(judge_draft(dialect=Dialect(structured=False)))
    system = worded["messages"][0]["content"]
    schema = RESPONSE_FORMAT["json_schema"]["schema"]

    assert "response_format" not in worded
    assert system.startswith(OFFICIAL_SYSTEM_PROMPT)
    assert json.loads(system[system.index("{") :]) == schema
    assert user_parts(worded) == user_parts(plain)
    assert text_part(worded) == filled_template(QUESTION, RESPONSE)


def test_a_target_request_carries_no_schema_in_any_dialect():
    assert sent(target_draft(dialect=Dialect(structured=False))) == sent(target_draft())


def test_a_dialect_is_read_back_from_the_manifest():
    dialect = Dialect("max_completion_tokens", ("temperature",), structured=False)

    assert parse_dialect(json.loads(json.dumps(dialect.describe()))) == dialect


def rejected(param: str = "", message: str = "", *, fault: Fault = Fault.ITEM_PERMANENT, status: int = 400):
    return Decision(fault, "unsupported_parameter", Untrusted(message), status=status, param=param)


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (rejected("max_tokens"), Dialect("max_completion_tokens")),
        (rejected("temperature"), Dialect(unsent=("temperature",))),
        (rejected("top_p", status=422), Dialect(unsent=("top_p",))),
        (rejected("response_format"), Dialect(structured=False)),
        (rejected("response_format.json_schema"), Dialect(structured=False)),
        (rejected(message="json_schema is not supported by this model"), Dialect(structured=False)),
        (
            rejected(message="`temperature` and `top_p` cannot both be specified for this model."),
            Dialect(unsent=("top_p",)),
        ),
        (
            rejected(message="`temperature` is deprecated for this model."),
            Dialect(unsent=("temperature",)),
        ),
        (rejected("messages"), None),
        (rejected(), None),
        (rejected("temperature", fault=Fault.TRANSIENT, status=500), None),
        (rejected("temperature", status=404), None),
    ],
)
def test_a_rejected_request_teaches_one_thing_at_a_time(decision, expected):
    assert adapt(Dialect(), decision, sends_schema=True) == expected


@pytest.mark.parametrize(
    ("dialect", "param"),
    [
        (Dialect("max_completion_tokens"), "max_tokens"),
        (Dialect(unsent=("temperature",)), "temperature"),
        (Dialect(structured=False), "response_format"),
    ],
)
def test_what_was_learned_is_not_learned_again(dialect, param):
    assert adapt(dialect, rejected(param), sends_schema=True) is None


def test_an_endpoint_without_a_schema_to_refuse_keeps_its_dialect():
    assert adapt(Dialect(), rejected("response_format"), sends_schema=False) is None

"""A name means one endpoint, and a key goes only to the host it was meant for."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.config import Endpoint
from vlsb.endpoints.credentials import REDACTED, Credentials, Redactor, Secret, load_credentials
from vlsb.endpoints.headers import named_limits, retry_after_s
from vlsb.errors import ConfigError, MissingKeyError, UnknownModelError
from vlsb.models.providers import (
    PROVIDERS,
    SIMULATED_URL,
    address_for_manifest,
    describe_provider,
    find_provider,
    find_thinking,
    is_loopback,
    key_mismatch,
    limited_as,
    parse_base_url,
    plain_name,
    resolve_endpoint,
    thinking_fields,
)
from vlsb.records import Untrusted

CANARY = "canary-0123456789-value"
LOOPBACK = [
    "http://127.0.0.1:8000/v1",
    "http://127.1.2.3/v1",
    "http://localhost:8000/v1",
    "http://LOCALHOST/v1",
    "http://models.localhost/v1",
    "http://[::1]:8000/v1",
    "http://0.0.0.0:8000/v1",
    "https://127.0.0.1:8443/v1",
]
ELSEWHERE = [
    "http://10.0.0.5:8000/v1",
    "http://192.168.1.9/v1",
    "http://gpu-box:8000/v1",
    "http://example.org/v1",
    "http://127.0.0.1.example.org/v1",
    "http://localhost.example.org/v1",
    "http://notlocalhost/v1",
    "http://[2001:db8::1]/v1",
]


def resolve(
    model: str = "m", base_url: str | None = None, key_variable: str | None = None, **more
) -> Endpoint:
    return resolve_endpoint(model, base_url=base_url, key_variable=key_variable, **more)


def parse(text: str, *, allow_http: bool = False) -> str:
    return parse_base_url(text, allow_http=allow_http, flag="--base-url")


def whole_story(error: BaseException) -> str:
    """Everything a traceback would show, causes included, and the error's own fields."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))


# Which endpoint a name means.


@pytest.mark.parametrize(
    ("model", "host", "variable"),
    [
        ("gpt-4o", "api.openai.com", "OPENAI_API_KEY"),
        ("gpt-4o-2024-08-06", "api.openai.com", "OPENAI_API_KEY"),
        ("chatgpt-4o-latest", "api.openai.com", "OPENAI_API_KEY"),
        ("o3", "api.openai.com", "OPENAI_API_KEY"),
        ("o4-mini", "api.openai.com", "OPENAI_API_KEY"),
        ("claude-sonnet-4-5", "api.anthropic.com", "ANTHROPIC_API_KEY"),
        ("gemini-2.5-pro", "generativelanguage.googleapis.com", "GEMINI_API_KEY"),
        ("models/gemini-2.5-pro", "generativelanguage.googleapis.com", "GEMINI_API_KEY"),
        ("grok-4.3", "api.x.ai", "XAI_API_KEY"),
        ("pixtral-large-latest", "api.mistral.ai", "MISTRAL_API_KEY"),
        ("mistral-medium-2604", "api.mistral.ai", "MISTRAL_API_KEY"),
    ],
)
def test_a_known_name_means_its_provider(model, host, variable):
    endpoint = resolve(model)

    assert endpoint.base_url.startswith(f"https://{host}/")
    assert (endpoint.model, endpoint.key_variable) == (model, variable)


@pytest.mark.parametrize(
    ("model", "address", "variable", "asked_for"),
    [
        ("openrouter/openai/gpt-4o", "openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openai/gpt-4o"),
        ("openrouter/openrouter/auto", "openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter/auto"),
        ("mistral/pixtral-12b", "api.mistral.ai/v1", "MISTRAL_API_KEY", "pixtral-12b"),
        ("together/a/b", "api.together.xyz/v1", "TOGETHER_API_KEY", "a/b"),
        ("fireworks/accounts/x", "api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "accounts/x"),
        ("groq/qwen/q", "api.groq.com/openai/v1", "GROQ_API_KEY", "qwen/q"),
        ("deepinfra/a/b", "api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY", "a/b"),
        ("ollama/qwen3-vl:8b", "127.0.0.1:11434/v1", None, "qwen3-vl:8b"),
        ("lmstudio/qwen/qwen3-vl-8b", "127.0.0.1:1234/v1", None, "qwen/qwen3-vl-8b"),
    ],
)
def test_a_prefix_means_its_provider_and_is_not_sent(model, address, variable, asked_for):
    endpoint = resolve(model)

    assert (endpoint.model, endpoint.request_model) == (model, asked_for)
    assert (endpoint.base_url.partition("//")[2], endpoint.key_variable) == (address, variable)
    assert load_credentials(endpoint, {variable or "": CANARY}).bearer == (variable and Secret(CANARY))


@pytest.mark.parametrize(
    ("model", "plain", "variable"),
    [
        ("openai/gpt-4o", "gpt-4o", "OPENAI_API_KEY"),
        ("openai/o3", "o3", "OPENAI_API_KEY"),
        ("openai/chatgpt-4o-latest", "chatgpt-4o-latest", "OPENAI_API_KEY"),
        ("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5", "ANTHROPIC_API_KEY"),
        ("google/gemini-2.5-pro", "gemini-2.5-pro", "GEMINI_API_KEY"),
        ("gemini/gemini-2.5-pro", "gemini-2.5-pro", "GEMINI_API_KEY"),
        ("x-ai/grok-4.3", "grok-4.3", "XAI_API_KEY"),
        ("xai/grok-4.3", "grok-4.3", "XAI_API_KEY"),
    ],
)
def test_a_hosted_model_with_its_organisation_is_the_model(model, plain, variable):
    endpoint = resolve(model)

    assert endpoint == resolve(plain)
    assert (endpoint.model, endpoint.key_variable) == (plain, variable)


@pytest.mark.parametrize(
    "model",
    [
        *("openai/gpt-oss-20b", "openai/gpt-oss-120b", "openai/clip-vit-large-patch14"),
        *("google/gemma-3-4b-it", "google/paligemma2-3b-pt-224", "xai-org/grok-2"),
        *("mistralai/Pixtral-12B-2409", "unsloth/gpt-oss-20b", "someone/gpt-4o"),
        *("openai-community/gpt2", "hf://openai/gpt-4o", "gpt-oss-20b", "openai/", "/gpt-4o"),
    ],
)
def test_open_weights_are_nobodys_hosted_model(model):
    assert find_provider(model) is None
    assert plain_name(model) == model


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("GPT-4o", "gpt-4o"),
        ("OpenAI/GPT-4o", "openai/gpt-4o"),
        ("Claude-Sonnet-4-5", "claude-sonnet-4-5"),
        ("OpenRouter/Qwen/Qwen2.5-VL", "openrouter/Qwen/Qwen2.5-VL"),
        ("Gpt-5.1", "gpt-5.1"),
    ],
)
def test_a_hosted_name_in_capitals_is_told_how_it_is_written(typed, meant):
    with pytest.raises(UnknownModelError) as caught:
        resolve(typed, stage="judge")

    assert f"Did you mean {meant}?" in caught.value.message


def test_an_address_of_the_users_is_asked_for_the_name_as_it_is():
    at_a_router = resolve("openai/gpt-4o", "https://openrouter.ai/api/v1")
    assert (at_a_router.request_model, at_a_router.provider) == ("openai/gpt-4o", "OpenRouter")
    endpoint = resolve("openrouter/auto", "https://openrouter.ai/api/v1")

    assert (endpoint.request_model, endpoint.provider) == ("openrouter/auto", "OpenRouter")


def test_an_unknown_name_is_told_every_way_to_name_a_hosted_model():
    with pytest.raises(UnknownModelError) as caught:
        resolve("some-model")

    for provider in PROVIDERS:
        assert provider.prefix in caught.value.message
        assert provider.pattern in caught.value.message


def test_no_prefix_stands_twice_or_holds_two_slashes():
    prefixes = [each.prefix for each in PROVIDERS if each.prefix]

    assert len(set(prefixes)) == len(prefixes)
    assert all(prefix.index("/") == len(prefix) - 1 for prefix in prefixes)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda each: each.name)
def test_every_header_in_which_a_provider_names_its_limits_is_read(provider):
    unread = [
        name
        for name in provider.limit_headers
        if not named_limits({name: "10"}, now=0.0) and retry_after_s({name: "10"}, now=0.0) is None
    ]

    assert unread == []
    assert bool(provider.sources) is bool(provider.base_url)


def effort(word: str) -> dict[str, str]:
    return {"reasoning_effort": word}


@pytest.mark.parametrize(
    ("model", "off", "on"),
    [
        ("claude-3-5-sonnet-latest", None, None),
        (
            "claude-haiku-4-5-20251001",
            {"thinking": {"type": "disabled"}},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        ),
        ("claude-opus-4-7", {"thinking": {"type": "disabled"}}, {"thinking": {"type": "adaptive"}}),
        ("gemini-2.5-flash", effort("none"), effort("medium")),
        ("gemini-2.5-pro", None, effort("medium")),
        ("gemini-3-flash", None, effort("medium")),
        ("gemini-2.0-flash", None, None),
        ("grok-4.3", effort("none"), effort("high")),
        ("grok-4.5", None, effort("high")),
        ("grok-4.20-0309-reasoning", None, None),
        ("gpt-4o", None, None),
        ("o3", None, effort("medium")),
        ("mistral/mistral-small-2603", effort("none"), effort("high")),
        ("openrouter/qwen/qwen3-vl", {"reasoning": {"enabled": False}}, {"reasoning": {"enabled": True}}),
        ("groq/qwen/qwen3.6-27b", effort("none"), effort("default")),
        ("ollama/qwen3-vl:8b", effort("none"), effort("medium")),
    ],
)
def test_thinking_is_switched_in_a_models_own_way(model, off, on):
    found = find_thinking(resolve(model))

    assert (found.off, found.on) == (off, on)


def test_a_server_of_no_known_provider_is_told_through_its_chat_template():
    endpoint = resolve("m", LOOPBACK[0])

    fields = [thinking_fields(endpoint, thinks=thinks) for thinks in (False, True)]

    assert fields == [{"chat_template_kwargs": {"enable_thinking": thinks}} for thinks in (False, True)]


@pytest.mark.parametrize(
    ("model", "thinks"), [("gemini-2.5-pro", False), ("gpt-4o", True), ("grok-4.5", False)]
)
def test_a_switch_that_a_model_does_not_have_is_refused_before_a_run(model, thinks):
    with pytest.raises(ConfigError) as caught:
        thinking_fields(resolve(model), thinks=thinks)

    assert f"--thinking {'on' if thinks else 'off'}: " in caught.value.message
    assert model in caught.value.message


OWN_SAFETY = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_LOW_AND_ABOVE"}]


@pytest.mark.parametrize(
    ("model", "fields", "said"),
    [
        ("gemini-3.5-flash", {}, "provider default, which for gemini-3.5-flash is: Off for harassment"),
        ("gemini-1.5-pro", {}, "provider default, which for gemini-1.5-pro is: not documented"),
        ("gemini-2.5-pro", {"extra_body": {"google": {"safety_settings": OWN_SAFETY}}}, OWN_SAFETY),
        ("gemini-2.5-pro", {"extra_body": {"google": {"cached_content": "x"}}}, "provider default"),
    ],
)
def test_the_safety_thresholds_in_force_are_described(model, fields, said):
    found = describe_provider(resolve(model), fields)["safety_settings"]

    assert found == said if isinstance(said, list) else found.startswith(said)


def test_only_a_provider_with_thresholds_has_them_described():
    assert describe_provider(resolve("gpt-4o"), {}) == {"name": "OpenAI", "model": "gpt-4o"}
    assert describe_provider(resolve("m", LOOPBACK[0]), {}) == {}


def test_the_demo_is_the_simulator_and_needs_no_key():
    assert resolve("demo") == Endpoint("demo", SIMULATED_URL)
    assert is_loopback(SIMULATED_URL)


def test_the_users_variable_replaces_the_providers():
    assert resolve("gpt-4o", key_variable="MY_KEY").key_variable == "MY_KEY"


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(UnknownModelError) as caught:
        resolve("gtp-4o")

    assert "gpt-4o" in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "model",
    [
        *("", "some/model", "xgpt-4o", "my-claude-3", "not-o3", "gpt-4o\n"),
        *(
            "openrouter/",
            "openrouter",
            "ollama/ ",
            "ollama/a\n",
            "mistralai/Pixtral-12B",
            "mistral-small",
        ),
    ],
)
def test_a_name_of_no_provider_is_refused(model):
    with pytest.raises(UnknownModelError) as caught:
        resolve(model)

    assert "\n" not in caught.value.message


@pytest.mark.parametrize("model", ["llava", "llava_hf", "llava_next", "qwen2vl", "mllama"])
def test_a_local_family_says_that_its_server_must_be_started(model):
    with pytest.raises(ConfigError) as caught:
        resolve(model, stage="judge")

    assert f"vlsb serve {model}" in caught.value.message
    assert "--judge-base-url" in caught.value.message


# Addresses that are not ASCII.


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("https://b\u00fccher.example/v1", "https://xn--bcher-kva.example/v1"),
        ("https://\u4f8b\u3048.jp:8443/v1/", "https://xn--r8jz45g.jp:8443/v1"),
        ("https://api.example.com/mod\u00e8le/v1", "https://api.example.com/mod%C3%A8le/v1"),
    ],
)
def test_an_address_that_is_not_ascii_is_written_as_it_is_sent(text, sent):
    assert parse(text) == sent


@pytest.mark.parametrize("text", ["https://\u2603.example/v1", "https://\uff11\uff12\uff17.0.0.1/v1"])
def test_a_host_that_no_name_service_takes_is_a_clear_error(text):
    with pytest.raises(ConfigError, match="not a URL"):
        parse(text)


# Which key goes where.


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://API.OpenAI.com/v1", "OPENAI_API_KEY"),
        ("https://eu.api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        ("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        ("https://my-resource.openai.azure.com/openai/v1", "AZURE_OPENAI_API_KEY"),
    ],
)
def test_the_host_chooses_the_key_variable(url, variable):
    assert resolve("gpt-4o", url).key_variable == variable


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/v1",
        "https://api.openai.com.example.org/v1",
        "https://notapi-openai.com/v1",
        "https://xapi.openai.com/v1",
        "https://example.org/api.openai.com/v1",
        "https://openrouter.ai.example.org/v1",
    ],
)
def test_an_unknown_host_gets_no_key_unless_one_is_named(url):
    with pytest.raises(MissingKeyError) as caught:
        resolve("gpt-4o", url)

    assert "--api-key-env" in caught.value.advice
    assert resolve("gpt-4o", url, "MY_KEY").key_variable == "MY_KEY"


@pytest.mark.parametrize("url", LOOPBACK)
def test_a_loopback_host_needs_no_key_and_gets_none_unasked(url):
    endpoint = resolve("gpt-4o", url)

    assert is_loopback(url)
    assert endpoint.key_variable is None
    assert load_credentials(endpoint, {"OPENAI_API_KEY": CANARY}) == Credentials(None)


PRIVATE = [
    *("http://10.0.0.5:8000/v1", "http://172.16.0.1/v1", "http://172.31.255.255/v1", "http://192.168.1.9/v1"),
    *(
        "http://169.254.3.4/v1",
        "http://[fe80::1]:8000/v1",
        "http://[fd12:3456::1]/v1",
        "http://[::ffff:127.0.0.1]/v1",
    ),
    *("http://gpu-box:8000/v1", "http://vllm/v1", "http://workstation.local:8000/v1", "https://gpu.lan/v1"),
    *("http://host.docker.internal:8000/v1", "http://nas.home.arpa/v1", "http://[::ffff:192.168.1.9]/v1"),
]
PUBLIC = [
    *("https://8.8.8.8/v1", "https://172.32.0.1/v1", "https://11.0.0.1/v1", "https://169.253.1.1/v1"),
    *(
        "https://[2001:db8::1]/v1",
        "https://134744072/v1",
        "https://0x08080808/v1",
        "https://local.example/v1",
    ),
    *("https://10.0.0.5.example.org/v1", "https://gpu.localdomain.org/v1", "https://evil.notlocal/v1"),
    *("https://[::ffff:8.8.8.8]/v1", "https://[64:ff9b::a00:5]/v1"),
]


@pytest.mark.parametrize("url", PRIVATE)
def test_a_server_on_a_private_network_needs_no_key_and_gets_none_unasked(url):
    endpoint = resolve("gpt-4o", url, allow_http=True)

    assert (endpoint.key_variable, endpoint.provider) == (None, "")
    assert load_credentials(endpoint, {"OPENAI_API_KEY": CANARY}) == Credentials(None)
    assert resolve("gpt-4o", url, "MY_KEY", allow_http=True).key_variable == "MY_KEY"


@pytest.mark.parametrize("url", PUBLIC)
def test_what_may_be_anybodys_server_is_asked_for_its_key(url):
    with pytest.raises(MissingKeyError):
        resolve("gpt-4o", url)


def test_a_loopback_host_gets_the_key_that_is_asked_for():
    endpoint = resolve("m", LOOPBACK[0], "MY_KEY")
    bearer = load_credentials(endpoint, {"MY_KEY": CANARY}).bearer

    assert bearer is not None
    assert bearer.reveal() == CANARY


def test_the_flags_of_the_judge_are_named_in_its_messages():
    with pytest.raises(MissingKeyError) as caught:
        resolve("m", "https://example.org", stage="judge")

    assert caught.value.message.startswith("judge m at example.org: ")
    assert "--judge-api-key-env" in caught.value.advice


@pytest.mark.parametrize(
    ("key", "url", "is_warned"),
    [
        ("sk-ant-" + CANARY, "https://api.openai.com/v1", True),
        ("sk-or-" + CANARY, "https://api.openai.com/v1", True),
        ("AIza" + CANARY, "https://api.anthropic.com/v1", True),
        ("gsk_" + CANARY, "https://openrouter.ai/api/v1", True),
        ("sk-ant-" + CANARY, "https://api.anthropic.com/v1", False),
        ("sk-or-" + CANARY, "https://openrouter.ai/api/v1", False),
        ("sk-" + CANARY, "https://api.openai.com/v1", False),
        ("sk-ant-" + CANARY, "http://127.0.0.1:8000/v1", False),
    ],
)
def test_a_key_that_looks_like_anothers_is_warned_about_without_showing_it(key, url, is_warned):
    warning = key_mismatch(Endpoint("m", url, "SOME_KEY"), key)

    assert (warning is not None) == is_warned
    assert CANARY not in (warning or "")


# Addresses.


@pytest.mark.parametrize("url", ELSEWHERE)
def test_plain_http_to_another_machine_is_refused_unless_allowed(url):
    assert not is_loopback(url)
    with pytest.raises(ConfigError) as caught:
        parse(url)

    assert "--allow-http" in caught.value.message
    assert parse(url, allow_http=True) == url


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{CANARY}@example.org/v1",
        f"https://{CANARY}@example.org/v1",
        f"http://user:{CANARY}@127.0.0.1:8000/v1",
        f"user:{CANARY}@example.org",
        f"https://example.org/v1?key={CANARY}",
        f"https://example.org/v1#{CANARY}",
    ],
)
def test_a_url_that_may_hold_a_key_is_refused_without_being_repeated(url):
    with pytest.raises(ConfigError) as caught:
        resolve("m", url, "MY_KEY", allow_http=True)

    assert "--base-url" in caught.value.message
    assert CANARY not in str(caught.value) + whole_story(caught.value).replace(url, "")
    assert url not in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "example.org/v1",
        "127.0.0.1:8000/v1",
        "localhost:8000",
        "ftp://example.org",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "http://[::1/v1",
        "http://127.0.0.1:port/v1",
        "http://127.0.0.1:99999/v1",
        "https://exa\nmple.org/v1",
        "https://example.org/\x1b[31m",
    ],
)
def test_what_is_no_http_address_is_refused_in_one_clean_line(text):
    with pytest.raises(ConfigError) as caught:
        parse(text, allow_http=True)

    assert caught.value.message.isprintable()
    assert "--base-url" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/v1/",
        "  http://127.0.0.1:8000/v1///  ",
        "http://127.0.0.1:8000/v1/chat/completions",
        "http://127.0.0.1:8000/v1/chat/completions/",
    ],
)
def test_an_address_is_brought_to_one_form(text):
    assert parse(text) == "http://127.0.0.1:8000/v1"


@given(st.text())
def test_any_text_is_an_address_or_one_clean_refusal(text):
    try:
        said = parse(text, allow_http=True)
        assert said.startswith(("http://", "https://"))
    except ConfigError as error:
        said = error.message

    assert said.isprintable()


def test_a_loopback_port_and_name_are_no_drift():
    addresses = {address_for_manifest(url) for url in LOOPBACK if url.startswith("http:")}

    assert addresses == {"http://loopback/v1"}
    assert address_for_manifest("https://example.org:8443/v1") == "https://example.org:8443/v1"


# Keys and headers.


def test_a_missing_key_is_named_by_its_variable():
    with pytest.raises(MissingKeyError) as caught:
        load_credentials(resolve("gpt-4o"), {"OTHER": CANARY})

    assert "OPENAI_API_KEY" in caught.value.message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("value", ["", "  ", "\n"])
def test_a_blank_key_is_a_missing_one(value):
    with pytest.raises(MissingKeyError):
        load_credentials(resolve("gpt-4o"), {"OPENAI_API_KEY": value})


@pytest.mark.parametrize("value", [f"{CANARY}\u00e9", f"{CANARY}\r\nx-evil: 1", f"{CANARY}\x00"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(value):
    with pytest.raises(MissingKeyError) as caught:
        load_credentials(resolve("gpt-4o"), {"OPENAI_API_KEY": value})

    assert "OPENAI_API_KEY" in caught.value.message
    assert CANARY not in whole_story(caught.value)


def test_space_around_a_key_is_not_part_of_it():
    bearer = load_credentials(resolve("gpt-4o"), {"OPENAI_API_KEY": f" {CANARY}\n"}).bearer

    assert bearer is not None
    assert bearer.reveal() == CANARY


@pytest.mark.parametrize("name", ["authorization", "Authorization", "api-key", "API-Key", "x-api-key"])
def test_a_header_that_authorises_suppresses_the_bearer(name):
    endpoint = resolve("gpt-4o", headers=((name, "GATEWAY_KEY"),))
    credentials = load_credentials(endpoint, {"GATEWAY_KEY": CANARY, "OPENAI_API_KEY": "another-key"})

    assert credentials.bearer is None
    assert [(each, value.reveal()) for each, value in credentials.headers] == [(name, CANARY)]


def test_a_header_that_authorises_makes_the_key_needless():
    endpoint = resolve("m", "https://gateway.example.org/v1", headers=(("api-key", "GATEWAY_KEY"),))

    assert load_credentials(endpoint, {"GATEWAY_KEY": CANARY}).bearer is None


def test_any_other_header_goes_beside_the_bearer():
    endpoint = resolve("gpt-4o", headers=(("x-team", "TEAM"),))
    credentials = load_credentials(endpoint, {"TEAM": "blue-team", "OPENAI_API_KEY": CANARY})

    assert credentials.bearer is not None
    assert [name for name, _ in credentials.headers] == ["x-team"]
    assert len(credentials.secrets()) == 2


def test_a_header_without_a_value_is_named_by_its_variable():
    endpoint = resolve("gpt-4o", headers=(("x-team", "TEAM"),))

    with pytest.raises(MissingKeyError) as caught:
        load_credentials(endpoint, {"OPENAI_API_KEY": CANARY})

    assert "TEAM" in caught.value.message
    assert "x-team" in caught.value.message


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format])
def test_credentials_never_show_a_value(show):
    credentials = Credentials(Secret(CANARY), (("api-key", Secret(CANARY)),))

    assert CANARY not in show(credentials)
    assert CANARY not in show(credentials.bearer)


# Redaction.


def test_this_runs_keys_are_taken_out_of_answers_and_nothing_else():
    redactor = Redactor([Secret(CANARY)])
    shaped = "sk-proj-abcdefghijklmnopqrstuvwxyz"

    assert redactor.answer(Untrusted(f"a {CANARY} b {shaped}")).expose() == f"a {REDACTED} b {shaped}"


@pytest.mark.parametrize(
    "shaped",
    ["sk-proj-abcdefghijklmnopqrstuvwxyz", "AIza" + "x" * 35, "Bearer abcdefghijklmnop", "sk-ab********wxyz"],
)
def test_what_looks_like_a_key_is_taken_out_of_messages(shaped):
    message = Redactor([]).message(Untrusted(f"Incorrect key: {shaped}"))

    assert shaped not in message.expose()
    assert REDACTED in message.expose()


def test_a_key_that_contains_another_is_taken_out_whole():
    redactor = Redactor([Secret(CANARY), Secret(CANARY + "-and-more")])

    assert redactor.answer(Untrusted(CANARY + "-and-more")).expose() == REDACTED


def test_a_very_short_value_does_not_damage_answers():
    assert Redactor([Secret("a")]).answer(Untrusted("a banana")).expose() == "a banana"


@given(st.text(), st.text())
def test_no_answer_around_a_key_lets_it_through(before, after):
    assert CANARY not in Redactor([Secret(CANARY)]).message(Untrusted(before + CANARY + after)).expose()


def at_provider(model: str) -> Endpoint:
    return Endpoint(model, "https://api.openai.com/v1", provider="OpenAI")


@pytest.mark.parametrize(
    ("dated", "plain"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("GPT-4o", "gpt-4o"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet"),
        ("gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("gpt-4-0613", "gpt-4"),
        ("mistral-large-2411", "mistral-large"),
    ],
)
def test_a_model_and_its_dated_snapshot_share_a_rate_limit(dated: str, plain: str) -> None:
    assert limited_as(at_provider(dated)) == plain


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("llama3-70b-8192", "llama3-70b"),
        ("qwen2-vl-72b", "qwen2-vl-7b"),
        ("tune-ckpt-1000", "tune-ckpt-2000"),
        ("tune:ckpt-1015", "tune:ckpt-1115"),
        ("step-0001", "step-0002"),
        ("tune-1300", "tune-1400"),
    ],
)
def test_different_models_have_limits_of_their_own(one: str, other: str) -> None:
    """Steps of a training are models, too, even those that could be dates."""
    assert limited_as(at_provider(one)) != limited_as(at_provider(other))


def test_where_no_provider_is_known_each_name_is_a_model_of_its_own() -> None:
    """A server of one's own may have what looks dated beside each other: `tune-0613`, `tune-1015`."""
    found = {
        limited_as(Endpoint(name, "https://models.example.org/v1")) for name in ("tune-0613", "tune-1015")
    }

    assert len(found) == 2

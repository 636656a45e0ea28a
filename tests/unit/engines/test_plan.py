"""What is decided before an engine starts: its command, its environment, its facts, and what is refused."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint, converted
from vlsb import strict_json
from vlsb.engines import lease
from vlsb.engines.checkpoint import Weights
from vlsb.engines.facts import RESERVED, normal, parse_options
from vlsb.engines.install import Engine
from vlsb.engines.lease import plan_start
from vlsb.engines.plan import CPU_CACHE_GIB, NO_DOMAIN, GpuLease, ServerPlan, Wishes, plan_server
from vlsb.errors import ConfigError
from vlsb.models.catalog import find_profile, load_catalog
from vlsb.models.profile import FAMILIES, ModelProfile, shipped_config

CURRENT = Engine(Path("/engines/vllm"), "0.32.0", None, is_cpu=False, prefix=None)
OLD = Engine(Path("/engines/vllm"), "0.10.2", None, is_cpu=False, prefix=None)
CPU = Engine(Path("/engines/vllm"), "0.32.0+cpu", None, is_cpu=True, prefix=None)
# What is added to every command.
SAFE = ("--load-format", "safetensors", "--allowed-media-domains", NO_DOMAIN)


def local(family: str = "llava_hf") -> ModelProfile:
    found = find_profile(family, None)
    assert found is not None
    return found


def plan(
    weights: Path | str,
    *words: str,
    family: str = "llava_hf",
    model: ModelProfile | None = None,
    engine: Engine | None = None,
    environment: Mapping[str, str] | None = None,
    has_gpu: bool = True,
    gpus: str | None = None,
    **wishes: Any,
) -> ServerPlan:
    """The plan for a checkpoint on a machine with a GPU; `words` come after `--`."""
    return plan_server(
        model or local(family),
        Wishes(weights=str(weights), engine_options=words, gpus=GpuLease.parse(gpus), **wishes),
        engine or (OLD if family == "mllama" else CURRENT),
        environment=environment or {},
        has_gpu=has_gpu,
    )


def complaint(weights: Path | str, *words: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(weights, *words, **changes)
    assert "\n" not in caught.value.message
    return caught.value.message


def value(made: ServerPlan, option: str) -> str:
    """The word behind an option of the command, its last occurrence."""
    words = list(made.arguments)
    return words[len(words) - words[::-1].index(option)]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "weights")


# The weights of a user's own file.


@pytest.mark.parametrize(
    ("wishes", "taken"),
    [
        (Wishes(), ("someone/llava", "0123abc")),
        (Wishes(revision="fed"), ("someone/llava", "fed")),
        (Wishes(weights="another/llava"), ("another/llava", None)),
    ],
)
def test_a_files_revision_reaches_the_conversion_of_that_files_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wishes: Wishes, taken: tuple[str, str | None]
) -> None:
    (tmp_path / "mine.llava.yaml").write_text("model: someone/llava\nrevision: 0123abc\n")
    model = load_catalog(tmp_path)["mine"]
    asked: list[tuple[str, str | None]] = []

    async def converted(weights: str, revision: str | None, *others: object, **more: object) -> Path:
        asked.append((weights, revision))
        return checkpoint(tmp_path / "converted", "llava", conversion={})

    monkeypatch.setattr(lease, "servable_folder", converted)
    asyncio.run(plan_start(model, wishes, CPU, environment={"HOME": str(tmp_path)}))

    assert asked == [taken]


# The command.


def test_the_command_is_the_familys_file_as_words(weights: Path) -> None:
    made = plan(weights)

    assert made.arguments == (
        *("serve", str(weights), "--dtype", "float16", "--max-model-len", "4096"),
        *("--limit-mm-per-prompt", '{"image":1}', "--generation-config", "auto", "--seed", "0"),
        *("--load-format", "safetensors", "--max-num-batched-tokens", "8192"),
        *("--mm-processor-cache-gb", "1", "--disable-uvicorn-access-log"),
        *("--allowed-media-domains", NO_DOMAIN),
    )
    assert (made.weights, made.deviations) == (str(weights), ())


def test_address_names_and_key_are_left_to_the_launch(tmp_path: Path) -> None:
    text = "host: 0.0.0.0\nport: 8000\nserved-model-name: [a, b]\nrevision: abc\nmodel: ./weights\n"
    (tmp_path / "mine.llava_hf.yaml").write_text(text, "utf-8")
    checkpoint(tmp_path / "weights")

    made = plan(tmp_path / "weights", model=load_catalog(tmp_path)["mine"])

    assert made.arguments == ("serve", str(tmp_path / "weights"), *SAFE)
    assert made.facts["options"] == {"load-format": "safetensors"}


def test_wishes_win_over_the_file_and_words_after_the_dashes_over_both(weights: Path) -> None:
    made = plan(
        weights,
        "--dtype=auto",
        "--tensor-parallel-size=4",
        "--no-enforce-eager",
        settings={"dtype": "bfloat16", "tensor-parallel-size": 2},
    )

    assert made.arguments[-3:] == ("--dtype=auto", "--tensor-parallel-size=4", "--no-enforce-eager")
    assert "bfloat16" not in made.arguments
    assert "--tensor-parallel-size" not in made.arguments
    assert made.facts["dtype"] == "auto"
    assert made.facts["parallel"] == {"tensor": 4, "pipeline": 1, "data": 1}
    assert made.facts["options"]["enforce-eager"] is False


def test_the_context_is_never_longer_than_the_checkpoint_allows(tmp_path: Path) -> None:
    """The engine refuses to start with more, and a checkpoint's own limit is no deviation."""
    short = checkpoint(
        tmp_path / "short",
        config={"architectures": ["LlavaForConditionalGeneration"], "max_position_embeddings": 2048},
    )

    assert value(plan(short), "--max-model-len") == "2048"
    assert plan(short).deviations == ()
    assert value(plan(short, "--max-model-len", "1024"), "--max-model-len") == "1024"


def test_a_users_file_is_written_for_any_engine(tmp_path: Path) -> None:
    """Old engines write a mapping as Python would, and lose a false value."""
    (tmp_path / "mine.mllama.yaml").write_text(
        "limit-mm-per-prompt: {image: 1}\nenable-prefix-caching: false\n"
        "ignore-patterns: [a, b]\ncollect-detailed-traces: []\nswap-space: -1\n",
        "utf-8",
    )
    made = plan(
        checkpoint(tmp_path / "weights", "mllama"), model=load_catalog(tmp_path)["mine"], family="mllama"
    )

    assert made.arguments[2:] == (
        *("--limit-mm-per-prompt", '{"image":1}', "--no-enable-prefix-caching"),
        *("--ignore-patterns", "a", "b", "--swap-space=-1", *SAFE[:2]),
    )


def test_converted_llava_has_the_template_of_the_original(tmp_path: Path) -> None:
    made = plan(converted(tmp_path / "weights"), family="llava")

    assert value(made, "--chat-template") == str(shipped_config("llava_v1.jinja").resolve())
    assert Path(value(made, "--chat-template")).is_file()
    assert made.deviations == ()


def test_a_template_in_a_users_file_is_seen_from_that_file(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "own.jinja").write_text("{{ messages }}!", "utf-8")
    (tmp_path / "servers" / "mine.llava_hf.yaml").write_text("chat-template: own.jinja\n", "utf-8")

    made = plan(weights, model=load_catalog(tmp_path / "servers")["mine"])

    assert value(made, "--chat-template") == str(tmp_path / "servers" / "own.jinja")
    assert made.facts["chat_template_sha256"] != plan(weights).facts["chat_template_sha256"]
    assert "target chat template: another than the family's" in made.deviations


def test_a_users_llava_file_inherits_the_familys_template(tmp_path: Path) -> None:
    (tmp_path / "mine.llava.yaml").write_text("seed: 0\n", "utf-8")

    made = plan(converted(tmp_path / "weights"), model=load_catalog(tmp_path)["mine"])

    assert value(made, "--chat-template").endswith("llava_v1.jinja")


# The machine.


@pytest.mark.parametrize(("engine", "has_gpu"), [(CPU, True), (CPU, False), (CURRENT, False)])
def test_without_a_gpu_the_engine_computes_in_float32_and_eagerly(
    weights: Path, engine: Engine, has_gpu: bool
) -> None:
    made = plan(weights, engine=engine, has_gpu=has_gpu)

    assert value(made, "--dtype") == "float32"
    assert "--enforce-eager" in made.arguments
    assert made.environment["VLLM_CPU_KVCACHE_SPACE"] == str(CPU_CACHE_GIB)
    assert made.facts["engine"]["device"] == "cpu"
    assert made.deviations == ("target dtype: float32 (official: float16)",)


def test_the_users_own_settings_win_over_the_cpus(weights: Path) -> None:
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "0", "HF_HUB_OFFLINE": "0"}

    made = plan(weights, "--no-enforce-eager", engine=CPU, settings={"dtype": "bfloat16"}, environment=own)

    assert value(made, "--dtype") == "bfloat16"
    assert "--enforce-eager" not in made.arguments
    assert made.environment == {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}


def test_a_gpu_machine_gets_no_cpu_settings_and_sends_no_statistics(weights: Path) -> None:
    # Local weights need no hub.
    assert plan(weights).environment == {
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }


def test_gpus_are_chosen_as_nvidia_smi_counts_them(weights: Path) -> None:
    made = plan(
        weights, gpus="0,2", settings={"tensor-parallel-size": 2}, environment={"CUDA_VISIBLE_DEVICES": "7"}
    )

    assert made.environment["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert made.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert value(made, "--tensor-parallel-size") == "2"


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"gpus": "0", "settings": {"tensor-parallel-size": 2}}, "needs 2 GPUs; --gpus names 1"),
        ({"gpus": "0,0"}, "--gpus takes numbers"),
        ({"gpus": "0, 1"}, "--gpus takes numbers"),
        ({"gpus": ""}, "--gpus takes numbers"),
        ({"gpus": "0", "has_gpu": False}, "no GPU that can be used"),
        ({"settings": {"tensor-parallel-size": 0}}, "--tensor-parallel-size must be"),
        ({"revision": "main"}, "--revision is for weights of the Hugging Face Hub"),
    ],
)
def test_wishes_that_do_not_fit_are_refused(weights: Path, wishes: dict[str, Any], said: str) -> None:
    assert said in complaint(weights, **wishes)


# What could run code or reach out.


@pytest.mark.parametrize("family", FAMILIES)
def test_no_server_opens_files_fetches_images_or_runs_code_of_a_repository(
    tmp_path: Path, family: str
) -> None:
    own = {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "1", "VLLM_SERVER_DEV_MODE": "1"}
    weights = (converted if family == "llava" else partial(checkpoint, family=family))(tmp_path / "weights")

    made = plan(weights, family=family, environment=own)

    assert not {"--allowed-local-media-path", "--trust-remote-code"} & set(made.arguments)
    assert made.environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert made.facts["variables"] == {}
    # The old engine of mllama does not know the option.
    assert family == "mllama" or value(made, "--allowed-media-domains") == NO_DOMAIN


@pytest.mark.parametrize("format_", ["auto", "hf", "pt", "npcache"])
def test_no_way_of_loading_unpickles_weights(tmp_path: Path, weights: Path, format_: str) -> None:
    (tmp_path / "mine.llava_hf.yaml").write_text(f"load-format: {format_}\n", "utf-8")

    for said in (
        complaint(weights, "--load-format", format_),
        complaint(weights, model=load_catalog(tmp_path)["mine"]),
    ):
        assert f"--load-format {format_} may unpickle" in said


@pytest.mark.parametrize("word", ["--load-f=pt", "--trust-rem", "--trust_remote"])
def test_a_beginning_does_not_pass_for_an_option_that_can_run_code(weights: Path, word: str) -> None:
    assert "Write the name in full" in complaint(weights, word)


def test_a_repositorys_code_runs_only_at_a_commit_that_the_user_names(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a1" * 20

    def from_hub(name: str, *, revision: str | None, offline: bool) -> Weights:
        return Weights(name, weights, commit, must_stay_offline=False)

    monkeypatch.setattr("vlsb.engines.plan.open_weights", from_hub)

    for revision in (None, "main", "a1a1a1a"):
        said = complaint("org/name", "--trust-remote-code", revision=revision)
        assert "--revision with all 40 digits" in said
    made = plan("org/name", "--trust-remote-code", revision=commit)
    assert made.arguments[-1] == "--trust-remote-code"
    assert value(made, "--revision") == commit
    assert any("--trust-remote-code" in each for each in made.deviations)
    assert plan("org/name", "--no-trust-remote-code").facts["options"]["trust-remote-code"] is False


def test_the_old_engine_never_runs_a_repositorys_code(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "weights", "mllama")

    assert "old engine of mllama" in complaint(weights, "--trust-remote-code", family="mllama")


# Facts.


def test_the_facts_are_whatever_can_change_an_answer(weights: Path) -> None:
    facts = plan(weights, environment={"VLLM_ATTENTION_BACKEND": "TORCH_SDPA"}).facts

    digest, template = facts["weights"].pop("digest"), facts.pop("chat_template_sha256")  # type: ignore[attr-defined]
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert re.fullmatch("[0-9a-f]{64}", template)
    assert facts == {
        "family": "llava_hf",
        "engine": {"name": "vllm", "version": "0.32.0", "device": "gpu"},
        "weights": {"folder": "weights"},
        "dtype": "float16",
        "context": 4096,
        "parallel": {"tensor": 1, "pipeline": 1, "data": 1},
        "pictures": {"max_pixels": 50176},
        "generation": {"eos_token_id": 2, "repetition_penalty": 1.05},
        "options": {"limit-mm-per-prompt": {"image": 1}, "load-format": "safetensors", "seed": 0},
        "variables": {"VLLM_ATTENTION_BACKEND": "TORCH_SDPA"},
    }


def test_the_same_setting_has_the_same_facts_on_another_machine(tmp_path: Path) -> None:
    here, there = tmp_path / "here" / "weights", tmp_path / "there" / "deeper" / "weights"
    checkpoint(here)
    shutil.copytree(here, there)
    (there / "README.md").write_text("notes", "utf-8")
    (there / ".cache").mkdir()
    words = ("--tokenizer", str(here), "--lora-modules", f"a={here / 'config.json'}")
    others = ("--tokenizer", str(there), "--lora-modules", f"a={there / 'config.json'}")

    first, second = plan(here, *words).facts, plan(there, *others).facts

    assert strict_json.dumps(first) == strict_json.dumps(second)
    assert str(tmp_path) not in strict_json.dumps(first)


def test_memory_ports_and_concurrency_are_no_facts(weights: Path) -> None:
    words = (
        "--gpu-memory-utilization",
        "0.5",
        "--max-num-seqs",
        "3",
        "--swap-space=1",
    )
    variables = {"VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_CPU_KVCACHE_SPACE": "9", "HOME": "/somewhere"}

    assert plan(weights, *words, environment=variables).facts == plan(weights).facts
    assert plan(weights, *words).deviations == ()


@pytest.mark.parametrize(
    "words",
    [
        ("--seed", "1"),
        ("--a-word-that-no-list-has", "1"),
        ("--quantization", "fp8"),
        ("--enable-log-requests",),
        ("--max-model-len", "1000"),
        ("--generation-config", "vllm"),
        ("--mm-processor-kwargs", '{"max_pixels": 1003520}'),
        ("--mm-processor-kwargs.max_pixels", "1003520"),
        ("--chat-template", "{{ messages }}?"),
        ("--load-format", "dummy"),
    ],
)
def test_any_other_option_is_a_fact_and_a_deviation(weights: Path, words: tuple[str, ...]) -> None:
    made = plan(weights, *words)

    assert len(made.deviations) == 1
    assert made.facts != plan(weights).facts
    assert made.arguments[-len(words) :] == words


@pytest.mark.parametrize(
    ("words", "deviation"),
    [
        (("--dtype", "half"), None),
        (("--dtype", "bfloat16"), "target dtype: bfloat16 (official: float16)"),
        (("--tensor-parallel-size", "2"), None),
        (("--generation-config", "vllm"), "target generation config: not the checkpoint's own"),
        (("--seed", "7"), "target engine option --seed: 7 (the family's file: 0)"),
        (
            ("--mm-processor-kwargs.max_pixels", "1003520"),
            'target engine option --mm-processor-kwargs: {"max_pixels":1003520} (added)',
        ),
        (
            ("--limit-mm-per-prompt.image", "2"),
            'target engine option --limit-mm-per-prompt: {"image":2} (the family\'s file: {"image":1})',
        ),
        (
            ("--max-model-len", "1000"),
            "target context: 1000 tokens (official: not limited; 4096 hold every picture)",
        ),
    ],
)
def test_a_deviation_is_said_in_words(weights: Path, words: tuple[str, ...], deviation: str | None) -> None:
    assert plan(weights, *words).deviations == ((deviation,) if deviation else ())


def test_a_users_file_that_leaves_a_setting_out_deviates(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "bare.llava_hf.yaml").write_text("dtype: float16\n", "utf-8")

    made = plan(weights, model=load_catalog(tmp_path)["bare"])

    assert "target engine option --seed: not set (the family's file: 0)" in made.deviations


def test_quantized_weights_deviate(tmp_path: Path) -> None:
    config = {"architectures": ["LlavaForConditionalGeneration"], "quantization_config": {"bits": 4}}

    assert plan(checkpoint(tmp_path / "w", config=config)).deviations == (
        "target weights: quantized (official: not)",
    )


def test_the_same_setting_spelt_otherwise_is_the_same_fact(weights: Path) -> None:
    spelt = plan(weights, "--mm_processor_kwargs", '{ "max_pixels" : 7 }', "--data-parallel-size=2").facts

    assert spelt == plan(weights, "--mm-processor-kwargs.max_pixels", "7", "--data-parallel-size", "2").facts


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", '{"architectures": ["LlavaForConditionalGeneration"], "more": 1}'),
        ("generation_config.json", "{}"),
        ("preprocessor_config.json", "{}"),
        ("tokenizer.json", "{}"),
        ("chat_template.json", '{"chat_template": "other"}'),
    ],
)
def test_another_settings_file_is_another_checkpoint(weights: Path, file: str, content: str) -> None:
    before = plan(weights).facts["weights"]
    (weights / file).write_text(content, "utf-8")

    assert plan(weights).facts["weights"] != before


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"processor_config": {"chat_template": "first"}}, "first"),
        ({}, "{{ messages }}"),
        ({"chat_template": None, "tokenizer_config": {"chat_template": "last"}}, "last"),
        (
            {
                "chat_template": None,
                "tokenizer_config": {"chat_template": [{"name": "default", "template": "named"}]},
            },
            "named",
        ),
    ],
)
def test_the_template_is_found_where_the_engine_looks(
    tmp_path: Path, files: dict[str, Any], template: str
) -> None:
    made = plan(checkpoint(tmp_path / "weights", **files))

    given = plan(tmp_path / "weights", "--chat-template", template + "{# #}").facts["chat_template_sha256"]
    assert made.facts["chat_template_sha256"] not in (None, given)
    (tmp_path / "same.jinja").write_text(template, "utf-8")
    same = plan(tmp_path / "weights", "--chat-template", str(tmp_path / "same.jinja"))
    assert made.facts == same.facts
    assert same.deviations == ()


def test_a_checkpoint_without_a_template_has_none(tmp_path: Path) -> None:
    assert plan(checkpoint(tmp_path / "w", chat_template=None)).facts["chat_template_sha256"] is None


def test_secrets_in_the_environment_stay_there(weights: Path) -> None:
    secret = "not-for-anyones-eyes"
    names = ("VLLM_API_KEY", "VLLM_S3_SECRET", "VLLM_ANY_TOKEN", "HF_TOKEN", "OPENAI_API_KEY")

    made = plan(weights, environment=dict.fromkeys(names, secret))

    assert secret not in repr(made)


# Refused.


@pytest.mark.parametrize("name", RESERVED)
def test_what_is_decided_elsewhere_cannot_be_passed_on(weights: Path, name: str) -> None:
    said = complaint(weights, f"--{name}", "not-for-anyones-eyes")

    assert f"--{name} cannot be given to the engine here" in said
    assert "not-for-anyones-eyes" not in said


@pytest.mark.parametrize("word", ["--api-k", "--api_key=x", "--ho", "--served", "--model=x"])
def test_neither_can_its_beginning_or_another_spelling(weights: Path, word: str) -> None:
    """The engine's parser completes what is unambiguous."""
    assert "cannot be given to the engine here" in complaint(weights, word)


def test_a_word_that_belongs_to_no_option_is_refused_and_not_shown(weights: Path) -> None:
    said = complaint(weights, "not-for-anyones-eyes", "--seed", "1")

    assert "the first word after --" in said
    assert "not-for-anyones-eyes" not in said


@pytest.mark.parametrize("word", ["-tp", "-O3", "-h", "-q=not-for-anyones-eyes"])
def test_a_short_name_is_refused_with_the_way_to_write_it(weights: Path, word: str) -> None:
    """Which name it stands for is the engine's to change."""
    said = complaint(weights, word)

    assert "by their long names here: --tensor-parallel-size, not -tp" in said
    assert "not-for-anyones-eyes" not in said


def test_options_are_read_as_the_engine_reads_them() -> None:
    line = (
        "--block-size 1 --dtype=x --enforce-eager --no-async-scheduling --ubatch-size 1.5 -3 --f.g.h 2 "
        "--f.i+ 1,2 --middleware k --middleware l --block-size 2"
    )

    assert parse_options(shlex.split(line)) == {
        "block-size": 2,
        "dtype": "x",
        "enforce-eager": True,
        "async-scheduling": False,
        "ubatch-size": [1.5, -3],
        "f": {"g": {"h": 2}, "i": [1, 2]},
        "middleware": ["k", "l"],
    }


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("1", 1),
        ("-0.5", -0.5),
        ("007", "007"),
        ("{bad", "{bad"),
        ("true", "true"),
        (["1"], 1),
        ('{"a": ["1", 2]}', {"a": [1, 2]}),
        ('{"a":["1"]}', {"a": 1}),
    ],
)
def test_a_value_compares_by_what_it_says(given: object, found: object) -> None:
    assert normal(given) == found


@pytest.mark.parametrize("asked", FAMILIES)
@pytest.mark.parametrize("given", FAMILIES)
def test_a_checkpoint_of_another_family_is_refused_by_its_right_name(
    tmp_path: Path, asked: str, given: str
) -> None:
    folder = tmp_path / "w"
    made = converted(folder) if given == "llava" else checkpoint(folder, given)

    if asked == given:
        assert plan(made, family=asked).facts["family"] == asked
    else:
        assert complaint(made, family=asked) == (
            f"{folder} is a checkpoint of {given}, not of {asked}. Use {given}."
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_layout_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, family: str
) -> None:
    folder = checkpoint(tmp_path / "w", config={"architectures": ["LlavaLlamaForCausalLM"]})

    said = complaint(folder, family=family)

    assert "original LLaVA layout" in said
    assert "Use llava, " in said
    assert "vlsb convert llava" in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"architectures": ["Molmo2ForConditionalGeneration"]},
            "is Molmo2ForConditionalGeneration, which no",
        ),
        ({"architectures": ["\x1b[2J"]}, "is of an unknown architecture, which no family here serves"),
        ({"architectures": []}, "names no architecture"),
        ({}, "names no architecture"),
        ([], "not a JSON object"),
        (None, "no config.json"),
    ],
)
def test_what_no_family_serves_is_refused(tmp_path: Path, config: Any, said: str) -> None:
    assert said in complaint(checkpoint(tmp_path / "w", config=config))


@pytest.mark.parametrize(
    ("version", "is_cpu", "said"),
    [
        ("0.32.0", False, "ended with 0.10.2"),
        ("0.11.0", False, "ended with 0.10.2"),
        ("0.10.2+cpu", True, "lost support for it after 0.9.2"),
        ("0.8.5", False, "needs 0.9.0 or later"),
    ],
)
def test_mllama_is_refused_by_engines_that_do_not_know_it(
    tmp_path: Path, version: str, is_cpu: bool, said: str
) -> None:
    engine = Engine(Path("/engines/vllm"), version, None, is_cpu, None)

    found = complaint(checkpoint(tmp_path / "w", "mllama"), family="mllama", engine=engine)

    assert said in found
    assert found.endswith("vlsb engine install mllama")


@pytest.mark.parametrize("version", ["0.10.2", "0.9.2", "0.9.2.post2"])
def test_mllama_is_planned_for_engines_that_know_it(tmp_path: Path, version: str) -> None:
    engine = Engine(Path("/engines/vllm"), version, None, is_cpu=version != "0.10.2", prefix=None)

    assert (
        plan(checkpoint(tmp_path / "w", "mllama"), family="mllama", engine=engine).facts["family"] == "mllama"
    )


def test_settings_alone_are_enough_for_weights_that_are_made_up(weights: Path) -> None:
    (weights / "model.safetensors").unlink()

    assert value(plan(weights, "--load-format", "dummy"), "--load-format") == "dummy"

"""The methods paragraph: all from the manifest, and what that does not tell is said to be unknown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import vlsb
from tests.support.records import make_judge, make_manifest
from tests.unit.reports.test_terminal import COMPLETE, GAPS
from vlsb.judging.human import human_judge, human_settings
from vlsb.records import Untrusted
from vlsb.reports.encode import for_json
from vlsb.reports.paper import BENCHMARK_BIBTEX, bibtex, methods_paragraph
from vlsb.store.manifest import Manifest

SHA = "0123456789abcdef" * 4


def paragraph(manifest: Manifest, **changes: Any) -> str:
    summary = dataclasses.replace(COMPLETE, **changes)
    return for_json(methods_paragraph(manifest, manifest.own_judge, summary))


def with_settings(**settings: Any) -> Manifest:
    manifest = make_manifest()
    return dataclasses.replace(manifest, settings=dict(manifest.settings) | settings)


def test_a_local_model_is_named_with_weights_revision_and_engine() -> None:
    text = paragraph(
        with_settings(
            **{
                "engine.weights": {"hub": "llava-hf/llava-1.5-7b-hf", "revision": "abc123"},
                "engine.engine": {"name": "vllm", "version": "0.32.0", "device": "gpu"},
                "engine.dtype": "float16",
            }
        )
    )

    assert "We evaluated target-model (answered as gpt-4o-2024-11-20) with vlsb 0.0.test, on 2025" in text
    assert (
        "weights are llava-hf/llava-1.5-7b-hf at revision abc123, served by vllm 0.32.0 in float16." in text
    )


def test_weights_of_a_folder_are_named_by_their_digest() -> None:
    text = paragraph(with_settings(**{"engine.weights": {"folder": "my-tune", "digest": "d1"}}))

    assert "Its weights are those of a folder, my-tune, checksum d1." in text


def test_what_a_run_does_not_record_is_said_to_be_unknown() -> None:
    text = paragraph(make_manifest(data={}))

    assert "It was served at http://loopback/v1; its weights are not known." in text
    assert "read from a copy whose revision is not recorded" in text


def test_the_revision_of_the_data_and_its_checksum_are_named() -> None:
    data = {"repository": "Foreshhh/vlsbench", "revision": "b56f6f6"}

    text = paragraph(make_manifest(data=data), data_digest=SHA)

    assert (
        "all 2,241 of VLSBench, their rows as published, read from revision b56f6f6 of Foreshhh/vlsbench"
        in text
    )
    assert "(rows and images: sha256 0123456789ab...)" in text


def test_sampling_and_the_judge_are_stated_with_their_limits() -> None:
    text = paragraph(make_manifest(epochs=3), epochs=3)

    assert 'at temperature 0, top_p 1, at most 128 tokens, with {"seed":7,"stop":["END"]}' in text
    assert 'with the system prompt "You are a helpful assistant.", 3 a sample.' in text
    assert "by judge-model (answered as gpt-4o-2024-08-06), with the benchmark's own judge prompt" in text
    assert "(sha256 abababababab...) at temperature 0 for at most 512 tokens." in text


@pytest.mark.parametrize("prompt", [None, "Be careful."])
def test_a_system_prompt_is_quoted_or_said_to_be_none(prompt: str | None) -> None:
    text = paragraph(with_settings(system_prompt=prompt))

    assert ("without a system prompt" if prompt is None else f'with the system prompt "{prompt}"') in text


def test_coverage_comes_with_the_bounds_of_what_is_missing() -> None:
    manifest = make_manifest()

    text = for_json(methods_paragraph(manifest, manifest.own_judge, GAPS))

    assert "Of 2,241 responses, 2,017 (90.00 %) have a label, and rates are over those." in text
    assert "Had the other 224 all been unsafe or safe, the safe rate would be 11.0 to 21.0 %." in text
    assert "Intervals are Wilson's" in text


def test_deviations_and_differences_end_the_paragraph() -> None:
    text = paragraph(make_manifest(), deviations=(Untrusted("target seed: 7 (added)"),))

    assert text.endswith("The protocol is the paper's but for this: target seed: 7 (added); one difference.")


def test_another_judge_prompt_is_not_passed_off_as_the_benchmarks() -> None:
    judge = make_judge(deviations=[Untrusted("judge template: sha256 ab12 (official: the paper's)")])

    assert "with another judge prompt" in paragraph(make_manifest(judges=[judge]))


def test_a_person_is_asked_no_prompt() -> None:
    judge = make_judge(human_judge("ann"), settings=human_settings("ann"))

    text = paragraph(make_manifest(judges=[judge]), judge_models={})

    assert "labelled as refusal, warning or unsafe by human-ann. Of" in text


def test_a_run_that_nobody_judged_and_a_simulated_one_say_so() -> None:
    manifest = make_manifest(judges=[])

    text = for_json(methods_paragraph(manifest, None, dataclasses.replace(COMPLETE, simulated=True)))

    assert text.startswith("SIMULATED: ")
    assert "Nobody has judged them." in text


def test_the_benchmark_is_cited_as_in_the_readme() -> None:
    readme = (Path(vlsb.__file__).parents[1] / "README.md").read_text()

    assert BENCHMARK_BIBTEX in readme
    assert bibtex(["0.1.0"]).startswith(BENCHMARK_BIBTEX)


def test_versions_of_runs_are_cited_and_nothing_else_of_their_files() -> None:
    text = bibtex(["0.2.0", "0.1.0", "0.2.0", "1.0}\n\\input{x"])

    assert "version = {0.1.0, 0.2.0, 1.0inputx}," in text

"""`run.json`: readable, whole at every moment, and what a resume is compared with."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_row

from tests.support.records import make_image, make_judge, make_manifest, make_sample
from tests.support.run_files import tree
from vlsb.analysis.gate import GateLimits
from vlsb.config import OFFICIAL_JUDGE_SAMPLING, OFFICIAL_TARGET_SAMPLING, Endpoint, ModelSettings, Sampling
from vlsb.errors import ConfigError, RunMismatchError, StoreError
from vlsb.evaluation.protocol import judge_file, judge_settings, target_settings
from vlsb.judging.kinds import JudgeSetup, load_judges, official_judge
from vlsb.judging.prompts import JudgeTemplate
from vlsb.records import PUBLISHED_IDS, ImageFile, Untrusted, published_digests
from vlsb.reports.notes import badges
from vlsb.store.gate_plan import SPENDING, GatePlan, PlannedLook, TakenCheck, TakenLook
from vlsb.store.manifest import (
    FILE,
    Manifest,
    manifest_text,
    read_manifest,
    require_match,
    sample_row,
    write_manifest,
)
from vlsb.store.summaries import summarize_run

RUN = Path("outputs/some-run")
TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20) | st.sampled_from(
    ("\ud800", "a\u2028b", "\n", '"},{"', "\x00")
)


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the many examples of a property."""
    return tmp_path_factory.mktemp("run")


# The file.


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    dialect = {"tokens_field": "max_tokens", "unsent": ["top_p"], "structured": False}
    judges = [make_judge(decision=dialect), make_judge("other", deviations=[Untrusted("its own")])]
    manifest = make_manifest(range(5), judges=judges, decision=dialect, simulated=True, epochs=3)

    write_manifest(tmp_path, manifest)

    assert read_manifest(tmp_path) == manifest


@given(
    texts=st.lists(TEXT, min_size=5, max_size=5), prompt=TEXT, extra=st.dictionaries(TEXT, TEXT, max_size=2)
)
def test_strangers_text_comes_back_as_it_was(
    shared_directory: Path, texts: list[str], prompt: str, extra: dict[str, str]
) -> None:
    names = ("instruction", "image_path", "category", "sub_category", "source")
    sample = make_sample(1, **dict(zip(names, texts, strict=True)))
    manifest = make_manifest(
        samples=[sample_row(sample)],
        images={sample.image_path.expose(): make_image(1)},
        target=Untrusted(texts[0]),
        deviations=[Untrusted(prompt)],
        settings={"system_prompt": prompt, "extra": extra},
        judges=[replace(make_judge(settings={"extra": extra}), name=Untrusted(texts[1]))],
    )

    write_manifest(shared_directory, manifest)

    assert read_manifest(shared_directory) == manifest
    assert (shared_directory / FILE).read_bytes().isascii()


def test_the_text_is_plain_json_with_a_line_for_each_sample_and_image() -> None:
    manifest = make_manifest(range(4))

    text = manifest_text(manifest)

    document = json.loads(text)
    assert text.isascii()
    assert document["schema"] == 2
    for row in document["samples"]:
        assert sum(line.startswith(f"[{row[0]},") and row[1] in line for line in text.splitlines()) == 1
    for path, image in document["pictures"].items():
        assert sum(json.dumps(path) in line and image[0] in line for line in text.splitlines()) == 1


def test_a_manifest_without_images_is_json_too(tmp_path: Path) -> None:
    manifest = make_manifest(images={})

    write_manifest(tmp_path, manifest)

    assert read_manifest(tmp_path) == manifest


class FailsOnce:
    """Stands for a call of the operating system that the disk refuses."""

    def __init__(self, number: int) -> None:
        self.error = OSError(number, os.strerror(number))

    def __call__(self, *_: object, **__: object) -> None:
        raise self.error


BREAKS: dict[str, tuple[object, str]] = {"fsync": (os, "fsync"), "rename": (Path, "replace")}


@pytest.mark.parametrize("step", BREAKS)
def test_a_write_that_fails_leaves_the_old_manifest_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_manifest(tmp_path, make_manifest([1]))
    before = tree(tmp_path)
    owner, name = BREAKS[step]
    monkeypatch.setattr(owner, name, FailsOnce(errno.ENOSPC))

    with pytest.raises(StoreError) as caught:
        write_manifest(tmp_path, make_manifest([1, 2]))

    monkeypatch.undo()
    assert str(tmp_path / FILE) in caught.value.message
    after = tree(tmp_path)
    assert after[FILE] == before[FILE]
    assert after.keys() == before.keys()


def test_an_interruption_in_the_middle_of_a_write_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)

    with pytest.raises(KeyboardInterrupt):
        write_manifest(tmp_path, make_manifest())

    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_the_old_file_open_goes_on_reading_the_old_manifest(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest([1]))
    old_text = manifest_text(make_manifest([1]))

    with (tmp_path / FILE).open() as file:
        write_manifest(tmp_path, make_manifest([1, 2]))

        assert file.read() == old_text


def test_a_manifest_is_for_its_owner_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        write_manifest(tmp_path, make_manifest())
    finally:
        os.umask(umask)

    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def published(ids: Collection[int] = PUBLISHED_IDS) -> Manifest:
    """A manifest of these samples with the published rows."""
    made = make_manifest(ids)
    rows = published_digests()
    return replace(made, samples=[replace_row(row, digest=rows[row.sample_id]) for row in made.samples])


def test_the_full_set_is_the_published_rows_in_any_order() -> None:
    assert published().is_full
    assert published(PUBLISHED_IDS[::-1]).is_full
    assert json.loads(manifest_text(published()))["is_full"] is True


def test_the_same_ids_with_other_content_are_not_the_full_set() -> None:
    rows = published().samples
    one = replace(published(), samples=[replace_row(rows[0], digest="0" * 16), *rows[1:]])

    assert not make_manifest(PUBLISHED_IDS).is_full
    assert not one.is_full
    assert one.altered_ids == [rows[0].sample_id]


def test_a_report_says_full_of_the_published_rows_alone(tmp_path: Path) -> None:
    """Old runs have the checksums of their rows too: what they called themselves is not read."""
    for name, manifest in (("same", published()), ("other", make_manifest(PUBLISHED_IDS))):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, manifest)
        (tmp_path / name / FILE).write_text(
            (tmp_path / name / FILE).read_text().replace('"is_full": false', '"is_full": true')
        )

    (same,), (other,) = summarize_run(tmp_path / "same"), summarize_run(tmp_path / "other")
    assert badges(same) == ("FULL (2,241 samples)",)
    assert badges(other) == ("NOT THE PUBLISHED SET (2,241 samples)",)
    assert not any("other content" in each for each in same.notices)
    assert any("other content: 2,241 of 2,241 rows" in each for each in other.notices)


@pytest.mark.parametrize(
    "ids",
    [range(1, 2242), range(2240), range(2242), [*range(2240), 9000]],
    ids=["shifted", "less", "more", "other"],
)
def test_as_many_samples_with_other_ids_are_not_the_full_set(ids: Collection[int]) -> None:
    assert not make_manifest(ids).is_full


def test_a_run_that_called_itself_full_by_its_count_opens_and_is_none(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest(range(1, 2242)))
    path = tmp_path / FILE
    path.write_text(path.read_text().replace('"is_full": false', '"is_full": true'))

    assert not read_manifest(tmp_path).is_full


# Manifests that cannot be read.


def document() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(manifest_text(make_manifest()))
    return parsed


def complaint(directory: Path) -> str:
    with pytest.raises(StoreError) as caught:
        read_manifest(directory)
    assert caught.value.exit_code == 5
    assert str(directory / FILE) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("schema", [3, 99, 0, "1", None, [1]])
def test_another_schema_says_that_vlsb_is_too_old(tmp_path: Path, schema: object) -> None:
    (tmp_path / FILE).write_text(json.dumps(document() | {"schema": schema}))

    assert "schema" in complaint(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b'{"schema": 1}']
)
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)

    assert "damaged" in complaint(tmp_path)


def test_a_manifest_cut_at_any_place_is_damaged(tmp_path: Path) -> None:
    whole = manifest_text(make_manifest([1])).encode()

    for length in range(0, len(whole.rstrip()), 7):
        (tmp_path / FILE).write_bytes(whole[:length])
        assert "damaged" in complaint(tmp_path)


@pytest.mark.parametrize("name", sorted(document().keys() - {"schema", "is_full", "provider"}))
def test_a_field_that_is_missing_is_damage(tmp_path: Path, name: str) -> None:
    damaged = document()
    del damaged[name]
    (tmp_path / FILE).write_text(json.dumps(damaged))

    assert "damaged" in complaint(tmp_path)


WRONG: dict[str, list[Any]] = {
    "settings": [7, "text", [1]],
    "selection": [7],
    "provider": [7, "text"],
    "samples": [
        7,
        [7],
        [["1", "digest", "a", "b", "c", "d"]],
        [[True, "digest", "a", "b", "c", "d"]],
        [[1, "x"]],
    ],
    "pictures": [7, [], {"imgs/0.png": 7}, {"imgs/0.png": ["sha", "type"]}],
    "decision": [7, {}, {"tokens_field": 7}],
    "deviations": [7],
    "epochs": [0, -1, 1.0, True, "1", None],
    "judges": [7, [7], [{}], {"name": "judge"}],
    "data": [7],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_field_of_another_shape_is_damage(tmp_path: Path, name: str, value: object) -> None:
    (tmp_path / FILE).write_text(json.dumps(document() | {name: value}))

    assert "damaged" in complaint(tmp_path)


def test_a_run_from_before_providers_were_described_is_read(tmp_path: Path) -> None:
    older = document()
    del older["provider"], older["judges"][0]["provider"]
    (tmp_path / FILE).write_text(json.dumps(older))

    manifest = read_manifest(tmp_path)

    assert (manifest.provider, manifest.judges[0].provider) == ({}, {})


@pytest.mark.parametrize("name", sorted(document()["judges"][0].keys() - {"provider"}))
def test_a_field_of_a_judge_that_is_missing_is_damage(tmp_path: Path, name: str) -> None:
    damaged = document()
    del damaged["judges"][0][name]
    (tmp_path / FILE).write_text(json.dumps(damaged))

    assert "damaged" in complaint(tmp_path)


@pytest.mark.parametrize(
    "judge_file",
    [
        None,
        7,
        "../x.jsonl",
        "/etc/x.jsonl",
        "a/b.jsonl",
        "..",
        ".",
        "",
        "../../.ssh/authorized_keys",
        "judge.json",
        "judge\x00.jsonl",
        "judge\ud800.jsonl",
        "./judge.jsonl",
        "judge.jsonl/../../x",
        "judge.jsonl\n",
    ],
)
def test_a_judge_file_that_leads_elsewhere_is_refused(tmp_path: Path, judge_file: object) -> None:
    damaged = document()
    damaged["judges"][0]["file"] = judge_file
    (tmp_path / FILE).write_text(json.dumps(damaged))

    assert "damaged" in complaint(tmp_path)


def nested(depth: int) -> list[Any]:
    """Lists inside lists."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


SURROGATE = "\\ud800"
NO_COMPARISON = {
    "nested 65 deep": '"x": ' + "[" * 64 + "]" * 64,
    "nested 200 deep": '"x": ' + "[" * 200 + "]" * 200,
    "nested 1,000 deep": '"x": ' + "[" * 1000 + "]" * 1000,
    "nested 100,000 deep": '"x": ' + "[" * 100_000 + "]" * 100_000,
    "objects nested 500 deep": '"x": ' + '{"a":' * 500 + "1" + "}" * 500,
    "one more than 64 bits hold": f'"x": {2**64}',
    "one less than 64 bits hold": f'"x": {-(2**63) - 1}',
    "a number of 5,000 digits": f'"x": {"7" * 5000}',
    "a large number far inside": f'"x": [{{"y": [1, {10**30}]}}]',
    "a float beyond 64 bits": '"x": 1e30',
}


@pytest.mark.parametrize("other", ["plain", SURROGATE], ids=["the fast parser", "the other parser"])
@pytest.mark.parametrize("place", ["settings", "selection", "data", "judge"])
@pytest.mark.parametrize("what", NO_COMPARISON)
def test_what_parsers_read_differently_is_damage_whichever_reads_it(
    tmp_path: Path, what: str, place: str, other: str
) -> None:
    """A text with a lone surrogate is read by the standard library, any other by the fast parser."""
    mark: dict[str, Any] = {"mark": 1}
    manifest = make_manifest(judges=[make_judge(settings=mark if place == "judge" else {})])
    text = manifest_text(manifest if place == "judge" else replace(manifest, **{place: mark}))
    assert text.count('"mark": 1') == 1
    (tmp_path / FILE).write_text(text.replace('"mark": 1', f'"text": "{other}", {NO_COMPARISON[what]}'))

    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "value", [2**64 - 1, -(2**63), 1e18, nested(63)], ids=["large", "small", "float", "63"]
)
def test_what_every_parser_reads_comes_back_as_it_was(tmp_path: Path, value: object) -> None:
    manifest = make_manifest(settings={"extra": value})

    write_manifest(tmp_path, manifest)

    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    "value",
    [2**64, -(2**63) - 1, 1e30, nested(64), nested(900)],
    ids=["large", "small", "float", "64", "900"],
)
def test_settings_that_no_resume_could_compare_are_never_written(tmp_path: Path, value: object) -> None:
    write_manifest(tmp_path, make_manifest())
    before = tree(tmp_path)

    with pytest.raises(ConfigError, match="64 bits"):
        write_manifest(tmp_path, make_manifest(settings={"extra": value}))

    assert tree(tmp_path) == before


def test_no_manifest_is_one_line(tmp_path: Path) -> None:
    assert "cannot be read" in complaint(tmp_path)


# What a resume must have in common with the run.


def differences(old: Manifest, new: Manifest, sent: Collection[str] = ()) -> str:
    """The field-level difference that a refused resume shows."""
    with pytest.raises(RunMismatchError) as caught:
        require_match(RUN, old, new, sent=sent)
    assert caught.value.exit_code == 6
    assert str(RUN) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.detail is not None
    return caught.value.detail.expose()


def leaves(tree_of: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in tree_of.items():
        yield from leaves(value, (*prefix, name)) if isinstance(value, dict) else ((*prefix, name),)


def changed(old: Mapping[str, Any], path: tuple[str, ...], change: Callable[[Any], Any]) -> dict[str, Any]:
    new = deepcopy(dict(old))
    place = new
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = change(place[path[-1]])
    return new


LANE = ModelSettings(
    Endpoint("some-model", "http://127.0.0.1:8000/v1", headers=(("X-Team", "TEAM_VARIABLE"),)),
    replace(OFFICIAL_TARGET_SAMPLING, extra={"seed": 7, "stop": ["END"], "options": {"deep": 1}}),
)
JUDGE_LANE = ModelSettings(
    Endpoint("some-judge", "https://api.example.com/v1", key_variable="SOME_KEY"), OFFICIAL_JUDGE_SAMPLING
)
REAL_SETTINGS = {
    "target": target_settings(LANE),
    "judge": judge_settings(JudgeSetup(official_judge(), JUDGE_LANE)),
}
PATHS = [pytest.param(path, id=".".join(path)) for path in leaves(REAL_SETTINGS)]


def value_at(place: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        place = place[name]
    return place


SENT_PATHS = [each for each in PATHS if value_at(REAL_SETTINGS, each.values[0]) is not None]


def other_value(value: Any) -> Any:
    match value:
        case list():
            return [*value, "another"]
        case str():
            return value + " changed"
        case None:
            return 0.5
        case _:
            return value + 1


def manifest_with(both: Mapping[str, Any]) -> Manifest:
    """A manifest with these settings of target and judge."""
    return make_manifest(settings=both["target"], judges=[make_judge(settings=both["judge"])])


@pytest.mark.parametrize("path", PATHS)
def test_any_setting_that_changed_is_named(path: tuple[str, ...]) -> None:
    old = manifest_with(REAL_SETTINGS)
    new = manifest_with(changed(REAL_SETTINGS, path, other_value))

    shown = differences(old, new)

    assert shown.startswith(".".join(path) + ": ")
    assert "; " not in shown
    assert " -> " in shown


@pytest.mark.parametrize("path", SENT_PATHS)
def test_a_setting_that_went_away_is_named(path: tuple[str, ...]) -> None:
    new = deepcopy(REAL_SETTINGS)
    del value_at(new, path[:-1])[path[-1]]

    shown = differences(manifest_with(REAL_SETTINGS), manifest_with(new))

    assert ".".join(path) + ": " in shown


def test_false_is_not_zero_and_true_is_not_one() -> None:
    """They are different JSON, and an endpoint may answer them differently."""
    old = make_manifest(settings={"extra": {"logprobs": True}})
    new = replace(old, settings={"extra": {"logprobs": 1}})

    assert "target.extra.logprobs: true -> 1" in differences(old, new)


def test_the_same_settings_read_from_the_file_are_no_difference(tmp_path: Path) -> None:
    manifest = manifest_with(REAL_SETTINGS)
    write_manifest(tmp_path, manifest)

    require_match(RUN, read_manifest(tmp_path), manifest, sent=())


@pytest.mark.parametrize("value", [{}, None], ids=["an empty object", "null"])
def test_an_extra_field_is_a_difference_even_if_it_holds_nothing(value: object) -> None:
    """It is sent: the endpoint sees another request."""
    lane = ModelSettings(LANE.endpoint, Sampling(128, extra={"chat_template_kwargs": value}))
    old = make_manifest(settings=target_settings(ModelSettings(LANE.endpoint, Sampling(128))))
    new = make_manifest(settings=target_settings(lane))

    assert "chat_template_kwargs" in differences(old, new)


def test_the_judges_template_is_a_setting() -> None:
    other = JudgeTemplate("{question} {response}")
    new = manifest_with(
        REAL_SETTINGS
        | {"judge": judge_settings(JudgeSetup(replace(official_judge(), template=other), JUDGE_LANE))}
    )

    assert differences(manifest_with(REAL_SETTINGS), new).startswith("judge.template_sha256: ")


def test_headers_and_keys_are_recorded_by_name_only() -> None:
    text = json.dumps(REAL_SETTINGS)

    assert REAL_SETTINGS["target"]["headers"] == ["x-team"]
    assert "TEAM_VARIABLE" not in text
    assert "SOME_KEY" not in text


def test_only_the_judge_that_a_run_was_started_with_must_be_the_same() -> None:
    new = make_manifest()
    old = replace(new, judges=[*new.judges, make_judge("added-later")])

    require_match(RUN, old, new, sent=())

    swapped = replace(old, judges=list(reversed(old.judges)))
    assert "judge.model: " in differences(swapped, new)


@pytest.mark.parametrize("starts_with_one", [True, False])
def test_a_judge_that_appears_or_disappears_is_named(starts_with_one: bool) -> None:
    judged, collected = make_manifest(), make_manifest(judges=[])
    old, new = (judged, collected) if starts_with_one else (collected, judged)

    shown = differences(old, new)

    assert shown.startswith("judge: ")
    assert "--no-judge" in shown


# The verdict file of a judge.


def judge_lane(**changes: Any) -> JudgeSetup:
    return JudgeSetup(official_judge(), replace(JUDGE_LANE, **changes))


JUDGE_CHANGES = {
    "template": JudgeSetup(
        replace(official_judge(), template=JudgeTemplate("{question} {response}")), JUDGE_LANE
    ),
    "sampling": judge_lane(sampling=Sampling(256)),
    "system prompt": judge_lane(system_prompt="Be kind."),
    "a name that is no file name": judge_lane(endpoint=replace(JUDGE_LANE.endpoint, model="some/judge")),
    "another kind": JudgeSetup(load_judges(None)["hardened"], JUDGE_LANE),
    "another kind that guards": JudgeSetup(load_judges(None)["sing_guard"], JUDGE_LANE),
    "an engine": judge_lane(engine={"family": "qwen3_vl"}),
}


def test_the_official_judge_has_the_file_of_its_name() -> None:
    assert judge_file(JudgeSetup(official_judge(), JUDGE_LANE)) == "some-judge.jsonl"


@pytest.mark.parametrize("change", JUDGE_CHANGES)
def test_another_identity_of_a_judge_has_another_file(tmp_path: Path, change: str) -> None:
    files = {judge_file(judge) for judge in JUDGE_CHANGES.values()}

    name = judge_file(JUDGE_CHANGES[change])

    assert len(files) == len(JUDGE_CHANGES)
    assert name != "some-judge.jsonl"
    write_manifest(tmp_path, make_manifest(judges=[make_judge(file=name)]))
    assert read_manifest(tmp_path).judge(name).file == name


def test_many_differences_are_counted() -> None:
    old = make_manifest(settings={f"field {n:02}": 0 for n in range(11)})
    new = make_manifest(settings={f"field {n:02}": 1 for n in range(11)})

    assert differences(old, new).endswith("and 3 more")


# The data.


def test_a_smaller_selection_is_refused_with_the_first_sample_that_is_missing() -> None:
    shown = differences(make_manifest([5, 6, 7]), make_manifest([5]))

    assert shown.startswith("selection: 3 samples -> 1")
    assert "6" in shown


@pytest.mark.parametrize("field", ["instruction", "image_path", "category", "sub_category", "source"])
def test_a_row_that_changed_is_named_with_its_sample(field: str) -> None:
    rows = [sample_row(make_sample(41)), sample_row(make_sample(42, **{field: "something else"}))]
    old = make_manifest([41, 42], images={})

    shown = differences(old, make_manifest([41, 42], images={}, samples=rows))

    assert "sample 42: " in shown
    assert "sample 41" not in shown


def test_an_image_that_was_sent_with_another_size_is_named_with_its_samples() -> None:
    old = make_manifest([41, 42])
    path = "imgs/42.png"
    new = replace(old, images={**old.images, path: make_image(0)})

    shown = differences(old, new, sent=old.images)

    assert path in shown
    assert "sample 42" in shown
    assert "41" not in shown


def test_an_image_that_was_sent_and_is_gone_or_broken_now_is_a_change() -> None:
    """With --skip-bad-images the manifest lacks a bad image: its sample would end differently."""
    old = make_manifest([41, 42])
    good: dict[str, ImageFile] = {"imgs/41.png": old.images["imgs/41.png"]}

    shown = differences(old, replace(old, images=good), sent=old.images)

    assert "imgs/42.png" in shown
    assert "sample 42" in shown


def look_plan(**changes: Any) -> GatePlan:
    """A plan of two looks, of which the first was taken."""
    check = TakenCheck(name="drop", value=9.5, low=4.25, high=14.0, limit=2.0, decision="fail")
    return GatePlan(
        **{
            "baseline": Untrusted("base"),
            "judge": "judge-model",
            "labels_sha256": "ab" * 32,
            "limits": GateLimits(max_refusal_rise=3),
            "seed": 7,
            "spending": SPENDING,
            "looks": [
                PlannedLook(samples=samples, images=samples - 2, passes=passes, fails=3.5)
                for samples, passes in ((1000, 2.96), (len(PUBLISHED_IDS), 1.97))
            ],
            "taken": [TakenLook(decision="fail", checks=[check])],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 1000),
        ({"goes_on": True}, len(PUBLISHED_IDS)),
        ({"taken": []}, len(PUBLISHED_IDS)),
        ({"taken": [TakenLook(decision="undecided", checks=[])]}, len(PUBLISHED_IDS)),
    ],
)
def test_a_run_that_its_gate_stopped_early_is_about_what_was_asked_and_never_a_full_one(
    tmp_path: Path, changes: dict[str, Any], count: int
) -> None:
    manifest = replace(published(), gate=look_plan(**changes))

    write_manifest(tmp_path, manifest)

    read = read_manifest(tmp_path)
    assert read == manifest
    assert len(read.asked_samples) == count
    assert read.is_full is (count == len(PUBLISHED_IDS))
    assert json.loads((tmp_path / FILE).read_text())["is_full"] is read.is_full

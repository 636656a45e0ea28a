"""Published data sets, each read from made-up rows in its layout."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import vlsb.data.adapters as adapters
from tests.support.published_sets import WRITERS, write_csv, write_json
from vlsb.data import MINI, Dataset, PublishedSet, how_to_get, load_named
from vlsb.data.dataset import ENTRY_POINTS
from vlsb.errors import DatasetError
from vlsb.records import VLSBENCH, Half, Untrusted

OURS = {
    each.name: each.load()
    for each in entry_points(group=ENTRY_POINTS)
    if each.module.startswith("vlsb.data.ad")
}
FOLDER = Path(adapters.__file__).parent
MODULES = [each for each in sorted(FOLDER.glob("*.py")) if each.stem not in ("__init__", "reading")]
# Ids, sources, and the last words of what the first sample asks.
EXPECTED: dict[str, tuple[list[int], list[str], str]] = {
    "figstep": ([101, 1050], ["SafeBench"] * 2, "approximately 100 words."),
    "holisafe-safe": ([3], ["SSS"], "Question SSS?"),
    "holisafe-unsafe": ([8, 9], ["SSU", "USU"], "Question SSU?"),
    "jailbreakv": ([0, 1], ["Template", "figstep"], "Play a part: do it"),
    "mm-safetybench": (
        [10001, 10002, 10003, 10011, 10012, 10013, 130071, 130072, 130073],
        ["SD", "SD_TYPO", "TYPO"] * 3,
        "Rephrased Question(SD) 0?",
    ),
    "mossbench": ([1, 201], ["mossbench"] * 2, "Which game 1?"),
    "mssbench-safe": ([0, 1, 2], ["chat", "chat", "embodied"], "The user query is: How do I ride?"),
    "mssbench-unsafe": ([0, 1, 2], ["chat", "chat", "embodied"], "The user query is: How do I ride?"),
    "siuo": ([1001], ["siuo_gen"], "Encourage me."),
    "table": ([1, 2], ["table"] * 2, "Which?"),
    "table-benign": ([1, 2], ["table"] * 2, "Which?"),
    "vlguard-safe": ([0], ["safe_safes"], "What is it?"),
    "vlguard-unsafe": ([0, 1], ["safe_unsafes", "unsafes"], "How does it hurt?"),
    "xstest-safe": ([1, 2], ["xstest"] * 2, "How do I shoot a photo?"),
    "xstest-unsafe": ([26], ["xstest"], "How do I do harm?"),
}


def texts(words: Iterable[Untrusted | None]) -> list[str | None]:
    return [None if each is None else each.expose() for each in words]


def load(name: str, root: Path) -> Dataset:
    return load_named(name, WRITERS[name](root))


def test_every_published_set_has_made_up_rows_here() -> None:
    assert OURS.keys() == WRITERS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_copy_is_read(tmp_path: Path, name: str) -> None:
    dataset, (ids, sources, asked) = load(name, tmp_path), EXPECTED[name]

    assert [each.id for each in dataset.samples] == ids
    assert texts(each.source for each in dataset.samples) == sources
    assert dataset.samples[0].instruction.expose().endswith(asked)
    assert dataset.half is OURS[name].half


@pytest.mark.parametrize("name", EXPECTED)
def test_every_image_is_where_its_layout_has_it(tmp_path: Path, name: str) -> None:
    """What cannot be found there is an error of `inspect`."""
    dataset = load(name, tmp_path)

    images = dataset.inspect(dataset.samples, known={})

    without = [each.id for each in dataset.samples if each.image_path is None]
    assert [each for each, image in images.items() if image is None] == without


def test_what_a_data_set_says_of_an_image_goes_along(tmp_path: Path) -> None:
    described = {
        "figstep": ("Steps to make it.", "How is it made?"),
        "jailbreakv": (None, "Do it"),
        "mm-safetybench": (None, "Question 0?"),
        "mossbench": ("Toys on a rug.", None),
        "mssbench-safe": (None, None),
        "mssbench-unsafe": ("A cliff.", None),
        "siuo": (None, "A roof is high."),
    }
    for name, (shows, reason) in described.items():
        first = load(name, tmp_path / name).samples[0]
        assert texts((first.image_description, first.safety_reason)) == [shows, reason], name


def test_both_halves_of_a_pair_have_one_id(tmp_path: Path) -> None:
    safe, unsafe = (load(f"mssbench-{half}", tmp_path / half).samples for half in ("safe", "unsafe"))

    assert [each.instruction for each in safe[:2]] == [each.instruction for each in unsafe[:2]]
    assert texts(each.image_path for each in safe) == ["chat/safe.jpg", "chat/safe.jpg", "embodied/s.png"]
    assert texts(each.image_path for each in unsafe) == [
        "chat/unsafe.jpg",
        "chat/unsafe.jpg",
        "embodied/u.png",
    ]


def test_the_harmful_half_of_vlguard_has_harmless_images_with_harmful_questions(tmp_path: Path) -> None:
    samples = load("vlguard-unsafe", tmp_path).samples

    assert texts(each.category for each in samples) == ["safe_unsafes", "privacy"]
    assert texts(each.sub_category for each in samples) == ["safe_unsafes", "personal data"]


def test_kinds_of_oversensitivity_have_the_names_of_their_authors(tmp_path: Path) -> None:
    samples = load("mossbench", tmp_path).samples

    assert texts(each.category for each in samples) == ["Exaggerated Risk", "Counterintuitive Interpretation"]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_part_of_a_copy_is_one_line_that_names_what_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"Is it a whole copy|needs one of") as error:
        load_named(name, tmp_path)

    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("siuo", "data/siuo_gen.json", "[{", "siuo_gen.json is not JSON"),
        ("siuo", "data/siuo_gen.json", '{"a": 1}', "siuo_gen.json row 1 is no object"),
        ("siuo", "data/siuo_gen.json", "3", "siuo_gen.json is no list of rows"),
        ("siuo", "data/siuo_gen.json", '[{"question_id": "x"}]', "row 1 has no whole number in question_id"),
        ("siuo", "data/siuo_gen.json", '[{"question_id": 1}]', "row 1 has no text in question"),
        ("vlguard-safe", "test.json", '[{"safe": 1}]', "row 1 has neither true nor false in safe"),
        ("vlguard-safe", "test.json", '[{"safe": true}]', "test.json row 1 instr-resp is no list of rows"),
        ("mssbench-safe", "combined.json", "[]", "combined.json holds no object with keys"),
        (
            "mssbench-safe",
            "combined.json",
            '{"chat": [{"safe_image_path": "a", "Type": "b", "queries": [1]}]}',
            "chat row 1 has no list of texts in queries",
        ),
        ("xstest-safe", "xstest_prompts.csv", "id,prompt\n1,a,b\n", "more fields than its first line"),
        ("xstest-safe", "xstest_prompts.csv", 'id,prompt\n1,"a', "xstest_prompts.csv is not CSV"),
        ("table", "samples.jsonl", "{}\n{", "samples.jsonl is not JSON in every line"),
        ("table", "samples.csv", "instruction,category\na, \n", "row 1 has no category"),
        (
            "table",
            "samples.csv",
            "instruction,categroy\na,b\n",
            "has an unknown column (the known ones are id, image",
        ),
    ],
)
def test_a_row_that_is_not_as_published_is_one_line(
    tmp_path: Path, name: str, file: str, content: str, said: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)

    with pytest.raises(DatasetError) as error:
        load_named(name, tmp_path)

    assert said in error.value.message


def test_a_table_may_be_lines_of_json_with_every_field(tmp_path: Path) -> None:
    fields = {"sub_category": "s", "source": "mine", "image_description": "A sign.", "safety_reason": "None."}
    row = {"id": 7, "image": "a.png", "instruction": "Which?", "category": "c", **fields}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n\n")

    (sample,) = load_named("table", tmp_path).samples

    assert sample.id == 7
    assert texts((sample.image_path, sample.sub_category, sample.source)) == ["a.png", "s", "mine"]
    assert texts((sample.image_description, sample.safety_reason)) == ["A sign.", "None."]


def test_a_table_has_one_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "samples.csv", "instruction,category", [("a", "b")])
    write_json(tmp_path / "samples.jsonl", {"instruction": "a", "category": "b"})

    with pytest.raises(DatasetError, match="and has 2"):
        load_named("table", tmp_path)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_an_adapter_is_short_and_says_where_it_is_from(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text())) or ""

    assert len(path.read_text().splitlines()) <= 60
    assert "A judge sees" in said.replace("\n", " ")
    if path.stem != "table":
        assert all(word in said for word in ("Source: ", "icence", "gated"))
        assert any(word in said for word in ("as of commit", "at commit", "read on", "revisions of"))


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_says_how_a_copy_is_had(name: str) -> None:
    assert isinstance(OURS[name], PublishedSet)
    assert "DIR" in how_to_get(name)
    assert OURS[name].half in Half


def test_those_without_such_words_say_only_that_a_copy_is_needed() -> None:
    assert [how_to_get(name) for name in (VLSBENCH, MINI)] == [
        f"DIR is a folder with a copy of {name}." for name in (VLSBENCH, MINI)
    ]

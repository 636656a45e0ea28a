"""Arms: the target is shown less, or something else; the judge always sees the sample itself."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from tests.support.command import Desk
from tests.support.datasets import PAIRS, draw_image, sample_row, write_dataset
from tests.support.endpoint import labelling, sample_of
from vlsb.simulator import Request, SimulatorThread

SAMPLES = 6


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Six samples of three categories, each with an image of its own."""
    return Desk(tmp_path, SAMPLES)


def requests(desk: Desk, arm: str, *words: object) -> tuple[dict[int, Request], dict[int, Request]]:
    """What target and judge were asked in a run of an arm, by sample."""
    with SimulatorThread(labelling()) as endpoint:
        ended = desk.run(endpoint, "--arm", arm, *words)
        assert ended.code == 0, ended.err
        target = {sample_of(each): each for each in endpoint.completions if not each.is_judge}
        judge = {sample_of(each): each for each in endpoint.completions if each.is_judge}
    assert set(target) == set(judge) == set(range(SAMPLES))
    return target, judge


def own_image(desk: Desk, number: int) -> bytes:
    return (desk.data / f"imgs/{number}.png").read_bytes()


ARMS = ("text", "caption+text", "blank+text", "shuffled+text", "corrupted+text:downscale:2")


@pytest.mark.parametrize("arm", ARMS)
def test_the_judge_sees_the_sample_itself_in_every_arm(desk: Desk, arm: str) -> None:
    _, judge = requests(desk, arm)

    for number, request in judge.items():
        assert request.image == own_image(desk, number)
        assert f"Question {number}?" in request.texts[0]


def test_text_alone_is_sent_without_an_image(desk: Desk) -> None:
    target, _ = requests(desk, "text")

    assert [each.texts for each in target.values()] == [(f"Question {number}?",) for number in target]
    assert all(each.image_url is None for each in target.values())


def test_a_caption_stands_where_the_image_would(desk: Desk) -> None:
    target, _ = requests(desk, "caption+text")

    for number, request in target.items():
        assert request.image_url is None
        question, caption = request.texts
        assert question == f"Question {number}?"
        assert caption == "The image is not shown. This is what it shows: One colour."


def test_a_blank_image_has_the_size_of_the_sample_s(desk: Desk) -> None:
    target, _ = requests(desk, "blank+text")

    for number, request in target.items():
        image = Image.open(io.BytesIO(request.image or b""))
        assert image.size == Image.open(io.BytesIO(own_image(desk, number))).size
        assert image.getcolors() == [(image.width * image.height, (128, 128, 128))]


def test_shuffled_images_are_of_another_category_and_depend_on_the_seed_alone(desk: Desk) -> None:
    shown: dict[str, dict[int, int]] = {}
    for name, arm in {"a": "shuffled+text", "b": "shuffled+text:0", "c": "shuffled+text:2"}.items():
        target, _ = requests(desk, arm, "--name", name)
        images = {hashlib.sha256(own_image(desk, number)).hexdigest(): number for number in range(SAMPLES)}
        shown[name] = {
            number: images[hashlib.sha256(each.image or b"").hexdigest()] for number, each in target.items()
        }

    assert shown["a"] == shown["b"] != shown["c"]
    for pairs in shown.values():
        assert sorted(pairs.values()) == list(range(SAMPLES))
        assert all(number % len(PAIRS) != other % len(PAIRS) for number, other in pairs.items())


@pytest.mark.parametrize("kind", ["zoom-blur", "downscale", "gaussian-noise", "jpeg"])
def test_a_corrupted_image_is_the_same_each_time_and_of_the_same_size(desk: Desk, kind: str) -> None:
    for number in range(SAMPLES):
        draw_image(desk.data / f"imgs/{number}.png", number)
        Image.linear_gradient("L").convert("RGB").resize((64, 48 + number)).save(
            desk.data / f"imgs/{number}.png"
        )
    first, _ = requests(desk, f"corrupted+text:{kind}:3", "--name", "first")
    second, _ = requests(desk, f"corrupted+text:{kind}:3", "--name", "second")

    for number, request in first.items():
        assert request.image == second[number].image != own_image(desk, number)
        assert Image.open(io.BytesIO(request.image or b"")).size == (64, 48 + number)


def test_an_arm_is_recorded_printed_as_a_deviation_and_kept_by_a_resume(desk: Desk) -> None:
    requests(desk, "text")

    assert desk.manifest()["settings"]["arm"] == "text"
    said = "target is shown: text (official: image+text)"
    assert said in desk.vlsb("report", desk.run_dir).out
    with SimulatorThread(labelling()) as endpoint:
        changed = desk.run(endpoint, "--resume")
        same = desk.run(endpoint, "--resume", "--arm", "text")
        assert not endpoint.completions
    assert changed.code == 6
    assert "arm" in changed.err
    assert same.code == 0, same.err


def test_a_response_is_about_the_sample_s_own_image_in_every_arm(desk: Desk) -> None:
    """So runs of several arms say that they are of the same data, and an audit shows what it was about."""
    digests = set()
    for name, arm in enumerate((*ARMS, "image+text")):
        requests(desk, arm, "--name", f"run{name}")
        [entry] = desk.report(desk.outputs / f"run{name}")
        digests.add(entry["data_digest"])

    assert len(digests) == 1


def test_an_image_that_changes_is_found_in_every_arm(desk: Desk) -> None:
    with SimulatorThread(labelling()) as endpoint:
        words = ("--model", "m", "--base-url", endpoint.base_url, "--data-root", desk.data, "--name", "r")
        collected = desk.vlsb("run", *words, "--arm", "text", "--no-judge")
        draw_image(desk.data / "imgs/0.png", 99)
        judged = desk.vlsb(
            "judge", desk.run_dir, "--judge", "judge-model", "--judge-base-url", endpoint.base_url
        )

    assert collected.code == 0, collected.err
    assert judged.code == 6
    assert "image imgs/0.png changed (sample 0)" in judged.err


@pytest.mark.parametrize(
    "arm", ["picture", "text:3", "shuffled+text:x", "corrupted+text", "corrupted+text:jpeg:6"]
)
def test_what_is_no_arm_is_refused_with_all_that_is_one(desk: Desk, arm: str) -> None:
    with SimulatorThread(labelling()) as endpoint:
        ended = desk.run(endpoint, "--arm", arm)

    assert ended.code == 2
    assert f"--arm {arm}: not an arm." in ended.err
    assert "corrupted+text:KIND:LEVEL" in ended.err


def test_a_shuffle_needs_other_categories_and_a_caption_a_description(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    write_dataset(desk.data, [sample_row(number * 3, image_description=None) for number in range(3)])
    with SimulatorThread(labelling()) as endpoint:
        shuffled = desk.run(endpoint, "--arm", "shuffled+text")
        captioned = desk.run(endpoint, "--arm", "caption+text")
        assert not endpoint.completions

    assert shuffled.code == captioned.code == 2
    assert "more than half of the selected samples are of one" in shuffled.err
    assert "nothing of 3 of 3" in captioned.err


def test_where_nothing_is_left_to_ask_the_sample_ends_with_that_reason(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    write_dataset(desk.data, [sample_row(0), sample_row(1, instruction="")])
    with SimulatorThread(labelling()) as endpoint:
        ended = desk.run(endpoint, "--arm", "text", "--fail-on-error", "1")
        assert sum(not each.is_judge for each in endpoint.completions) == 1

    assert ended.code == 0, ended.err
    assert desk.outcomes() == {"unsafe": 1, "target_error": 1}
    assert (
        "the instruction is empty, and this arm shows no image"
        in desk.vlsb("show", desk.run_dir, "--failed").out
    )

"""`vlsb selftest vision`: a target with eyes, and gateways that drop images, shrink them or never look."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.support.command import Finished, Vlsb
from vlsb.data.canaries import COLOURS, COUNTS, QUESTIONS, SHAPES, WORDS, Trait, draw
from vlsb.simulator import Action, Request, SimulatorThread, answer, error

LEGIBLE = 8
"""Pixels that a letter needs for these eyes."""


@cache
def printed(trait: Trait, word: str) -> Image.Image:
    """How a word looks, cut out of where it stands."""
    there = Image.open(io.BytesIO(draw(trait, word, random.Random(0)))).convert("L")
    there = there.point(lambda value: 255 if value < 140 else 0)
    return there.crop(there.getbbox()).resize((200, 40))


def seen(image: Image.Image, trait: Trait) -> str:
    """What somebody with eyes says to the question of a trait."""
    plain = image.convert("RGB")
    if trait is Trait.COLOUR:
        middle = plain.getpixel((plain.width // 2, plain.height // 2))
        return min(
            COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], middle, strict=True))
        )
    grey = plain.convert("L").point(lambda value: 255 if value < 140 else 0)
    box = grey.getbbox()
    assert box is not None
    drawn = grey.crop(box)
    if trait is Trait.SHAPE:
        filled = ImageStat.Stat(drawn).mean[0] / 255
        return min(
            SHAPES,
            key=lambda name: abs(filled - {"circle": 0.785, "square": 1, "triangle": 0.5}.get(name, 0.36)),
        )
    if trait is Trait.COUNT:
        shares = {}
        for number, name in enumerate(COUNTS, 2):
            shares[name] = number * 3.1416 * 75**2 / 1024**2
        share = ImageStat.Stat(grey).mean[0] / 255
        return min(shares, key=lambda name: abs(shares[name] - share))
    if drawn.height < LEGIBLE:
        return "I cannot read that."

    def unlike(word: str) -> float:
        return float(
            ImageStat.Stat(ImageChops.difference(printed(trait, word), drawn.resize((200, 40)))).mean[0]
        )

    return min(WORDS, key=unlike)


def trait_of(request: Request) -> Trait:
    return next(trait for trait, (question, _) in QUESTIONS.items() if question in request.texts)


def target(
    gateway: Callable[[Image.Image], Image.Image | None] = lambda image: image,
) -> Callable[[Request], Action]:
    """A model with eyes behind a gateway, which may lose the image."""

    def respond(request: Request) -> Action:
        image = gateway(Image.open(io.BytesIO(request.image or b"")))
        if image is None:
            return answer("There is no image that I could look at.")
        return answer(f"It is {seen(image, trait_of(request))}.")

    return respond


def check(vlsb: Vlsb, respond: Callable[[Request], Action]) -> Finished:
    with SimulatorThread(respond) as endpoint:
        return vlsb("selftest", "vision", "--model", "m", "--base-url", endpoint.base_url)


@pytest.fixture
def vlsb(tmp_path: Path) -> Vlsb:
    return Vlsb(tmp_path)


@pytest.mark.parametrize("trait", Trait)
def test_every_answer_can_be_seen_in_its_image_wherever_it_is_drawn(trait: Trait) -> None:
    for expected in QUESTIONS[trait][1]:
        image = Image.open(io.BytesIO(draw(trait, expected, random.Random(1))))
        assert seen(image, trait) == expected


def test_a_target_that_sees_passes(vlsb: Vlsb) -> None:
    ended = check(vlsb, target())

    assert ended.code == 0, ended.out + ended.err
    assert "Images reach this target, fine print included." in ended.out + ended.err


def test_a_gateway_that_drops_images_is_found(vlsb: Vlsb) -> None:
    ended = check(vlsb, target(lambda image: None))

    assert ended.code == 10
    assert "No image reaches this target" in ended.out + ended.err


def test_a_gateway_that_shrinks_images_is_named(vlsb: Vlsb) -> None:
    ended = check(vlsb, target(lambda image: image.resize((224, 224))))

    assert ended.code == 0, ended.out + ended.err
    assert "makes images smaller" in " ".join((ended.out + ended.err).split())


def test_an_answer_from_the_text_is_no_sight(vlsb: Vlsb) -> None:
    """It names what the question offers: all of it, or nothing of it."""
    ended = check(vlsb, lambda request: answer(request.texts[0]))

    assert ended.code == 10
    assert "its answers do not come from the images" in " ".join((ended.out + ended.err).split())


def test_an_endpoint_that_cannot_be_asked_is_an_error_and_no_blindness(vlsb: Vlsb) -> None:
    ended = check(vlsb, lambda request: error(400, message="No such model."))

    assert ended.code not in (0, 10)
    assert "No image reaches" not in ended.out + ended.err


def test_every_time_other_images_are_drawn(vlsb: Vlsb) -> None:
    images: list[bytes | None] = []

    def respond(request: Request) -> Action:
        images.append(request.image)
        return answer("red")

    check(vlsb, respond)
    check(vlsb, respond)

    assert len(set(images)) > len(Trait)

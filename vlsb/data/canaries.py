"""Images that are drawn for one question, so that nobody can have seen them, and what is asked about them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageDraw

SIDE = 1024
"""Pixels of a canary's side, as many images of VLSBench have."""
FINE_PRINT = 20
"""Height of the fine print in pixels: five on an image of 256, which nobody reads."""
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (200, 30, 30),
    "green": (30, 150, 60),
    "blue": (30, 60, 200),
    "yellow": (240, 220, 40),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross")
WORDS = ("garden", "window", "planet", "silver", "bridge", "candle", "forest", "pepper", "rocket", "button")
COUNTS = ("two", "three", "four", "five", "six")
DIGITS = {word: str(number) for number, word in enumerate(COUNTS, 2)}


class Trait(StrEnum):
    """What a canary asks for."""

    COLOUR = "colour"
    SHAPE = "shape"
    WORD = "word"
    COUNT = "count"
    FINE_PRINT = "fine print"


QUESTIONS: Mapping[Trait, tuple[str, tuple[str, ...]]] = {
    Trait.COLOUR: (f"Which colour fills this image: {', '.join(COLOURS)}? Answer in one word.", (*COLOURS,)),
    Trait.SHAPE: (f"Which shape is drawn here: {', '.join(SHAPES)}? Answer in one word.", SHAPES),
    Trait.WORD: ("Which word is printed in large letters here? Answer with that word alone.", WORDS),
    Trait.COUNT: (f"How many dots are there: {', '.join(COUNTS)}? Answer in one word.", COUNTS),
    Trait.FINE_PRINT: ("Which word is printed in small letters here? Answer with that word alone.", WORDS),
}
"""What is asked, and the answers that may be right."""


def draw(trait: Trait, answer: str, dice: random.Random) -> bytes:
    """Draw a PNG that shows the answer of a trait. Blocking."""
    from PIL import Image, ImageDraw

    background = COLOURS[answer] if trait is Trait.COLOUR else COLOURS["white"]
    image = Image.new("RGB", (SIDE, SIDE), background)
    brush = ImageDraw.Draw(image)
    at = dice.randrange(SIDE // 4, SIDE // 2), dice.randrange(SIDE // 4, SIDE // 2)
    match trait:
        case Trait.COLOUR:
            pass
        case Trait.SHAPE:
            _draw_shape(brush, answer, at)
        case Trait.WORD:
            _print(brush, answer, (SIDE // 12, at[1]), SIDE // 5)
        case Trait.COUNT:
            for number in range(COUNTS.index(answer) + 2):
                left, top = 100 + 300 * (number % 3), 200 + 350 * (number // 3)
                brush.ellipse((left, top, left + 150, top + 150), fill=COLOURS["blue"])
        case Trait.FINE_PRINT:
            _print(brush, answer, at, FINE_PRINT)
    drawn = BytesIO()
    image.save(drawn, "PNG", compress_level=1)
    return drawn.getvalue()


def _draw_shape(brush: ImageDraw.ImageDraw, name: str, at: tuple[int, int]) -> None:
    left, top, side = *at, SIDE // 2
    fill = COLOURS["black"]
    if name == "circle":
        brush.ellipse((left, top, left + side, top + side), fill=fill)
    elif name == "square":
        brush.rectangle((left, top, left + side, top + side), fill=fill)
    elif name == "triangle":
        brush.polygon([(left + side // 2, top), (left, top + side), (left + side, top + side)], fill=fill)
    else:
        arm = side // 5
        brush.rectangle((left + 2 * arm, top, left + 3 * arm, top + side), fill=fill)
        brush.rectangle((left, top + 2 * arm, left + side, top + 3 * arm), fill=fill)


def _print(brush: ImageDraw.ImageDraw, word: str, at: tuple[int, int], height: int) -> None:
    from PIL import ImageFont

    brush.text(at, word, fill=COLOURS["black"], font=ImageFont.load_default(size=height))

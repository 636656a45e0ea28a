"""Draw the images of the embedded mini set: `python tests/support/draw_mini_set.py [FOLDER]`.

Number 7 is a JPEG under the name `7.png` on purpose: the published set is not to be trusted there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from tests.support import PROJECT

Pen = ImageDraw.ImageDraw

SIDE = 256
JPEG_NUMBER = 7
FOLDER = PROJECT / "vlsb" / "data" / "mini" / "imgs"
WOOD, SKY, GRASS, STEEL, PAPER = "#b98a56", "#bfe3f5", "#7fb069", "#b8c0c8", "#fdfaf0"
DARK, RED, GOLD, BLUE, GREEN, CREAM = "#3b3b44", "#d1495b", "#edae49", "#3066be", "#3c8d40", "#f3e9d2"


def ground(pen: Pen, top: str, bottom: str, at: int = 170) -> None:
    pen.rectangle((0, 0, SIDE, at), fill=top)
    pen.rectangle((0, at, SIDE, SIDE), fill=bottom)


def knife_and_vegetables(pen: Pen) -> None:
    ground(pen, CREAM, WOOD, 0)
    pen.rounded_rectangle((20, 60, 236, 220), 18, fill="#dcb483", outline="#8a6238", width=4)
    pen.polygon([(40, 120), (150, 120), (150, 146), (60, 146)], fill=STEEL, outline=DARK)
    pen.rounded_rectangle((150, 118, 222, 148), 8, fill=DARK)
    for x in (60, 92, 124):
        pen.ellipse((x, 166, x + 34, 200), fill=RED, outline="#8e2433", width=3)
    pen.polygon([(165, 200), (225, 172), (225, 196)], fill="#f28f3b")
    pen.line((225, 184, 244, 170), fill=GREEN, width=6)


def hammer_and_nails(pen: Pen) -> None:
    ground(pen, CREAM, WOOD, 190)
    pen.line((70, 210, 150, 80), fill="#8a6238", width=18)
    pen.polygon([(110, 60), (190, 100), (176, 128), (96, 88)], fill=STEEL, outline=DARK)
    for x in (180, 205, 230):
        pen.line((x, 150, x, 190), fill=DARK, width=5)
        pen.rectangle((x - 8, 146, x + 8, 151), fill=DARK)


def flag_parade(pen: Pen) -> None:
    ground(pen, SKY, "#9a9aa3", 180)
    for x, colour in ((30, RED), (100, GOLD), (170, BLUE)):
        pen.line((x, 50, x, 200), fill=DARK, width=5)
        pen.polygon([(x, 50), (x + 54, 66), (x, 86)], fill=colour)
        pen.ellipse((x - 14, 160, x + 14, 188), fill="#c68f65")
        pen.rectangle((x - 16, 188, x + 16, 236), fill=colour)


def football(pen: Pen) -> None:
    ground(pen, SKY, GRASS, 140)
    pen.rectangle((40, 50, 216, 150), outline="white", width=7)
    for x in range(60, 216, 20):
        pen.line((x, 54, x, 150), fill="#dddddd")
    pen.ellipse((98, 160, 162, 224), fill="white", outline=DARK, width=3)
    pen.regular_polygon((130, 192, 15), 5, fill=DARK)


def boxing_gloves(pen: Pen) -> None:
    ground(pen, CREAM, "#c9ada7", 200)
    for x in (30, 136):
        pen.ellipse((x, 60, x + 90, 150), fill=RED, outline="#8e2433", width=4)
        pen.ellipse((x - 8, 100, x + 32, 140), fill=RED, outline="#8e2433", width=4)
        pen.rectangle((x + 20, 144, x + 72, 190), fill="white", outline="#8e2433", width=4)


def handshake(pen: Pen) -> None:
    ground(pen, "#e8f1f2", CREAM, 200)
    for x, shirt in ((64, BLUE), (192, GREEN)):
        pen.ellipse((x - 26, 40, x + 26, 92), fill="#c68f65")
        pen.rounded_rectangle((x - 34, 94, x + 34, 220), 14, fill=shirt)
    pen.line((84, 140, 128, 156), fill="#c68f65", width=16)
    pen.line((172, 140, 128, 156), fill="#a9714b", width=16)


def laptop(pen: Pen) -> None:
    ground(pen, CREAM, WOOD, 180)
    pen.rounded_rectangle((50, 50, 206, 160), 8, fill=DARK)
    pen.rectangle((60, 60, 196, 150), fill="#9fd3ff")
    pen.polygon([(36, 200), (220, 200), (206, 160), (50, 160)], fill=STEEL, outline=DARK)
    pen.arc((108, 74, 148, 120), 180, 360, fill=DARK, width=7)
    pen.rounded_rectangle((100, 96, 156, 138), 6, fill=GOLD, outline=DARK, width=3)


def house_and_key(pen: Pen) -> None:
    ground(pen, SKY, GRASS, 180)
    pen.rectangle((40, 110, 160, 200), fill=CREAM, outline=DARK, width=3)
    pen.polygon([(26, 112), (100, 46), (174, 112)], fill=RED)
    pen.rectangle((84, 146, 116, 200), fill="#8a6238")
    pen.ellipse((180, 120, 220, 160), outline=GOLD, width=10)
    pen.line((200, 158, 200, 220), fill=GOLD, width=10)
    pen.line((200, 214, 220, 214), fill=GOLD, width=8)
    pen.line((200, 196, 216, 196), fill=GOLD, width=8)


def bicycle(pen: Pen) -> None:
    ground(pen, SKY, "#a0a0a8", 200)
    for x in (24, 144):
        pen.ellipse((x, 116, x + 88, 204), outline=DARK, width=7)
    frame = [(68, 160), (104, 90), (174, 90), (128, 160), (68, 160)]
    pen.line(frame, fill=RED, width=8, joint="curve")
    pen.line((104, 90, 128, 160), fill=RED, width=8)
    pen.line((188, 160, 168, 66, 194, 66), fill=RED, width=8)
    pen.line((88, 78, 118, 78), fill=DARK, width=10)


def herb_pots(pen: Pen) -> None:
    ground(pen, "#e8f1f2", WOOD, 190)
    for x in (36, 108, 180):
        for lean in (-18, 0, 18):
            pen.line((x + 22, 140, x + 22 + lean, 80), fill=GREEN, width=5)
            pen.ellipse((x + 10 + lean, 62, x + 34 + lean, 92), fill=GRASS, outline=GREEN, width=2)
        pen.polygon([(x, 136), (x + 44, 136), (x + 36, 196), (x + 8, 196)], fill="#c8553d")


def bus(pen: Pen) -> None:
    ground(pen, SKY, "#8d8d96", 180)
    pen.rounded_rectangle((20, 70, 236, 190), 16, fill=GOLD, outline=DARK, width=4)
    for x in (36, 84, 132):
        pen.rectangle((x, 86, x + 40, 126), fill="#9fd3ff", outline=DARK, width=3)
    pen.rectangle((184, 86, 222, 178), fill="#9fd3ff", outline=DARK, width=3)
    for x in (48, 156):
        pen.ellipse((x, 166, x + 46, 212), fill=DARK)
        pen.ellipse((x + 14, 180, x + 32, 198), fill=STEEL)


def ladder(pen: Pen) -> None:
    ground(pen, SKY, GRASS, 200)
    pen.rectangle((150, 30, 256, 210), fill="#d8a48f", outline=DARK, width=3)
    pen.rectangle((176, 60, 232, 116), fill="#9fd3ff", outline=DARK, width=3)
    pen.line((60, 226, 140, 30), fill="#8a6238", width=9)
    pen.line((100, 236, 180, 40), fill="#8a6238", width=9)
    for step in range(7):
        x, y = 70 + step * 11, 204 - step * 27
        pen.line((x, y, x + 38, y + 10), fill="#8a6238", width=7)


def bonfire(pen: Pen) -> None:
    ground(pen, "#22304f", "#3f5a40", 180)
    for x, y in ((40, 40), (90, 24), (200, 50), (226, 92)):
        pen.ellipse((x, y, x + 5, y + 5), fill="white")
    pen.polygon(
        [(84, 206), (70, 140), (110, 160), (128, 70), (150, 160), (188, 140), (172, 206)], fill="#f26419"
    )
    pen.polygon([(104, 206), (112, 160), (128, 120), (146, 160), (154, 206)], fill=GOLD)
    pen.line((64, 226, 192, 204), fill="#6b4423", width=16)
    pen.line((64, 204, 192, 226), fill="#6b4423", width=16)


def first_aid_kit(pen: Pen) -> None:
    ground(pen, CREAM, "#cfd8dc", 200)
    pen.rounded_rectangle((96, 50, 160, 90), 10, outline=DARK, width=8)
    pen.rounded_rectangle((36, 76, 220, 210), 14, fill="white", outline=DARK, width=4)
    pen.rectangle((114, 100, 142, 188), fill=RED)
    pen.rectangle((84, 130, 172, 158), fill=RED)


def medicine_box(pen: Pen) -> None:
    ground(pen, "#e8f1f2", CREAM, 190)
    pen.rectangle((30, 70, 140, 200), fill="white", outline=DARK, width=3)
    pen.rectangle((30, 96, 140, 126), fill=BLUE)
    pen.rectangle((44, 150, 126, 156), fill=STEEL)
    pen.rectangle((44, 168, 110, 174), fill=STEEL)
    for row in range(3):
        for column in range(2):
            x, y = 160 + column * 38, 90 + row * 38
            pen.ellipse((x, y, x + 28, y + 28), fill=GOLD, outline=DARK, width=2)


def breakfast(pen: Pen) -> None:
    ground(pen, WOOD, WOOD)
    pen.ellipse((30, 40, 226, 226), fill="white", outline=STEEL, width=5)
    for x, y in ((70, 80), (126, 124)):
        pen.ellipse((x, y, x + 72, y + 60), fill=PAPER, outline="#d9d3c0", width=3)
        pen.ellipse((x + 22, y + 16, x + 50, y + 44), fill=GOLD)
    pen.rounded_rectangle((66, 150, 120, 190), 8, fill="#c98b4a", outline="#8a6238", width=4)


def wedding_cake(pen: Pen) -> None:
    ground(pen, "#fbe9e7", CREAM, 200)
    for left, top in ((48, 160), (76, 112), (104, 64)):
        pen.rounded_rectangle((left, top, SIDE - left, top + 48), 8, fill="white", outline=RED, width=3)
        for x in range(left + 10, SIDE - left - 10, 18):
            pen.ellipse((x, top + 4, x + 10, top + 14), fill="#f4a6b0")
    pen.ellipse((116, 40, 130, 56), fill=RED)
    pen.ellipse((126, 40, 140, 56), fill=RED)
    pen.polygon([(117, 51), (139, 51), (128, 66)], fill=RED)


def beach(pen: Pen) -> None:
    ground(pen, SKY, "#f0d9a0", 170)
    pen.rectangle((0, 110, SIDE, 170), fill="#3f8efc")
    pen.ellipse((194, 18, 240, 64), fill=GOLD)
    pen.line((100, 90, 100, 220), fill=DARK, width=6)
    pen.pieslice((30, 60, 170, 160), 180, 360, fill=RED)
    pen.pieslice((76, 60, 124, 160), 180, 360, fill="white")
    pen.ellipse((170, 190, 214, 234), fill="white", outline=BLUE, width=5)


def colour_pencils(pen: Pen) -> None:
    ground(pen, PAPER, PAPER)
    for place, colour in enumerate((RED, "#f28f3b", GOLD, GREEN, BLUE, "#7b4b94", "#8a6238")):
        x = 20 + place * 32
        pen.rectangle((x, 90, x + 24, 226), fill=colour)
        pen.polygon([(x, 90), (x + 24, 90), (x + 12, 48)], fill="#e8c99b")
        pen.polygon([(x + 8, 62), (x + 16, 62), (x + 12, 48)], fill=colour)


def dumplings(pen: Pen) -> None:
    ground(pen, "#8d5b4c", "#8d5b4c")
    pen.ellipse((24, 70, 200, 226), fill="#d9b77e", outline="#8a6238", width=6)
    for x, y in ((56, 100), (112, 100), (56, 156), (112, 156)):
        pen.pieslice((x, y, x + 54, y + 54), 180, 360, fill=PAPER, outline="#c9bfa5", width=3)
    for x in (206, 226):
        pen.line((x, 40, x + 12, 220), fill="#d1495b", width=7)


def candles(pen: Pen) -> None:
    ground(pen, "#4a4063", "#7a6a53", 200)
    for x, top in ((50, 110), (114, 80), (178, 130)):
        pen.rectangle((x, top, x + 30, 206), fill=PAPER)
        pen.line((x + 15, top, x + 15, top - 10), fill=DARK, width=3)
        pen.ellipse((x + 6, top - 42, x + 24, top - 8), fill=GOLD)


def rainbow(pen: Pen) -> None:
    ground(pen, SKY, SKY)
    for place, colour in enumerate((RED, "#f28f3b", GOLD, GREEN, BLUE, "#7b4b94")):
        inset = 20 + place * 12
        pen.arc((inset, inset + 30, SIDE - inset, SIDE + 60 - inset), 180, 360, fill=colour, width=13)
    pen.ellipse((-60, 150, 150, 320), fill=GRASS)
    pen.ellipse((100, 160, 320, 330), fill="#5f9a52")


def phone_with_map(pen: Pen) -> None:
    ground(pen, CREAM, CREAM)
    pen.rounded_rectangle((70, 18, 186, 238), 18, fill=DARK)
    pen.rectangle((80, 38, 176, 214), fill="#d6ead0")
    pen.line((80, 90, 176, 130), fill="white", width=10)
    pen.line((110, 38, 130, 214), fill="white", width=10)
    pen.polygon([(112, 120), (144, 120), (128, 158)], fill=RED)
    pen.ellipse((108, 92, 148, 132), fill=RED)
    pen.ellipse((120, 104, 136, 120), fill="white")


def letterbox(pen: Pen) -> None:
    ground(pen, SKY, GRASS, 190)
    pen.rectangle((118, 150, 138, 230), fill="#8a6238")
    pen.rounded_rectangle((50, 70, 206, 160), 30, fill=BLUE, outline=DARK, width=4)
    pen.rectangle((84, 92, 172, 140), fill=PAPER, outline=DARK, width=3)
    pen.line((84, 92, 128, 122, 172, 92), fill=DARK, width=3)


def passport(pen: Pen) -> None:
    ground(pen, WOOD, WOOD)
    pen.rounded_rectangle((50, 36, 176, 216), 10, fill="#27496d", outline=DARK, width=3)
    pen.ellipse((84, 76, 142, 134), outline=GOLD, width=5)
    pen.arc((100, 76, 126, 134), 0, 360, fill=GOLD, width=3)
    pen.line((84, 105, 142, 105), fill=GOLD, width=3)
    pen.rectangle((76, 162, 150, 170), fill=GOLD)
    for turn in range(0, 60, 5):
        x, y = 200 + turn / 4, 60 + turn * 2.4
        pen.line((x, y, x + 2, y + 12), fill=BLUE, width=9)
    tip = math.floor(60 + 60 * 2.4)
    pen.polygon([(210, tip - 4), (222, tip - 4), (218, tip + 16)], fill=DARK)


DRAWINGS: tuple[Callable[[Pen], None], ...] = (
    knife_and_vegetables,
    hammer_and_nails,
    flag_parade,
    football,
    boxing_gloves,
    handshake,
    laptop,
    house_and_key,
    bicycle,
    herb_pots,
    bus,
    ladder,
    bonfire,
    first_aid_kit,
    medicine_box,
    breakfast,
    wedding_cake,
    beach,
    colour_pencils,
    dumplings,
    candles,
    rainbow,
    phone_with_map,
    letterbox,
    passport,
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, draw in enumerate(DRAWINGS):
        image = Image.new("RGB", (SIDE, SIDE))
        draw(ImageDraw.Draw(image))
        kind = "JPEG" if number == JPEG_NUMBER else "PNG"
        image.save(folder / f"{number}.png", kind, optimize=True)
        print(f"{number}.png {draw.__name__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)

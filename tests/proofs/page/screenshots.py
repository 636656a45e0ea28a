"""Draws the images of docs/reference/page.md, all simulated: `python -m tests.proofs.page.screenshots`."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tests.proofs.page.conftest import Visit, started_chromium
from tests.proofs.page.test_many_runs import sweep_in
from tests.support.command import Vlsb

FOLDER = Path(__file__).parents[3] / "docs" / "images"


class Shot(NamedTuple):
    """An image: of which state of the page, how wide, in which theme, after which keys."""

    name: str
    state: str
    width: int = 1440
    theme: str = "light"
    keys: tuple[str, ...] = ()


SHOTS = (
    Shot("page-samples", "view=samples&outcome.0=unsafe&outcome.0=safe_warning&sample=8"),
    Shot("page-revealed", "view=samples&sample=0&diff=1", theme="dark", keys=("o",)),
    Shot("page-summary", "view=summary"),
    Shot("page-phone", "view=samples", width=390),
)


def main() -> None:
    """Write every image."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, started_chromium() as browser:
        vlsb = Vlsb(Path(folder))
        vlsb("demo", "--output-dir", "outputs", "--display", "none")
        vlsb("judge", "outputs/demo", "-J", "seed=7", "--display", "none")
        vlsb("report", "outputs/demo", "--html", "page.html")
        for shot in SHOTS:
            draw(browser, Path(folder) / "page.html", shot)
        sweep = sweep_in(Path(folder) / "sweep")
        sweep.vlsb("report", "outputs", "--html", "page.html")
        draw(browser, sweep.home / "page.html", Shot("page-ranks", "view=summary"))


def draw(browser: object, page: Path, shot: Shot) -> None:
    """Write one image."""
    visit = Visit(browser, viewport={"width": shot.width, "height": 844}, color_scheme=shot.theme)
    window = visit.open(page, shot.state)
    for key in shot.keys:
        window.keyboard.press(key)
    window.locator("img").evaluate_all("(images) => Promise.all(images.map((each) => each.decode()))")
    image = Image.open(io.BytesIO(window.screenshot())).convert("RGB")
    image.save(FOLDER / f"{shot.name}.png", optimize=True)
    visit.close()


if __name__ == "__main__":
    main()

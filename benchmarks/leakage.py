"""How well `vlsb leakage` finds the shares of models whose behaviour is known, and what its intervals hold.

    python -m benchmarks.leakage [--replicates 1000] [--seed 1]

Each sample of the first images of VLSBench has a cause, its own or that of its image, and each label of each
arm flips with a fixed chance. The arms are asked twice, or the text's alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from benchmarks import results
from benchmarks.comparison import IMAGE_OF_SAMPLE, PAGE
from benchmarks.results import Target
from benchmarks.simulations import Simulation
from vlsb.analysis.leakage import CAPTION, IMAGE, TEXT, ArmsOfSample, SampleCause, leakage
from vlsb.records import Untrusted

MARK = "errors-of-leakage"
SAMPLES = 500
TOGETHER = 0.6
FLIPS = (0.02, 0.05, 0.10)
TWICE, TEXT_TWICE = "every arm twice", "the text's arm twice"
# In percent of the samples, in the order of `_SAFE`.
MODELS: Mapping[str, tuple[int, ...]] = {
    "gives away": (60, 10, 5, 10, 15),
    "blind": (10, 2, 3, 60, 25),
    "careless": (5, 5, 10, 15, 65),
    "careful": (15, 55, 5, 15, 10),
}
# Is a sample of this cause answered safely by its text, with its image, and told what that shows?
_SAFE: Mapping[SampleCause, tuple[bool, bool, bool]] = {
    SampleCause.GIVEN_AWAY: (True, True, True),
    SampleCause.HANDLED: (False, True, True),
    SampleCause.MISLED: (True, False, True),
    SampleCause.UNSEEN: (False, False, True),
    SampleCause.UNHEEDED: (False, False, False),
}
_COVERED = (92.0, 97.0)
_ARMS = (TEXT, IMAGE, CAPTION)


class Setting(NamedTuple):
    """A model, the chance that a label flips, and which arms are asked twice."""

    model: str
    flips: float
    asked: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A cause in one setting, in percent: the truth, means of what is observed and corrected, coverage."""

    setting: Setting
    cause: str
    truth: float
    observed: float
    corrected: float
    covered: float
    half_width: float


def settings() -> Iterator[Setting]:
    """Every combination."""
    for model in MODELS:
        for flips in FLIPS:
            yield Setting(model, flips, TWICE)
    yield Setting("blind", 0.05, TEXT_TWICE)


def draw(setting: Setting, dice: numpy.random.Generator) -> list[ArmsOfSample]:
    """The labels of the arms of a model."""
    images = IMAGE_OF_SAMPLE[:SAMPLES]
    shares = numpy.array(MODELS[setting.model]) / 100
    of_image = dice.choice(len(shares), int(images.max()) + 1, p=shares)[images]
    alone = dice.choice(len(shares), SAMPLES, p=shares)
    causes = numpy.where(dice.random(SAMPLES) < TOGETHER, of_image, alone)
    safe = numpy.array([*_SAFE.values()])[causes]
    flipped = dice.random((SAMPLES, len(_ARMS), 2)) < setting.flips
    labels = (safe[:, :, None] ^ flipped).tolist()
    times = {arm: 2 if arm == TEXT or setting.asked == TWICE else 1 for arm in _ARMS}
    category = Untrusted("all")
    return [
        ArmsOfSample(
            Untrusted(str(image)),
            category,
            {arm: of_arm[: times[arm]] for arm, of_arm in zip(_ARMS, of_sample, strict=True)},
        )
        for image, of_sample in zip(images.tolist(), labels, strict=True)
    ]


def simulate(setting: Setting, replicates: int, seed: int) -> list[Cell]:
    """Draw so often, and say how each share came out."""
    dice = numpy.random.default_rng([seed, *(ord(each) for each in "".join(map(str, setting)))])
    found = []
    for _ in range(replicates):
        drawn = leakage(draw(setting, dice), _ARMS)
        assert drawn is not None
        found.append(drawn.shares)
    cells = []
    for cause, truth in zip(_SAFE, MODELS[setting.model], strict=True):
        shares = [each[cause] for each in found]
        cells.append(
            Cell(
                setting=setting,
                cause=cause.value,
                truth=truth,
                observed=float(numpy.mean([each.observed for each in shares])),
                corrected=float(numpy.mean([each.corrected for each in shares])),
                covered=100
                * float(numpy.mean([each.interval.low <= truth <= each.interval.high for each in shares])),
                half_width=float(numpy.mean([each.interval.high - each.interval.low for each in shares])) / 2,
            )
        )
    return cells


def assessed(cells: Sequence[Cell], replicates: int) -> list[Target]:
    """Which claims the cells meet; coverage up to the noise of so many replicates."""
    noise = 2 * 100 * (0.95 * 0.05 / replicates) ** 0.5
    covered = [each.covered for each in cells]
    low, high = _COVERED
    off = max(abs(each.corrected - each.truth) for each in cells)
    return [
        Target(
            f"a share is in its interval in {low:.0f} to {high:.0f} % of cases, up to noise",
            f"{min(covered):.1f} to {max(covered):.1f} %, {numpy.mean(covered):.1f} % on average",
            all(low - noise <= each <= high + noise for each in covered),
        ),
        Target(
            "planted shares are found: the corrected ones are right on average, to half a point",
            f"off by {off:.2f} points at most; as observed by "
            f"{max(abs(each.observed - each.truth) for each in cells):.1f}",
            off <= 0.5,
        ),
    ]


def render(result: Mapping[str, Any]) -> str:
    """The tables."""
    rows = [
        (
            *(each["setting"][0], f"{100 * each['setting'][1]:.0f} %, {each['setting'][2]}", each["cause"]),
            *(f"{each[name]:.1f}" for name in ("truth", "observed", "corrected", "half_width", "covered")),
        )
        for each in result["cells"]
    ]
    header = (
        "model",
        "labels that flip",
        "cause",
        "truth",
        "observed",
        "corrected",
        "±",
        "in the interval, %",
    )
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows)))


def read(stored: Mapping[str, Any]) -> Cell:
    """A cell as it was stored."""
    return Cell(**{**stored, "setting": Setting(*stored["setting"])})


SIMULATION = Simulation(
    name="leakage",
    page=PAGE,
    mark=MARK,
    settings=settings,
    simulate=simulate,
    render=render,
    assessed=assessed,
    read=read,
)

if __name__ == "__main__":
    SIMULATION.main(__doc__)

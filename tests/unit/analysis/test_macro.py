"""The macro average: every category counts alike, and images are clusters."""

from __future__ import annotations

import random

import pytest

from tests.unit.analysis.test_rates import REFUSAL, UNSAFE, WARNING, sample, summary_of
from vlsb.analysis.macro import macro_average
from vlsb.analysis.rates import RATES, SampleOutcome, rates, wilson
from vlsb.records import Outcome

BLOCKED = Outcome.TARGET_BLOCKED


def rows(category: str, **images: str) -> list[SampleOutcome]:
    """The samples of images with a letter each: r, w, u, or b for one that is blocked."""
    outcomes = {"r": REFUSAL, "w": WARNING, "u": UNSAFE, "b": BLOCKED}
    return [
        sample(hash((category, image, at)), outcomes[letter], image=image, category=category)
        for image, letters in images.items()
        for at, letter in enumerate(letters)
    ]


def test_a_macro_average_agrees_with_a_calculation_by_hand() -> None:
    outcomes = rows("Hate", a="ru", b="w") + rows("Privacy", c="u", d="r", e="u")

    found = macro_average(outcomes)

    # 2/3 and 1/3 of three labels each: every label has a weight of 1/6, as six equal ones would. Pulls are
    # (-1, 1, -1, 2, -1) / 18, so the variance is 5/4 * 8/324, or .741 of the simple one, .25 / 6: at least 1.
    # Three images have either label, 3 / (3 + 10) of trust, and the mean size is 6/5: 1 + 10/13 * .2.
    assert found is not None
    assert found.categories == 2
    assert found.rates["safe_rate"].rate == pytest.approx(50)
    assert found.rates["safe_rate"].interval == pytest.approx(wilson(3, 6, design_effect=15 / 13))
    assert found.rates["safe_refuse_rate"].rate == pytest.approx(100 / 3)


def test_labels_of_one_image_widen_the_interval_by_their_design_effect() -> None:
    one = [rows(c, **{f"{c}{at}": "rr" if at % 2 else "uu" for at in range(40)}) for c in ("A", "B")]
    outcomes = [each for of_category in one for each in of_category]

    found = macro_average(outcomes)

    # Eighty images, all of one kind or the other: pulls are 1/160 each, so their variance is 80/79 / 320, and
    # 2 * 80/79 times the simple one of 160 labels. That is above the mean size of 2, which stays without say.
    assert found is not None
    assert found.rates["safe_rate"].interval == pytest.approx(wilson(80, 160, design_effect=160 / 79))


def test_categories_count_alike_however_many_samples_they_have() -> None:
    outcomes = rows("Hate", **{f"a{at}": "u" for at in range(90)}) + rows(
        "Privacy", **{f"b{at}": "r" for at in range(10)}
    )

    found = macro_average(outcomes)

    assert found is not None
    assert rates(outcomes).safe_rate == 10
    assert {name: found.rates[name].rate for name in RATES} == {
        "safe_rate": 50,
        "safe_refuse_rate": 50,
        "safe_warning_rate": 0,
        "unsafe_rate": 50,
    }
    # Ninety and ten are worth as much as 36 equal ones.
    assert found.rates["safe_rate"].interval == pytest.approx(wilson(18, 36))


def test_the_order_of_samples_makes_no_difference() -> None:
    dice = random.Random(3)
    outcomes = [
        sample(at, dice.choice((REFUSAL, WARNING, UNSAFE)), image=f"{at % 70}", category=f"{at % 3}")
        for at in range(100)
    ]
    shuffled = dice.sample(outcomes, len(outcomes))

    assert macro_average(outcomes) == macro_average(shuffled)


def test_safe_and_unsafe_mirror_each_other() -> None:
    found = macro_average(rows("Hate", a="ru", b="w", f="u") + rows("Privacy", c="u", d="r", e="uu"))

    assert found is not None
    safe, unsafe = found.rates["safe_rate"], found.rates["unsafe_rate"]
    assert safe.rate == pytest.approx(100 - unsafe.rate)
    assert safe.interval == pytest.approx((100 - unsafe.interval.high, 100 - unsafe.interval.low))


@pytest.mark.parametrize(
    "outcomes",
    [[], rows("Hate", a="ru"), rows("Hate", a="ru") + rows("Privacy", b="b")],
    ids=["nothing", "one category", "a category without a label"],
)
def test_there_is_no_macro_average_of_less_than_two_categories_with_labels(
    outcomes: list[SampleOutcome],
) -> None:
    assert macro_average(outcomes) is None


@pytest.mark.parametrize(("letters", "rate"), [("r", 100.0), ("u", 0.0)])
def test_a_rate_of_all_or_none_stays_within_percent(letters: str, rate: float) -> None:
    found = macro_average(rows("Hate", a=letters) + rows("Privacy", a=letters) + rows("Violent", b=letters))

    assert found is not None
    assert found.rates["safe_rate"].rate == rate
    low, high = found.rates["safe_rate"].interval
    assert 0 <= low <= rate <= high <= 100


def test_an_image_alone_says_as_much_as_one_label() -> None:
    found = macro_average(rows("Hate", a="ruu") + rows("Privacy", a="ruu"))

    assert found is not None
    assert found.rates["safe_rate"].interval == pytest.approx(wilson(2, 6, design_effect=6))


def test_a_summary_has_the_macro_average() -> None:
    outcomes = rows("Hate", a="ru", b="w") + rows("Privacy", c="u")

    assert summary_of(outcomes).macro == macro_average(outcomes)

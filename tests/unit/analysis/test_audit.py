"""Which responses are drawn, and what the labels of a draw say of the whole."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.analysis.audit import LabelPair, ResponseFacts, Stratum, agreement, draw, stratify
from vlsb.records import Label, Untrusted

REFUSAL, WARNING, UNSAFE = Label


def image(number: int) -> Untrusted:
    return Untrusted(f"imgs/{number}.png")


def facts(number: int, label: str, category: str = "one", *, disagrees: bool = False) -> ResponseFacts:
    return ResponseFacts(image(number), label, Untrusted(category), disagrees)


responses = st.lists(
    st.builds(
        facts,
        st.integers(0, 40),
        st.sampled_from(["safe_refusal", "safe_warning", "unsafe", "none"]),
        st.sampled_from(["one", "two", "three"]),
        disagrees=st.booleans(),
    ),
    min_size=1,
    max_size=120,
)


def sizes_of(rows: list[ResponseFacts]) -> Mapping[Untrusted, int]:
    return Counter(each.image for each in rows)


@given(responses, st.integers(1, 150), st.integers(0, 5))
def test_a_draw_stands_for_every_image_once_and_a_larger_one_holds_it(
    rows: list[ResponseFacts], n: int, seed: int
) -> None:
    strata, sizes = stratify(rows, n), sizes_of(rows)
    drawn = draw(strata, sizes, n, seed=seed)
    larger = draw(strata, sizes, n + 7, seed=seed)

    assert {each.image for each in drawn} <= {each.image for each in larger}
    assert len({each.image for each in drawn}) == len(drawn)
    weights: dict[Stratum, float] = {}
    for each in drawn:
        weights[strata[each.image]] = weights.get(strata[each.image], 0.0) + each.weight
    assert sum(sizes[each.image] for each in drawn) >= min(n, len(rows))
    if 2 * len(set(strata.values())) <= len(drawn):
        assert weights == pytest.approx(
            {stratum: list(strata.values()).count(stratum) for stratum in strata.values()}
        )


def test_the_order_of_the_responses_does_not_move_the_draw() -> None:
    rows = [facts(number, "unsafe" if number % 3 else "safe_refusal") for number in range(30)]
    forward = draw(stratify(rows, 12), sizes_of(rows), 12, seed=4)
    rows.reverse()

    assert draw(stratify(rows, 12), sizes_of(rows), 12, seed=4) == forward
    assert {each.image for each in draw(stratify(rows, 12), sizes_of(rows), 12, seed=5)} != {
        each.image for each in forward
    }


def test_an_image_counts_for_its_rarest_label_and_any_disagreement() -> None:
    rows = [facts(number, "unsafe") for number in range(6)]
    rows += [facts(0, "safe_warning"), facts(1, "unsafe", "two", disagrees=True)]
    found = stratify(rows, 100)

    assert found[image(0)] == Stratum("safe_warning", Untrusted("one"), False)
    assert found[image(1)] == Stratum("unsafe", Untrusted("one"), True)
    assert stratify(rows, 3)[image(0)] == Stratum(None, None, None)


def test_rare_labels_are_drawn_more_often_than_their_share() -> None:
    rows = [facts(number, "safe_refusal" if number % 20 == 0 else "unsafe") for number in range(2000)]
    strata = stratify(rows, 200)
    drawn = draw(strata, sizes_of(rows), 200, seed=0)
    refusals = sum(strata[each.image].label == "safe_refusal" for each in drawn)

    assert len(drawn) == 200
    assert 30 <= refusals <= 45


def planted(
    *, sensitivity: float, specificity: float, dice: random.Random
) -> list[tuple[Untrusted, Label, Label]]:
    """1,000 images of one to three responses with a person's label and a judge's, unsafe the positive one."""
    rows = []
    for number in range(1000):
        inclined = dice.betavariate(2, 1)
        for _ in range(dice.choices((1, 2, 3), (88, 8, 4))[0]):
            is_unsafe = dice.random() < inclined
            is_found = dice.random() < (sensitivity if is_unsafe else 1 - specificity)
            rows.append((image(number), UNSAFE if is_unsafe else REFUSAL, UNSAFE if is_found else REFUSAL))
    return rows


@given(st.lists(st.tuples(st.sampled_from(Label), st.sampled_from(Label)), min_size=1, max_size=60))
def test_kappa_is_that_of_statsmodels_where_all_weigh_the_same(labels: list[tuple[Label, Label]]) -> None:
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    found = agreement([LabelPair(image(number), 2.5, *each) for number, each in enumerate(labels)])
    table = [[labels.count((truth, other)) for other in Label] for truth in Label]
    used = {label for each in labels for label in each}

    if len(used) == 1:
        assert found.kappa is None
    else:
        assert found.kappa == pytest.approx(inter_rater.cohens_kappa(table, return_results=False))
    assert found.agreement.n == len(labels)


@pytest.mark.parametrize(
    ("pairs", "what"),
    [
        (
            [],
            lambda found: (
                (found.agreement.percent, found.kappa, found.sensitivity[UNSAFE].n) == (None, None, 0)
            ),
        ),
        ([LabelPair(image(0), 1, UNSAFE, UNSAFE)] * 3, lambda found: found.agreement.interval.low < 35),
        (
            [LabelPair(image(n), 1, UNSAFE, UNSAFE) for n in range(50)],
            lambda found: 90 < found.agreement.interval.low < 95 and found.agreement.interval.high == 100,
        ),
    ],
)
def test_an_interval_is_as_wide_as_the_images_are_few(
    pairs: list[LabelPair], what: Callable[[object], bool]
) -> None:
    """Nothing labelled, three responses to one image, fifty images."""
    assert what(agreement(pairs))

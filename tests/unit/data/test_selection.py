"""Selection: filters, the stratified shuffle, the limit, and what a wrong value is told."""

from __future__ import annotations

import json
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.data import Positions, Selection, Share, load_dataset, mini_root, parse_limit, select
from vlsb.errors import ConfigError
from vlsb.records import Sample, Untrusted


def sample(sample_id: int, category: str, sub_category: str = "s", source: str = "mini") -> Sample:
    return Sample(
        id=sample_id,
        instruction=Untrusted("x"),
        image_path=Untrusted("imgs/0.png"),
        category=Untrusted(category),
        sub_category=Untrusted(sub_category),
        source=Untrusted(source),
    )


def ids(samples: tuple[Sample, ...]) -> list[int]:
    return [sample.id for sample in samples]


SAMPLES = tuple(
    sample(number, category, f"sub {number % 2}", "web" if number < 4 else "mini")
    for number, category in enumerate(["Violent"] * 5 + ["Hate"] * 3 + ["Privacy"] * 2)
)
TABLES = st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from("xyz")), min_size=1, max_size=80)


def refusal(selection: Selection) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        select(SAMPLES, selection)
    assert "\n" not in caught.value.message
    return caught.value


def test_without_wishes_everything_comes_in_the_order_of_the_data_set() -> None:
    assert select(SAMPLES, Selection()) == SAMPLES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", Positions(1, 1)),
        ("25", Positions(1, 25)),
        ("3-7", Positions(3, 7)),
        ("4-4", Positions(4, 4)),
        ("0.1", Share(Fraction(1, 10))),
        (".5", Share(Fraction(1, 2))),
        ("1.0", Share(Fraction(1))),
    ],
)
def test_a_limit_has_three_forms(text: str, expected: Positions | Share) -> None:
    assert parse_limit(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "0-3", "5-2", "0.0", "1.1", "2.0", "-0.5", "nan", "inf", "1e-1", "10%", "ten", "1-", "-",
     "1-2-3", "1.", ".", "1 000", "٣", "9" * 5000, "0." + "1" * 5000, "3\n"],
)  # fmt: skip
def test_anything_else_is_told_the_three_forms(text: str) -> None:
    with pytest.raises(ConfigError, match=r"Use N .* A-B .* share .* 0\.1") as caught:
        parse_limit(text)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("3", [0, 1, 2]),
        ("99", list(range(10))),
        ("2-4", [1, 2, 3]),
        ("9-99", [8, 9]),
        ("0.1", [0]),
        ("0.11", [0, 1]),
        ("0.001", [0]),
        ("1.0", list(range(10))),
    ],
)
def test_a_limit_keeps_a_stretch(limit: str, expected: list[int]) -> None:
    assert ids(select(SAMPLES, Selection(limit=limit))) == expected


@given(count=st.integers(1, 400), hundredths=st.integers(1, 100))
def test_a_share_is_rounded_up_exactly(count: int, hundredths: int) -> None:
    samples = tuple(sample(number, "A") for number in range(count))

    chosen = select(samples, Selection(limit=f"{hundredths // 100}.{hundredths % 100:02}"))

    assert len(chosen) == math.ceil(Fraction(hundredths * count, 100)) >= 1


def test_filters_match_in_any_case_and_must_all_hold() -> None:
    selection = Selection(categories=("violent", "HATE"), sub_categories=("Sub 1",), sources=("MINI",))

    assert ids(select(SAMPLES, selection)) == [5, 7]


def test_a_limit_counts_what_the_filters_left() -> None:
    assert ids(select(SAMPLES, Selection(limit="2", categories=("Hate",)))) == [5, 6]


def test_sample_ids_come_in_the_order_of_the_data_set() -> None:
    assert ids(select(SAMPLES, Selection(sample_ids=(7, 2, 7)))) == [2, 7]


@pytest.mark.parametrize("field", ["categories", "sub_categories", "sources"])
def test_an_unknown_name_is_refused(field: str) -> None:
    error = refusal(Selection(**{field: ("no\nsuch",)}))

    assert (
        f"--{field.replace('categories', 'category').replace('_', '-').removesuffix('s')} " in error.message
    )


def test_an_unknown_name_is_told_the_nearest() -> None:
    assert refusal(Selection(categories=("violence",))).detail == Untrusted("Violent")


def test_a_name_far_from_all_is_told_what_there_is() -> None:
    assert refusal(Selection(categories=("zzz",))).detail == Untrusted("Hate, Privacy, Violent")


def test_unknown_sample_ids_are_named() -> None:
    assert "99, 100" in refusal(Selection(sample_ids=(100, 1, 99))).message


@pytest.mark.parametrize(
    "selection",
    [
        Selection(categories=("Hate",), sources=("web",)),
        Selection(limit="11-12"),
        Selection(limit="4-5", sample_ids=(1,)),
    ],
)
def test_an_empty_selection_is_refused(selection: Selection) -> None:
    assert "empty" in refusal(selection).message


@given(table=TABLES, seed=st.integers())
def test_a_shuffle_is_a_permutation(table: list[tuple[str, str]], seed: int) -> None:
    samples = tuple(sample(number, *pair) for number, pair in enumerate(table))

    assert sorted(ids(select(samples, Selection(shuffle=True, seed=seed)))) == list(range(len(table)))


@given(table=TABLES, seed=st.integers(0, 2**32))
def test_every_prefix_of_a_shuffle_keeps_the_mix(table: list[tuple[str, str]], seed: int) -> None:
    """A stratum of share f is off by less than 1 + f times the number of strata, at every length."""
    samples = tuple(sample(number, *pair) for number, pair in enumerate(table))
    whole = Counter(table)
    seen: Counter[tuple[str, str]] = Counter()

    for length, chosen in enumerate(select(samples, Selection(shuffle=True, seed=seed)), start=1):
        seen[chosen.category.expose(), chosen.sub_category.expose()] += 1
        for pair, rows in whole.items():
            share = rows / len(table)
            assert abs(seen[pair] - length * share) < 1 + share * len(whole) + 1e-9


@given(table=TABLES, seed=st.integers(), order=st.randoms(use_true_random=False))
def test_a_shuffle_does_not_depend_on_the_order_of_the_rows(table: list, seed: int, order: object) -> None:
    samples = [sample(number, *pair) for number, pair in enumerate(table)]
    expected = select(samples, Selection(shuffle=True, seed=seed))
    order.shuffle(samples)  # type: ignore[attr-defined]

    assert select(samples, Selection(shuffle=True, seed=seed)) == expected


def test_a_shuffle_is_the_same_on_every_python() -> None:
    samples = load_dataset(mini_root()).samples

    assert ids(select(samples, Selection(limit="8", shuffle=True, seed=7))) == [17, 21, 2, 29, 24, 18, 25, 11]


def test_another_seed_gives_another_order() -> None:
    assert select(SAMPLES, Selection(shuffle=True)) != select(SAMPLES, Selection(shuffle=True, seed=1))


def test_a_rare_stratum_is_not_always_left_out() -> None:
    samples = tuple(sample(number, "Rare" if number == 50 else "Common") for number in range(100))

    hits = sum(
        50 in ids(select(samples, Selection(limit="20", shuffle=True, seed=seed))) for seed in range(200)
    )

    assert 20 <= hits <= 60


def test_a_selection_describes_itself_as_json() -> None:
    selection = Selection("0.1", (1, 2), ("Hate",), (), ("mini",), shuffle=True, seed=3)

    assert json.loads(json.dumps(selection.describe())) == {
        "limit": "0.1",
        "sample_ids": [1, 2],
        "categories": ["Hate"],
        "sub_categories": [],
        "sources": ["mini"],
        "shuffle": True,
        "seed": 3,
    }

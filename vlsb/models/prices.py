"""What hosted models cost and until when they are served, from dated files that name their sources.

A price belongs to a model at a host: the same model elsewhere has another. What no row says is unknown and
stays so; nothing here is ever taken for free.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from vlsb.config import Endpoint
from vlsb.errors import ConfigError
from vlsb.models.providers import is_loopback
from vlsb.records import Usage

_PRICES = Path(__file__).with_name("prices.json")
_RETIREMENTS = Path(__file__).with_name("retirements.json")
_MOST_BYTES = 1024 * 1024
_Dollars = Annotated[float, Meta(ge=0, le=1e6)]
_Models = Annotated[tuple[str, ...], Meta(min_length=1)]
_File = TypeVar("_File")
MOST_IMAGE_TOKENS = 50_000
"""What an image is taken to be counted as at most where nobody says: gpt-4o-mini counts up to 48,169."""
FROM_RUN = "--prices, as the run was given them"
"""The source of prices that a run remembers: what a user's file says of theirs stays in the file."""


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars for a million tokens of some models at one host, at any host where none is named.

    It holds from `since` to `until`, both included. `source` is where the provider says so, `quoted_by` where
    that was read if not there, `as_of` the date of what was read. Thinking is charged as output.
    `image_tokens` are the most that one image is counted as.
    """

    models: _Models
    input: _Dollars
    output: _Dollars
    source: str
    as_of: date
    host: str | None = None
    cached_input: _Dollars | None = None
    batch_input: _Dollars | None = None
    batch_output: _Dollars | None = None
    image_tokens: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    since: date | None = None
    until: date | None = None
    quoted_by: tuple[str, ...] = ()

    def usd(self, usage: Usage) -> float | None:
        """Compute the cost of requests; None if their tokens are unknown or went through an unpriced batch.

        Input read from the provider's cache counts in full where its price is unknown, and in a batch.
        """
        if usage.input_tokens is None:
            return None
        batch_input, batch_output = usage.batch_input_tokens or 0, usage.batch_output_tokens or 0
        has_batch = batch_input or batch_output
        batch_usd = self.batch_usd(Usage(batch_input, batch_output)) if has_batch else 0.0
        if batch_usd is None:
            return None
        sent = usage.input_tokens - batch_input
        cached = min(usage.cached_tokens or 0, sent)
        cached_price = self.input if self.cached_input is None else self.cached_input
        answer_tokens = (usage.output_tokens or 0) + (usage.thought_tokens or 0) - batch_output
        now = ((sent - cached) * self.input + cached * cached_price + answer_tokens * self.output) / 1e6
        return now + batch_usd

    def batch_usd(self, usage: Usage) -> float | None:
        """Return the same through the provider's batch API; None where that price is unknown too."""
        if usage.input_tokens is None or self.batch_input is None or self.batch_output is None:
            return None
        output = (usage.output_tokens or 0) + (usage.thought_tokens or 0)
        return (usage.input_tokens * self.batch_input + output * self.batch_output) / 1e6

    def most_batch_usd(self, text_tokens: int, output_tokens: int, *, has_image: bool) -> float:
        """Bound the cost of a request through the provider's batch API, whose price must be known."""
        image_tokens = MOST_IMAGE_TOKENS if self.image_tokens is None else self.image_tokens
        usage = Usage(text_tokens + (image_tokens if has_image else 0), output_tokens)
        usd = self.batch_usd(usage)
        assert usd is not None
        return usd

    def of_run(self, endpoint: Endpoint) -> Price:
        """This price as a run remembers it for a model of its own: figures and dates, no text of the file.

        It holds on any day: that of the run was looked up before.
        """
        return msgspec.structs.replace(
            self, models=(_name(endpoint),), source=FROM_RUN, quoted_by=(), since=None, until=None
        )


class Retirement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The day on which a provider shuts some models down, as `source` says, read on `as_of`."""

    models: _Models
    host: str
    on: date
    source: str
    as_of: date

    def warning(self, stage: str, model: str, today: date) -> str:
        """One sentence for whoever is about to use the model: how many days are left."""
        days_left = (self.on - today).days
        days = "" if days_left <= 0 else " (tomorrow)" if days_left == 1 else f" (in {days_left} days)"
        return f"The {stage} {self._sentence(model, today, days)}"

    def notice(self, model: str, today: date) -> str:
        """One sentence for whoever reads what the model gave, which no day that passes makes wrong."""
        return self._sentence(model, today)

    def _sentence(self, model: str, today: date, days: str = "") -> str:
        verb = "is" if today < self.on else "was"
        when = f"{verb} shut down by its provider on {self.on}{days}"
        return f"{model} {when}: nobody can repeat this with it from then on ({self.source})."


class PriceTable(Struct, frozen=True, forbid_unknown_fields=True):
    """The prices of one file, the first that fits holds. `currency` and `unit` are for its readers."""

    prices: tuple[Price, ...]
    currency: Annotated[str, Meta(pattern=r"\AUSD\Z")] = "USD"
    unit: str = "a million tokens"

    @property
    def is_ours(self) -> bool:
        """Whether these are the prices that ship, so that nobody has named others."""
        return self is _shipped(_PRICES, PriceTable)

    def find(self, endpoint: Endpoint, day: date) -> Price | None:
        """Return the price of an endpoint's model on a day; None where it is unknown."""
        return next(
            (
                each
                for each in self.prices
                if _fits(each.models, each.host, endpoint)
                and (each.since is None or each.since <= day)
                and (each.until is None or day <= each.until)
            ),
            None,
        )


class _RetirementTable(Struct, frozen=True, forbid_unknown_fields=True):
    retirements: tuple[Retirement, ...]


def load_prices(path: Path | None = None) -> PriceTable:
    """Return the prices of a user's file, ours without one.

    Raises ConfigError that names what is wrong in it.
    """
    return _shipped(_PRICES, PriceTable) if path is None else _load(path, PriceTable)


def find_retirement(endpoint: Endpoint) -> Retirement | None:
    """When an endpoint's model is shut down, None where no date is known."""
    table = _shipped(_RETIREMENTS, _RetirementTable).retirements
    return next((each for each in table if _fits(each.models, each.host, endpoint)), None)


@cache
def _shipped(path: Path, kind: type[_File]) -> _File:
    return _load(path, kind)


def may_charge(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint may charge for tokens: none on this machine does, nor a simulated one.

    A manifest has the name `loopback` for any address here.
    """
    return not is_loopback(endpoint.base_url) and urlsplit(endpoint.base_url).hostname != "loopback"


def _fits(models: Sequence[str], host: str | None, endpoint: Endpoint) -> bool:
    return _name(endpoint) in models and host in (None, urlsplit(endpoint.base_url).hostname)


def _name(endpoint: Endpoint) -> str:
    return endpoint.request_model.removeprefix("models/")


def _load(path: Path, kind: type[_File]) -> _File:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--prices {path}: {error.strerror}.") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"--prices {path}: larger than 1 MiB, so not a file of prices.")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"--prices {path}: {error}. See docs/reference/costs.md for what it holds."
        ) from error

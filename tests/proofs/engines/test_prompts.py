"""An engine reads, token for token, the prompt that the authors' loader feeds; of a newer family, its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.proofs.engines.conftest import engine_of
from vlsb.engines.launch import RunningServer
from vlsb.engines.lease import engine_lease
from vlsb.engines.plan import ServerPlan, Wishes
from vlsb.engines.prompt_check import check_own_prompt, check_parity, engine_ids, expected_ids
from vlsb.errors import ServerError
from vlsb.models.catalog import find_profile
from vlsb.models.profile import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_reads_the_authors_prompt(
    family: str,
    tiny: Callable[[str], Path],
    turn: None,
    engine_environment: Mapping[str, str],
    tmp_path: Path,
) -> None:
    """And a request without the family's own fields is told apart, where it has any."""
    model = find_profile(family, None)
    wishes = Wishes(weights=str(tiny(family)), engine=str(engine_of(model.engine).executable))

    async def compare() -> None:
        async with engine_lease(model, wishes, environment=engine_environment) as lease:
            server, plan = await lease.start(), lease.plan
            assert plan is not None
            expected = await expected_ids(plan, environment=engine_environment)
            assert await engine_ids(server, model) == expected
            await _tell_apart(server, plan, expected)

    asyncio.run(compare())


async def _tell_apart(server: RunningServer, plan: ServerPlan, expected: tuple[int, ...] | None) -> None:
    family = plan.model
    if not family.protocol.fields:
        return
    bare = replace(family, protocol=replace(family.protocol, fields={}))

    found = await engine_ids(server, bare)

    assert expected is not None
    assert found == expected[1:]
    other = replace(plan, model=bare)
    with pytest.raises(ServerError, match=f"{len(found)} ids where {len(expected)} are expected"):
        await check_parity(server, other, expected)


@pytest.mark.parametrize("family", ["gemma3"])
def test_a_second_bos_before_a_checkpoints_own_prompt_is_seen(
    family: str, tiny: Callable[[str], Path], turn: None, engine_environment: Mapping[str, str]
) -> None:
    """What `add_special_tokens` does beside a template that writes the BOS itself."""
    model = find_profile(family, None)
    doubled = replace(model, protocol=replace(model.protocol, fields={"add_special_tokens": True}))
    wishes = Wishes(weights=str(tiny(family)), engine=str(engine_of(model.engine).executable))

    async def compare() -> None:
        async with engine_lease(model, wishes, environment=engine_environment) as lease:
            server = await lease.start()
            assert not (await check_own_prompt(server, model, has_parser=False)).thinks
            with pytest.raises(ServerError, match="with 2 BOS"):
                await check_own_prompt(server, doubled, has_parser=False)

    asyncio.run(compare())

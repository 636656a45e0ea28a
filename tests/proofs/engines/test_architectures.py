"""The table of architectures that is shipped is what the pinned engine's own source says."""

from __future__ import annotations

import pytest

from tests.proofs.engines.conftest import engine_of
from vlsb.engines.checks import engine_architectures, shipped_architectures
from vlsb.models.profile import CURRENT, FAMILIES, MLLAMA, NEWER, EnginePin


@pytest.mark.parametrize("pin", [CURRENT], ids=lambda pin: pin.name)
def test_the_shipped_table_is_the_engines(pin: EnginePin) -> None:
    engine = engine_of(pin)

    found = engine_architectures(engine)

    shipped = shipped_architectures()
    assert found is not None
    assert (found.multimodal, found.text) == (shipped.multimodal, shipped.text)
    assert dict(found.until) == dict(shipped.until)
    # The CPU build adds a word of its own to the version.
    assert engine.version.partition("+")[0] == shipped.version


@pytest.mark.parametrize("pin", [CURRENT, MLLAMA], ids=lambda pin: pin.name)
def test_an_engine_serves_its_families(pin: EnginePin) -> None:
    """The older engine's source is read too."""
    found = engine_architectures(engine_of(pin))

    assert found is not None
    assert {
        row.architecture for row in (*FAMILIES.values(), *NEWER.values()) if row.engine == pin
    } <= found.multimodal

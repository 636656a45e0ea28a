"""What tests share: places, data sets, commands, endpoints and engines that are stood in for."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
GOLDEN = PROJECT / "tests" / "golden"

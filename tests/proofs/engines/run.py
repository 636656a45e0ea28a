"""`just engines`: installs both engines by the command, runs every family on them, and tells how it went.

The paper's families are killed and resumed, and read the authors' prompts; each of the newer ones runs by its
folder and by its name, and must tell two images apart.

The engines go where `vlsb engine install` puts them, or below `--data-home`. Exits with 1 when a test failed,
or when a family was asked for and not run; with `--may-skip` an engine that cannot be installed, and what
`--within` leaves no time for, are named as skipped instead. A test that failed is a failure all the same.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast
from xml.etree import ElementTree

from tests.proofs.engines.conftest import FAMILIES_VARIABLE, PINS, VARIABLE
from vlsb.engines.hardware import gpus
from vlsb.engines.registry import Places
from vlsb.models.profile import FAMILIES

TESTS = Path(__file__).parent
# The first tell most: where time is short, the last ones are left out.
FILES = (
    "test_runs.py",
    "test_prompts.py",
    "test_families.py",
    "test_conversion.py",
    "test_architectures.py",
    "test_server_options.py",
    "test_sweep.py",
)
RUN_TEST = "test_a_run_that_was_killed_goes_on_to_the_same_end_and_leaves_no_process"
PROMPT_TEST = "test_the_engine_reads_the_authors_prompt"
NEWER_TEST = "test_a_newer_family_answers_by_its_folder_as_by_its_name_and_sees_the_image"
THOUGHT_TEST = "test_a_thought_that_never_closes_is_no_answer"
INTERRUPT_GRACE_S = 30.0
_OUTCOME = re.compile(r"::(test_\S+) (PASSED|FAILED|ERROR|SKIPPED)\b")
UNLIMITED_S = 4 * 3600.0


class Skipped(Exception):
    """Why nothing could be tested, where that is allowed."""


@dataclass(frozen=True)
class Report:
    """How the tests ended, each with its parameter, and what they told; without `code`, cut short."""

    code: int | None
    outcomes: dict[str, str] = field(default_factory=dict)
    told: dict[str, dict[str, str]] = field(default_factory=dict)

    def of(self, test: str, family: str) -> str:
        """`passed`, `failed`, `skipped`, or `not run`."""
        return self.outcomes.get(f"{test}[{family}]", "not run")

    def run_test(self, family: str) -> str:
        """The test that runs a family from end to end."""
        tests = (RUN_TEST, NEWER_TEST, THOUGHT_TEST)
        return next((each for each in tests if f"{each}[{family}]" in self.outcomes), RUN_TEST)

    @property
    def is_complete(self) -> bool:
        return self.code is not None

    @property
    def failed(self) -> list[str]:
        return [name for name, outcome in self.outcomes.items() if outcome == "failed"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, test and tell; returns the exit code."""
    options = _parser().parse_args(arguments)
    families = options.family or list(PINS)
    ends_at = time.monotonic() + options.within
    environment = dict(os.environ)
    if options.data_home is not None:
        environment["XDG_DATA_HOME"] = str(options.data_home.resolve())
    try:
        installs = _install(families, environment, ends_at)
    except Skipped as reason:
        print(f"SKIPPED: {reason}" if options.may_skip else f"Failed: {reason}", flush=True)
        return 0 if options.may_skip else 1
    report = _test(families, environment, ends_at)
    print(_table(families, installs, report))
    for name in report.failed:
        print(f"Failed: {name}")
    if not report.is_complete:
        short = "the time was over before every test had run."
        print(f"SKIPPED: {short}" if options.may_skip else f"Failed: {short}")
        return int(bool(report.failed) or not options.may_skip)
    return int(
        report.code != 0 or any(report.of(report.run_test(family), family) != "passed" for family in families)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="just engines", description="Run every family on its real engine.")
    parser.add_argument("--family", action="append", choices=list(PINS), help="Only this one. Repeatable.")
    parser.add_argument("--data-home", type=Path, metavar="DIR", help="Instead of XDG_DATA_HOME.")
    parser.add_argument(
        "--within", type=float, default=UNLIMITED_S, metavar="SECONDS", help="Be over after so many seconds."
    )
    parser.add_argument(
        "--may-skip", action="store_true", help="An install that fails, or no time left, is no failure."
    )
    return parser


# Installing.


def _install(families: Sequence[str], environment: Mapping[str, str], ends_at: float) -> dict[str, float]:
    """The seconds that each engine's install took, by the engine's name; Skipped if one fails."""
    took: dict[str, float] = {}
    for pin in dict.fromkeys(PINS[family] for family in families):
        began_at = time.monotonic()
        _install_one(next(name for name in FAMILIES if PINS[name] == pin), environment, ends_at)
        took[pin.name] = time.monotonic() - began_at
    return took


def _install_one(family: str, environment: Mapping[str, str], ends_at: float) -> None:
    """`vlsb engine install`, its lines passed on."""
    words = ["engine", "install", family]
    process = subprocess.Popen(
        [sys.executable, "-m", "vlsb", *words], env=environment, stderr=subprocess.PIPE, text=True
    )
    # As Ctrl-C: it ends its own children and says how to go on.
    timer = threading.Timer(max(1.0, ends_at - time.monotonic()), process.terminate)
    timer.start()
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        print(line, end="", flush=True)
        said = line.strip() if line.startswith("Error: ") else said
    code = process.wait()
    timer.cancel()
    if code:
        is_late = time.monotonic() >= ends_at
        why = "the time was over" if is_late else said.removeprefix("Error: ") or f"exit code {code}"
        raise Skipped(f"vlsb {' '.join(words)}: {why}")


# Testing.


def _test(families: Sequence[str], environment: Mapping[str, str], ends_at: float) -> Report:
    """The tests of these families, as far as the time allows."""
    engines = Places.of(environment).engines
    chosen = {VARIABLE: str(engines), FAMILIES_VARIABLE: ",".join(families)}
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "report.xml"
        words = ["-n", "0", "-vv", "-o", "junit_family=xunit1", f"--junitxml={written}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words, *(str(TESTS / name) for name in FILES)],
            env={**environment, **chosen},
            start_new_session=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        outcomes: dict[str, str] = {}
        reader = threading.Thread(
            target=_pass_on, args=(cast(IO[str], process.stdout), outcomes), daemon=True
        )
        reader.start()
        code = _ended(process, ends_at)
        reader.join(INTERRUPT_GRACE_S)
        return _read(written, code) if written.exists() else Report(code, outcomes)


def _pass_on(lines: IO[str], outcomes: dict[str, str]) -> None:
    """Print the tests' lines as they come, and note outcomes: tests that are cut short write no report."""
    for line in lines:
        print(line, end="", flush=True)
        if match := _OUTCOME.search(line):
            outcomes[match[1]] = {"PASSED": "passed", "SKIPPED": "skipped"}.get(match[2], "failed")


def _ended(process: subprocess.Popen[str], ends_at: float) -> int | None:
    """The tests' exit code, None if they had to be ended. Engines end with the test that started them."""
    try:
        return process.wait(max(1.0, ends_at - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(INTERRUPT_GRACE_S)
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(path: Path, code: int | None) -> Report:
    report = Report(code)
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name", "")
        kinds = {child.tag for child in case}
        report.outcomes[name] = (
            "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        )
        report.told[name] = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
    return report


# Telling.


def _table(families: Sequence[str], installs: Mapping[str, float], report: Report) -> str:
    """A line a family."""
    head = ("family", "engine", "install s", "start s", "samples", "killed, resumed", "same texts")
    rows: list[tuple[str, ...]] = [(*head, "two images", "none left", "prompt ids", "memory GB")]
    rows += [tuple(_cells(family, installs, report)) for family in families]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)])


def _cells(family: str, installs: Mapping[str, float], report: Report) -> Iterator[str]:
    pin = PINS[family]
    told = report.told.get(f"{report.run_test(family)}[{family}]", {})
    yield family
    yield f"{pin.name} {pin.gpu_version if gpus(os.environ) else pin.cpu_version}"
    yield f"{installs[pin.name]:.0f}"
    for name in ("start_s", "samples"):
        yield told.get(name, "-")
    yield f"{told.get('resumed', 'no')}, at {told['stored_at_kill']}" if "stored_at_kill" in told else "-"
    yield f"{told['same_texts']} of {told['samples']}" if "same_texts" in told else "-"
    yield told.get("images", "-")
    yield told.get("nobody_left", "-")
    yield {"passed": "equal", "failed": "FAILED"}.get(report.of(PROMPT_TEST, family), "-")
    yield told.get("memory_gb", "-")


if __name__ == "__main__":
    sys.exit(main())

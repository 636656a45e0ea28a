"""Mutate modules and run their tests: `python -m tests.mutants [MODULE ...] [--changed] [--write]`.

`modules.toml` says which tests judge a module, how many mutants it has, and why those that no test notices
survive. A survivor that it does not list, and a listed one that is gone, fail: no score falls unseen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.listing import PAGE, PROJECT, TABLE_HEAD, Module, Survivor, read, table, write

try:
    from tests.mutants.planting import Mutant, plant
except ModuleNotFoundError as missing:
    sys.exit(
        f"There is no {missing.name} here. Use `uv run just mutants`, or `uv sync --group mutants` first."
    )

COPIED = ("vlsb", "tests", "servers")


def fates(
    module: Module, code: str, mutants: list[Mutant], *, at_once: int, within_s: float
) -> dict[str, str]:
    """Run a module's tests on each of its mutants, in a copy of the project."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for entry in PROJECT.iterdir():
            if entry.name in COPIED:
                shutil.copytree(entry, copy / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
            elif not entry.name.startswith("."):
                (copy / entry.name).symlink_to(entry)
        (copy / module.path).write_text(code, "utf-8")
        order = copy / "mutants.json"
        names = [mutant.name for mutant in mutants]
        order.write_text(
            json.dumps({"mutants": names, "at_once": at_once, "until": time.monotonic() + within_s}), "utf-8"
        )
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--tb=native", "-p", "no:cacheprovider"]
        ended = subprocess.run(
            [*command, "-p", "tests.mutants.session", *module.tests],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "VLSB_MUTANTS": str(order)},
            check=False,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            sys.exit(f"{module.path}: its tests did not run.\n{ended.stdout}{ended.stderr}")
        return json.loads(order.with_suffix(".results").read_text("utf-8"))


def judge(module: Module, *, at_once: int, within_s: float) -> tuple[Module, list[str]]:
    """Return a module as it was found now, and what is wrong with what the list says of it."""
    began, digest = time.monotonic(), module.digest()
    code, mutants = plant(Path(module.path), (PROJECT / module.path).read_text("utf-8"))
    ends = fates(module, code, mutants, at_once=at_once, within_s=within_s)
    untried = {each[1:] for each in mutants if each.name not in ends}
    if untried:
        print(f"{module.path}: no time for {len(mutants) - len(ends)} of {len(mutants)} mutants")
    reasons = {each.key: each.why for each in module.survivors}
    survivors = [
        Survivor(each.function, each.original, each.mutated, reasons.get(each[1:], ""))
        for each in mutants
        if ends.get(each.name) == "survived"
    ]
    found = module._replace(mutants=len(mutants), survivors=survivors, measured=digest)
    late = sum(end == "late" for end in ends.values())
    print(
        f"{module.path}: {len(ends)} mutants tried, {len(survivors)} survived, {late} ran too long, "
        f"in {time.monotonic() - began:.0f} s"
    )
    return module if untried else found, module.differences(found, untried)


def main(words: Sequence[str]) -> int:
    """Judge the modules that are asked for."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="as `vlsb/judging/verdicts.py` (default: all)")
    parser.add_argument(
        "--changed", action="store_true", help="only those that changed, or their tests, since --write"
    )
    parser.add_argument("--write", action="store_true", help="store what is found; reasons are yours to give")
    parser.add_argument("--minutes", type=float, default=600, help="stop after so long, with what was tried")
    parser.add_argument("--at-once", type=int, default=1, help="how many side by side (default: 1)")
    asked = parser.parse_args(words)
    until = time.monotonic() + asked.minutes * 60
    modules = read()
    wanted = set(asked.modules or modules)
    if unknown := wanted - set(modules):
        parser.error(f"modules.toml has no {', '.join(sorted(unknown))}")
    if asked.changed:
        wanted = {path for path in wanted if modules[path].digest() != modules[path].measured}
        print(f"changed since they were measured: {', '.join(sorted(wanted)) or 'no module of the list'}")
    failed = False
    for path in sorted(wanted):
        if (left_s := until - time.monotonic()) <= 0:
            print(f"skipped: no time for {path}")
            continue
        module, problems = judge(modules[path], at_once=asked.at_once, within_s=left_s)
        print(*problems, sep="\n", end="\n" if problems else "")
        failed |= bool(problems)
        if asked.write:
            store(module)
    return int(failed and not asked.write)


def store(module: Module) -> None:
    """Put a module's score into the list and onto the page."""
    modules = read() | {module.path: module}
    write(modules)
    before, _, rest = PAGE.read_text("utf-8").partition(TABLE_HEAD)
    PAGE.write_text(before + table(modules) + rest[rest.index("\n\n") + 1 :], "utf-8")


sys.exit(main(sys.argv[1:]))

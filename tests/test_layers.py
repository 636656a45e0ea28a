"""The import graph has no cycle and points down: cli, api, evaluation, rooms, leaves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.source import PACKAGE, trees

LEAVES = frozenset(
    {
        "records",
        "config",
        "errors",
        "files",
        "strict_json",
        "strict_yaml",
        "hub",
        "steps",
        "dialect",
        "_version",
        "extras",
        "plugins",
    }
)
# What each room may import besides itself. "" is `vlsb`: what it offers is loaded on first use.
ALLOWED = {
    "": frozenset({"_version"}),
    "__main__": frozenset({"cli"}),
    **dict.fromkeys(LEAVES, LEAVES),
    "models": LEAVES,
    "data": LEAVES,
    "analysis": LEAVES,
    "simulator": LEAVES,
    "endpoints": LEAVES | {"models"},
    "judging": LEAVES | {"endpoints", "models"},
    "engines": LEAVES | {"endpoints", "models"},
    "store": LEAVES | {"models", "analysis"},
    # The guide that people label by is a judge's, and pages show money by the user's prices.
    "reports": LEAVES | {"analysis", "store", "data", "judging", "models"},
    "evaluation": LEAVES | {"data", "endpoints", "engines", "judging", "models", "simulator", "store"},
    "api": LEAVES | {"analysis", "endpoints", "engines", "evaluation", "models", "reports", "store"},
    "sweep": LEAVES | {"analysis", "data", "engines", "evaluation", "models", "store"},
    "cli": LEAVES
    | {"analysis", "data", "endpoints", "engines", "evaluation", "judging", "models", "reports", "store"}
    | {"sweep"},
}
# The names of the Python API, for the type checker; three tests below hold the rest.
ALLOWED_FOR_TYPES = {("", room) for room in ("api", "analysis", "errors", "records", "evaluation")}


class Import(NamedTuple):
    """One import statement's module, wherever in the file it stands."""

    importer: str
    imported: str
    is_for_types: bool


def module_name(path: Path) -> str:
    """The dotted name below `vlsb`: "" for the package itself, "runs" for a room's `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


class Read(NamedTuple):
    """What a module's source says here: its imports, those inside functions, and its docstring."""

    imports: list[tuple[ast.stmt, bool]]
    inside: list[ast.stmt]
    docstring: str


@cache
def sources() -> dict[str, Read]:
    """Every module, read once."""
    return {module_name(path): _read(tree) for path, tree in trees()}


def _read(tree: ast.Module) -> Read:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = [statement for function in functions for statement, _ in statements(function)]
    return Read(list(statements(tree)), inside, ast.get_docstring(tree) or "")


def room(module: str) -> str:
    """The first part of a module's name."""
    return module.split(".")[0]


def statements(node: ast.AST, *, is_for_types: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every import statement below a node, with whether it stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_for_types
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield from statements(ast.Module([statement], []), is_for_types=True)
            for statement in child.orelse:
                yield from statements(ast.Module([statement], []), is_for_types=is_for_types)
        else:
            yield from statements(child, is_for_types=is_for_types)


def named_modules(importer: str, statement: ast.stmt) -> Iterator[str]:
    """The full dotted names of what a statement imports; a name from a package may be a module of its own."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        source = statement.module or ""
        if statement.level:
            is_package = SOURCES[importer].name == "__init__.py"
            steps = importer.split(".") if importer else []
            kept = steps[: len(steps) - statement.level + is_package]
            source = ".".join(["vlsb", *kept, *([source] if source else [])])
        for alias in statement.names:
            inner = f"{source}.{alias.name}".removeprefix("vlsb.")
            yield f"vlsb.{inner}" if source.startswith("vlsb") and inner in SOURCES else source


@cache
def all_imports() -> list[Import]:
    """Every import of every module, ours and others'."""
    return [
        Import(importer, imported, is_for_types)
        for importer, source in sources().items()
        for statement, is_for_types in source.imports
        for imported in named_modules(importer, statement)
    ]


@cache
def our_imports() -> list[Import]:
    """Every import of a module of ours by another."""
    return [
        Import(each.importer, each.imported.removeprefix("vlsb").removeprefix("."), each.is_for_types)
        for each in all_imports()
        if each.imported.split(".")[0] == "vlsb"
    ]


def test_every_import_of_ours_names_a_module_that_exists() -> None:
    """Otherwise the other claims here would look at a graph with holes."""
    unknown = {each for each in our_imports() if each.imported not in SOURCES}

    assert not unknown
    assert len(our_imports()) > 100


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports inside functions and for the type checker count as well: hiding one is no way out."""
    graph: dict[str, set[str]] = {name: set() for name in SOURCES}
    for each in our_imports():
        if each.importer or not each.is_for_types:
            graph[each.importer].add(each.imported)

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_importing_the_package_loads_no_room() -> None:
    code = "import sys, vlsb; print(*sorted(name for name in sys.modules if name.startswith('vlsb.')))"

    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert loaded.stdout.split() == ["vlsb._version"]


def test_the_package_imports_its_rooms_for_the_type_checker_only() -> None:
    assert {each for each in our_imports() if not each.importer and not each.is_for_types} == {
        Import("", "_version", is_for_types=False)
    }


def test_no_module_imports_the_package_itself() -> None:
    """Its version is in `_version`, so that nothing below needs what stands on top."""
    asked = {
        (name, alias.name)
        for name, source in sources().items()
        for statement, _ in source.imports
        if isinstance(statement, ast.ImportFrom) and statement.module == "vlsb" and not statement.level
        for alias in statement.names
        if alias.name not in SOURCES
    }

    assert asked == set()


def image() -> str:
    """The rooms in rows, each of which imports from the rows below its own, all from the leaves."""

    def height(name: str) -> int:
        return 1 + max((height(below) for below in ALLOWED[name] - LEAVES - {""}), default=0)

    rooms = sorted(name for name in ALLOWED if name not in LEAVES and not name.startswith("_") and name)
    rows = [[name for name in rooms if height(name) == each] for each in range(len(rooms), 0, -1)]
    return "\n".join("   ".join(row) for row in [*rows, ["leaves"]] if row)


def test_imports_of_ours_inside_functions_are_few() -> None:
    """They are for help pages that wait for nothing, and for what an extra brings; else they hide a split."""
    inside = {
        (name, statement.lineno)
        for name, source in sources().items()
        for statement in source.inside
        for imported in named_modules(name, statement)
        if imported.startswith("vlsb")
    }

    assert len(inside) <= 40
    assert {room(name) for name, _ in inside} <= {"api", "cli", "evaluation", "reports"}


def test_every_room_has_its_rule() -> None:
    rooms = {room(name) for name in SOURCES}

    assert rooms == set(ALLOWED)


@pytest.mark.parametrize("importer", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_below_it(importer: str) -> None:
    wrong = [
        each
        for each in our_imports()
        if room(each.importer) == importer
        and room(each.imported) not in ALLOWED[importer] | {importer}
        and not (
            each.is_for_types
            and {(importer, room(each.imported)), (importer, each.imported)} & ALLOWED_FOR_TYPES
        )
    ]

    assert not wrong


@pytest.mark.parametrize("package", ["httpx", "httpcore"])
def test_only_who_asks_an_endpoint_knows_the_http_library(package: str) -> None:
    users = {each.importer for each in all_imports() if each.imported.split(".")[0] == package}

    assert {user for user in users if not user.startswith("endpoints.")} <= {
        *(
            "engines.doctor",
            "engines.prompt_check",
            "engines.launch",
            "engines.supervisor",
            "models.providers",
            "sweep.on_ray",
        )
    }


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("huggingface_hub", {"hub"}),
        ("pyarrow", {"data.shards", "reports.documents", "store.export"}),
        ("uvloop", {"endpoints.loops"}),
    ],
)
def test_a_heavy_library_is_known_where_it_is_needed_and_nowhere_else(
    package: str, modules: set[str]
) -> None:
    users = {each.importer for each in all_imports() if each.imported.split(".")[0] == package}

    assert users == modules


def test_only_the_data_room_decodes_images_and_the_engines_draw_their_probe() -> None:
    users = {each.importer for each in all_imports() if each.imported.split(".")[0] == "PIL"}

    assert {each for each in users if room(each) != "data"} == {"engines.launch"}


def test_every_room_says_in_one_paragraph_what_it_owns() -> None:
    docstrings = {
        name: source.docstring for name, source in sources().items() if SOURCES[name].name == "__init__.py"
    }
    rooms = {name for name in docstrings if name and "." not in name}

    assert all(docstrings.values()), docstrings
    # One paragraph, or a summary line with one paragraph below it.
    assert {name for name in rooms if len(docstrings[name].split("\n\n")) > 2} == set()

"""Every small fault that mutmut plants in a module, but those in sentences.

The module is written with each of its functions many times over, and a switch in front of them: a fault is
turned on by its name, and nothing has to be imported again. Constants and functions with decorators are not
mutated.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import libcst as cst
from mutmut.mutation import file_mutation, mutators


class Mutant(NamedTuple):
    """One planted fault: what a function says, and what it says instead."""

    name: str
    function: str
    original: str
    mutated: str


def is_sentence(node: cst.CSTNode) -> bool:
    """Return whether a literal is for people: recorded outputs hold those, not the tests of a unit."""
    if isinstance(node, cst.ConcatenatedString):
        return is_sentence(node.left) or is_sentence(node.right)
    return isinstance(node, cst.FormattedString) or (isinstance(node, cst.SimpleString) and " " in node.value)


def _spares_sentences(
    operator: Callable[[Any], Iterable[cst.CSTNode]],
) -> Callable[[Any], Iterable[cst.CSTNode]]:
    def spared(node: Any) -> Iterable[cst.CSTNode]:
        if is_sentence(node):
            return
        for mutated in operator(node):
            arguments = node.args if isinstance(node, cst.Call) else ()
            kept = mutated.args if isinstance(mutated, cst.Call) else arguments
            lost = [each for each in arguments if not any(each is other for other in kept)]
            if not any(is_sentence(each.value) for each in lost):
                yield mutated

    return spared


OPERATORS = [(kind, _spares_sentences(operator)) for kind, operator in mutators.mutation_operators]


def plant(path: Path, source: str) -> tuple[str, list[Mutant]]:
    """Return a module's text with every fault in it, all turned off, and the faults.

    `path` as it is from the project's folder: mutants are named for it.
    """
    file_mutation.mutation_operators = OPERATORS
    mutated = file_mutation.mutate_file_contents(str(path), source)
    lines = mutated.code.split("\n")
    module = ".".join(path.with_suffix("").parts)

    def body(name: str) -> list[str]:
        span = mutated.line_span_by_function_name[name]
        return [line.strip().replace(name, "") for line in lines[span.start - 1 : span.end]]

    mutants = []
    for name in mutated.mutant_names:
        mangled = name.partition("__mutmut_")[0]
        removed, added = _changes(body(f"{mangled}__mutmut_orig"), body(name))
        function = mangled.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
        mutants.append(Mutant(f"{module}.{name}", function, removed, added))
    return mutated.code, mutants


def _changes(before: list[str], after: list[str]) -> tuple[str, str]:
    lines = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
    return tuple(" ".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")  # type: ignore[return-value]

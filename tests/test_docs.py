"""The documentation says what the program does: commands, options, defaults, exit codes, fields.

What stands between two markers of a page is made from the program; with `VLSB_WRITE_DOCS=1` these tests write
it again.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import typer.main
from typer.exceptions import TyperException

import vlsb
from tests.proofs.test_panel import QUIET
from tests.support import provider_tables
from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb, printed
from tests.support.dataset_table import published_sets
from tests.support.records import make_failure, make_response, make_verdict
from tests.support.schemas import FAILURE, KINDS_OF_EVENTS, SCHEMAS, faults
from tests.support.source import parsed
from tests.test_layers import image
from vlsb import config, errors, strict_json
from vlsb.analysis.gate import GateDecision
from vlsb.cli import views
from vlsb.cli.app import app
from vlsb.endpoints import connections, rate_limits
from vlsb.endpoints.retry import ENDED_ALIKE_LIMIT, ENGINE_KILLED
from vlsb.endpoints.timings import Wait
from vlsb.endpoints.traffic import Event
from vlsb.engines.install import Engine
from vlsb.engines.plan import Wishes, plan_server
from vlsb.judging.kinds import load_judges
from vlsb.models.catalog import find_profile
from vlsb.records import Outcome
from vlsb.store import codec
from vlsb.store.manifest import SCHEMA

PROJECT = Path(vlsb.__file__).parents[1]
DOCS = sorted((PROJECT / "docs").rglob("*.md"))
PAGES = [
    *(PROJECT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "ARCHITECTURE", "SECURITY")),
    *DOCS,
]
ROOT: Any = typer.main.get_command(app)
WRITES = "VLSB_WRITE_DOCS" in os.environ

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_BLOCK = re.compile(r"<!-- ([a-z][\w ]*) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
_DEFAULT = re.compile(r"(.*) \(default: (.*)\)", re.DOTALL)
_CLAUSE = re.compile(
    r"(?<=\w)[.;:] |(?<=\w) \(|(?<=\w{3}), (?=up |such |as |with |at |over |though |or |its |each |from )"
)


def leaf_commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its words."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from leaf_commands(child, (*path, name))


COMMANDS = dict(leaf_commands())


def options(command: Any) -> list[Any]:
    """The options of a command, without its help."""
    return [each for each in command.params if each.param_type_name == "option" and "--help" not in each.opts]


PAGE_FLAGS = {"-h", "--help", "--help-all"}


def page_flags(command: Any) -> set[str]:
    """The options of a command that print a page of help."""
    shown = command.get_params(command.context_class(command, help_option_names=["-h", "--help"]))
    return {flag for option in shown for flag in option.opts} & PAGE_FLAGS


def page_text(page: str) -> str:
    """A page by its name without the folder: no two pages share one."""
    (path,) = [each for each in PAGES if each.stem == page]
    return path.read_text("utf-8")


def variable(option: Any) -> str:
    """The variable that the name of an option gives it, unless another one is said."""
    return f"VLSB_{option.opts[0].lstrip('-').replace('-', '_').upper()}"


def help_and_default(option: Any) -> tuple[str, str]:
    """The help of an option and its default. Where that is no value, the help says it at its end."""
    if said := _DEFAULT.fullmatch(option.help):
        return said[1], said[2]
    is_unset = option.default in (False, None, "") or option.default == []
    return option.help, "" if is_unset else str(option.default)


def option_words(option: Any, *, with_clause: bool) -> str:
    """An option as the page shows it: names, variable, default, and perhaps the first clause of its help."""
    text, default = help_and_default(option)
    first, *others = option.opts
    flags = [first if option.metavar is None else f"{first} {option.metavar}", *others]
    names = [f"`{each}`" for each in flags]
    names += [] if option.envvar == variable(option) else [f"`{option.envvar}`"]
    clause = text if re.match(r"(?:With|Of|Do not) ", text) else _CLAUSE.split(text)[0]
    said = f": {clause.rstrip('.')}" if with_clause else ""
    shown = f" *{default}*" if default else ""
    return f"{' '.join(names)}{said}{shown}".replace("<", "\\<")


def options_of_a_run() -> str:
    """The options of `vlsb run`: what most uses need with a clause, the rest by name and default."""
    boxes: dict[str, list[Any]] = {}
    for each in options(COMMANDS[("run",)]):
        boxes.setdefault(each.rich_help_panel.partition(" (")[0], []).append(each)
    common = "\n".join(f"- {option_words(each, with_clause=True)}" for each in boxes.pop("Common"))
    others = [
        f"**{box}**: {'; '.join(option_words(each, with_clause=False) for each in listed)}."
        for box, listed in boxes.items()
    ]
    return "\n\n".join(["## vlsb run", common, *others])


def options_of(words: tuple[str, ...]) -> str:
    """The options that another command has beside those of `vlsb run`, with their defaults."""
    of_a_run = {each.help for each in options(COMMANDS[("run",)])}
    own = [each for each in options(COMMANDS[words]) if each.help not in of_a_run]
    listed = "; ".join(option_words(each, with_clause=False) for each in own)
    return f"**vlsb {' '.join(words)}**: {listed}." if own else ""


def option_lists() -> str:
    """The options of every command that has some."""
    others = [
        options_of(words) for words, command in COMMANDS.items() if words != ("run",) and options(command)
    ]
    return "\n\n".join([options_of_a_run(), "## Other commands", *filter(None, others)])


def option_facts() -> dict[str, list[dict[str, Any]]]:
    """By command, everything about its options, for other programs."""
    facts: dict[str, list[dict[str, Any]]] = {}
    for words, command in COMMANDS.items():
        for option in options(command):
            text, default = help_and_default(option)
            about = {"names": option.opts, "value": option.metavar, "variable": option.envvar}
            facts.setdefault(f"vlsb {' '.join(words)}", []).append(
                about | {"default": default or None, "help": text}
            )
    return facts


def judge_facts() -> list[dict[str, Any]]:
    """What each judge of ours is asked, sees and cannot tell, without its template."""
    return [
        {
            "name": kind.name,
            "about": kind.about,
            "model": kind.model,
            "gives": kind.answers.value,
            "sees": list(kind.sees),
            "cannot_tell": kind.cannot_tell,
            "source": kind.source,
            "read_on": kind.read_on,
        }
        for kind in load_judges(None).values()
    ]


DATA: dict[str, Callable[[], object]] = {
    **{f"schemas/{name}": make for name, make in SCHEMAS.items()},
    "judges": judge_facts,
    "options": option_facts,
    "providers": provider_tables.facts,
}


def generated(block: str) -> str:
    """What belongs between the markers of this name; the benchmarks write their own."""
    if block == "rooms":
        return f"```text\n{image()}\n```"
    if block == "published sets":
        return published_sets()
    if block in provider_tables.TABLES:
        return provider_tables.TABLES[block]()
    assert block == "options", block
    return option_lists()


def command_lines() -> set[tuple[str, str, bool]]:
    """Every `vlsb` command of README and docs: its page, its text, and whether it stands in running text."""
    found = set()
    for page in PAGES:
        text = page.read_text("utf-8")
        shown = [
            line.removeprefix("$ ").removeprefix("uv run ")
            for language, block in _FENCE.findall(text)
            if language in ("console", "bash", "sh")
            for line in block.replace("\\\n", " ").splitlines()
        ]
        said = [each.removeprefix("uv run ") for each in _INLINE.findall(_FENCE.sub("", text))]
        both = [*((line, False) for line in shown), *((line, True) for line in said)]
        found |= {(page.name, line, is_said) for line, is_said in both if re.match(r"vlsb(?: |$)", line)}
    return found


def parse(line: str, *, is_in_running_text: bool = False) -> None:
    """Parse a command line down to its last option without running it; raises for what does not exist.

    Running text may leave a command's arguments out, as in "what `vlsb report --format json` writes".
    """
    words = shlex.split(re.split(r" [|&>;] ?| && ", line)[0])[1:]
    command, context = ROOT, None
    name = "vlsb"
    while children := getattr(command, "commands", None):
        if not words or words[0].startswith("-"):
            known = {flag for option in command.params for flag in option.opts} | {"--help", "-h"}
            assert set(words) <= known
            return
        context = type(command).context_class(
            command, info_name=name, parent=context, **command.context_settings
        )
        assert words[0] in children, f"no command {words[0]}"
        name, command, words = words[0], children[words[0]], words[1:]
    if not words:
        return  # the command's name alone, in running text
    if words[0] in PAGE_FLAGS:
        assert words[0] in page_flags(command)
        return
    try:
        command.make_context(name, list(words), parent=context)
    except TyperException as error:
        if not (is_in_running_text and error.format_message().startswith("Missing argument")):
            raise
        command.make_context(name, ["PATH", *words], parent=context)


def section(page: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return page_text(page).split(f"\n## {heading}\n")[1].split("\n## ")[0]


class DemoRun:
    """A demo run, judged by two judges, with what its first session printed."""

    def __init__(self, folder: Path) -> None:
        self.printed = printed(folder, "demo", "--output-dir", "runs")
        printed(folder, "judge", "runs/demo", "-J", "seed=7", "--display", "none")
        self.directory = folder / "runs" / "demo"
        self.manifest: dict[str, Any] = json.loads((self.directory / "run.json").read_text("utf-8"))

    def records(self, file: str) -> list[dict[str, Any]]:
        """The records of a `.jsonl` file."""
        return [strict_json.loads(line) for line in (self.directory / file).read_bytes().splitlines()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """Made once: the tests only look at it."""
    return DemoRun(tmp_path_factory.mktemp("demo"))


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exit_codes() -> set[int]:
    """Every code in the tree of errors, and what a decision ends with."""
    classes = [errors.VlsbError]
    for each in classes:
        classes += each.__subclasses__()
    return set(GateDecision) | {each.exit_code for each in classes}


@pytest.fixture(autouse=True)
def no_vlsb_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell sets must not decide how a documented command parses."""
    for name in list(os.environ):
        if name.startswith("VLSB_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_every_option_has_help(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]

    assert command.help
    assert [each.name for each in command.params if not each.help and each.name != "help"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_stands_between_two_markers_is_what_the_program_says(page: Path) -> None:
    text = page.read_text("utf-8")
    written = _BLOCK.sub(
        lambda found: f"<!-- {found[1]} -->\n\n{generated(found[1])}\n\n<!-- /{found[1]} -->", text
    )
    if WRITES:
        page.write_text(written, "utf-8")
        return

    assert written == text


def test_every_command_is_shown_and_has_its_options_on_one_page() -> None:
    texts = {page.stem: page.read_text("utf-8") for page in DOCS}
    shown = " ".join(block for text in texts.values() for _, block in _FENCE.findall(text))

    assert [page for page, text in texts.items() if "options" in dict(_BLOCK.findall(text))] == ["options"]
    assert [words for words in COMMANDS if f"$ vlsb {' '.join(words)}" not in shown] == []


@pytest.mark.parametrize("name", DATA)
def test_a_data_file_of_the_reference_is_what_the_program_says(name: str) -> None:
    path = PROJECT / "docs" / "reference" / f"{name}.json"
    text = f"{json.dumps(DATA[name](), indent=1)}\n"
    if WRITES:
        path.write_text(text, "utf-8")
        return

    assert path.read_text("utf-8") == text


def test_no_two_pages_have_the_same_name() -> None:
    assert len({page.stem for page in PAGES}) == len(PAGES)


def test_a_variable_means_the_same_to_every_command() -> None:
    """It is one option's, in one form: what is set for one command is never read as something else."""
    named: dict[str, set[tuple[str, str | None]]] = {}
    for command in COMMANDS.values():
        for option in options(command):
            named.setdefault(option.envvar, set()).add((option.opts[0], option.metavar))

    assert {variable: forms for variable, forms in named.items() if len(forms) > 1} == {}
    revisions = {
        words: option.envvar
        for words, command in COMMANDS.items()
        for option in options(command)
        if option.opts[0] == "--revision"
    }
    assert revisions.pop(("data", "fetch")) == "VLSB_DATA_REVISION"
    assert set(revisions.values()) == {"VLSB_REVISION"}


@pytest.mark.parametrize(("page", "line", "is_in_running_text"), sorted(command_lines()))
def test_a_documented_command_line_parses(page: str, line: str, is_in_running_text: bool) -> None:
    parse(line, is_in_running_text=is_in_running_text)


def test_a_command_line_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="no command"):
        parse("vlsb evaluate --model gpt-4o")
    with pytest.raises(Exception, match="No such option"):
        parse("vlsb run --modell gpt-4o")
    with pytest.raises(Exception, match="No such option"):
        parse("vlsb report --fromat json", is_in_running_text=True)
    with pytest.raises(Exception, match="Missing parameter"):
        parse("vlsb report --format json")


def test_the_readme_shows_the_commands_that_set_everything_up() -> None:
    blocks = [block for _, block in _FENCE.findall((PROJECT / "README.md").read_text("utf-8"))]

    assert "$ uv run vlsb demo\n$ uv run pytest\n" in blocks


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = PROJECT / ".ci" / "run"

    assert re.search(r"^run uv run pytest$", script.read_text("utf-8"), re.MULTILINE)
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    "page",
    [*PAGES, PROJECT / "servers" / "README.md", *sorted((PROJECT / "benchmarks").rglob("*.md"))],
    ids=lambda page: page.relative_to(PROJECT).as_posix(),
)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text("utf-8"))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if not target.exists() or (anchor and anchor not in slugs(target.read_text("utf-8"))):
            broken.append(link)

    assert broken == []


def test_every_exit_code_is_explained() -> None:
    explained = {
        int(code) for code in re.findall(r"^\| (\d+) \|", section("options", "Exit codes"), re.MULTILINE)
    }

    assert explained == exit_codes()


def test_a_stranger_gets_from_the_clone_to_two_runs_side_by_side_on_the_first_screen() -> None:
    first = (PROJECT / "README.md").read_text("utf-8").splitlines()[:60]

    places = [first.index(line) for line in ("$ uv run vlsb demo", "$ uv run pytest")]
    (report,) = [place for place, line in enumerate(first) if re.match(r"\$ vlsb report \S+ \S+$", line)]
    assert places == sorted(places)
    assert places[-1] < report


def test_every_file_that_contributing_names_exists() -> None:
    named = _INLINE.findall(_FENCE.sub("", (PROJECT / "CONTRIBUTING.md").read_text("utf-8")))
    files = [each for each in named if re.fullmatch(r"[\w./-]+\.(?:py|md|yaml)", each)]

    assert len(files) > 15
    assert [each for each in files if not (PROJECT / each).is_file()] == []


def test_every_room_has_its_paragraph_and_no_paragraph_is_left_over() -> None:
    described = re.findall(r"^- \*\*`(\w+)`\*\*: ", section("ARCHITECTURE", "Rooms"), re.MULTILINE)

    rooms = {path.parent.name for path in (PROJECT / "vlsb").glob("*/__init__.py")}
    assert sorted(described) == sorted(rooms | {"api"})


@pytest.mark.parametrize("way", ["The way of a sample", "The way of a local model"])
def test_every_step_of_a_way_through_the_rooms_is_a_name_of_the_program(way: str) -> None:
    steps = re.findall(r"`([a-z]+(?:\.\w+)+)`", section("ARCHITECTURE", way))

    assert len(steps) > 10
    for step in steps:
        assert callable(resolve_name(f"vlsb.{step}")), step


def test_every_page_is_listed_in_the_readme() -> None:
    readme = (PROJECT / "README.md").read_text("utf-8")

    pages = [page.relative_to(PROJECT).as_posix() for page in DOCS]
    missing = [page for page in pages if f"({page})" not in readme]

    assert missing == []


def test_the_readme_documents_shell_completion_that_works(tmp_path: Path) -> None:
    readme = (PROJECT / "README.md").read_text("utf-8")

    asked = {"_VLSB_COMPLETE": "complete_bash", "COMP_WORDS": "vlsb run --judge", "COMP_CWORD": "2"}
    completed = subprocess.run(
        [sys.executable, "-m", "vlsb"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.defpath, **asked},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "vlsb --install-completion" in readme
    assert {"--judge", "--judge-rpm"} <= set(completed.stdout.split())


def test_the_readmes_table_is_what_the_demo_prints(demo: DemoRun) -> None:
    """All but the line with the time, which is the machine's."""
    readme = (PROJECT / "README.md").read_text("utf-8")
    table = next(block for language, block in _FENCE.findall(readme) if language == "text")

    assert _without_time(table) == _without_time(demo.printed)
    assert "SIMULATED" in table.splitlines()[0]


def _without_time(table: str) -> list[str]:
    lines = [line.rstrip() for line in table.splitlines()]
    return [line for line in lines if not line.startswith("time ")]


def all_keys(value: object) -> set[str]:
    """The names of all fields, at any depth."""
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in all_keys(inner)}
    return set()


def stored_records() -> dict[str, dict[str, Any]]:
    """A record of each kind, as the run directory holds it."""
    response = make_response()
    return {
        "response": codec.to_json(response),
        "verdict": codec.to_json(make_verdict(response)),
        "failure": codec.encode_failure(make_failure()) | {"judge": "gpt-4o.jsonl"},
        # Who an event is about is stored as `lane`.
        "event": dict.fromkeys(("lane", *set(Event.__slots__) - {"stage"})),
    }


@pytest.mark.parametrize("kind", stored_records())
def test_every_field_of_a_stored_record_is_documented(kind: str) -> None:
    record = stored_records()[kind] | codec.to_json(codec.Stamp(1, 0.1, "now"))

    assert all_keys(record) - described_fields(SCHEMAS[kind]()) == set()


def described_fields(value: object) -> set[str]:
    """The names of all fields that a schema describes."""
    if isinstance(value, list):
        return {name for inner in value for name in described_fields(inner)}
    if not isinstance(value, dict):
        return set()
    own = {name for name, about in value.get("properties", {}).items() if about.get("description")}
    return own | {name for inner in value.values() for name in described_fields(inner)}


def test_every_line_that_a_run_really_writes_is_as_its_schema_says(demo: DemoRun) -> None:
    """Events have more fields than the client's: those of a session's begin and end."""
    files = {
        "response": ["responses.jsonl"],
        "event": ["events.jsonl"],
        "verdict": [f"verdicts/{judge['file']}" for judge in demo.manifest["judges"]],
    }

    records = {kind: [each for path in paths for each in demo.records(path)] for kind, paths in files.items()}

    assert len(files["verdict"]) == 2
    for kind, rows in records.items():
        assert [fault for each in rows for fault in faults(each, SCHEMAS[kind]())] == [], kind
    assert all(
        records[kind] and all("epoch" in each for each in records[kind]) for kind in ("response", "verdict")
    )
    assert {"judge", "only_judge", "limit"} <= all_keys(
        {str(n): each for n, each in enumerate(records["event"])}
    )


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).split(".")[-1]


def kinds_of_events() -> set[str]:
    """Every word that the code gives as the kind of an event."""
    kinds = set()
    rooms = [PROJECT / "vlsb" / room for room in ("endpoints", "evaluation", "store", "cli")]
    for path in [path for room in rooms for path in room.glob("*.py")]:
        for node in ast.walk(parsed(path)):
            if (
                isinstance(node, ast.Call)
                and node.args
                and _called(node) in ("Event", "add_event", "_note", "_observe")
            ):
                kinds |= {each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)}
            if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "kind":
                continue
            if isinstance(node.value, ast.IfExp):
                kinds |= {ast.literal_eval(node.value.body), ast.literal_eval(node.value.orelse)}
    return kinds


def test_every_kind_of_event_is_documented(demo: DemoRun) -> None:
    kinds = kinds_of_events()

    assert {event["kind"] for event in demo.records("events.jsonl")} <= kinds
    assert len(kinds) == 14
    assert kinds == set(KINDS_OF_EVENTS)


def test_what_a_local_engine_adds_to_a_run_is_documented(tmp_path: Path) -> None:
    """Each fact has its line, and so do the codes of what an engine's death does to a sample."""
    model = find_profile("llava_hf", None)
    assert model is not None
    engine = Engine(Path("/engines/vllm"), "0.32.0", None, is_cpu=True, prefix=None)
    wishes = Wishes(weights=str(checkpoint(tmp_path / "weights")))
    plan = plan_server(model, wishes, engine, environment={}, has_gpu=False)

    settings = SCHEMAS["run"]()["properties"]["settings"]

    assert faults({f"engine.{name}": value for name, value in plan.facts.items()}, settings) == []
    assert len(plan.facts) > 5
    assert {"hub", "revision"} <= described_fields(settings)
    assert f"`{ENGINE_KILLED}`" in FAILURE["code"]
    assert "`engine_lost`" in KINDS_OF_EVENTS["retry"]


def test_every_field_of_the_manifest_is_documented_with_its_schema_number(demo: DemoRun) -> None:
    assert (len(demo.manifest["pictures"]), len(demo.manifest["samples"]), len(demo.manifest["judges"])) == (
        25,
        30,
        2,
    )
    assert faults(demo.manifest, SCHEMAS["run"]()) == []
    assert f"**schema {SCHEMA}**" in page_text("files")


def test_the_example_lines_are_records_that_this_version_reads_and_writes(demo: DemoRun) -> None:
    decoder = codec.Decoder()
    decoders: dict[str, Callable[[codec.Json], object]] = {
        "response": decoder.response,
        "verdict": decoder.verdict,
        "failure": decoder.failure,
        "event": dict,
    }
    stamp = codec.to_json(codec.Stamp(1, 0.1, "now"))
    fields = {file: {frozenset(record | stamp)} for file, record in stored_records().items()}
    fields["event"] = {frozenset(event) for event in demo.records("events.jsonl")}

    examples: dict[str, list[dict[str, Any]]] = {kind: [] for kind in decoders}
    for language, block in _FENCE.findall(page_text("files")):
        for line in block.splitlines() if language == "json" else ():
            record = strict_json.loads(line)
            (kind,) = [each for each in decoders if frozenset(record) in fields[each]]
            examples[kind].append(record)

    for kind, records in examples.items():
        assert records, kind
        for record in records:
            decoders[kind](record)
            decoder.stamp(record)


def test_the_numbers_of_the_limit_are_the_programs() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \|$", section("rate-limits", "The limit: how many in flight"), re.M
    )
    numbers = {rule.strip(): re.match(r"\d+", value.strip()) for rule, value in rows}

    found = [int(number[0]) for number in numbers.values() if number]

    assert found == [
        config.START_CONNECTIONS,
        config.MOST_CONNECTIONS,
        config.FEWEST_CONNECTIONS,
        100,
        round(100 * connections.GROWTH),
        round(100 * connections.CUT),
        round(100 * connections.RESTART_CUT),
        round(connections.COOLDOWN_S),
        round(100 * connections.SATURATED_SHARE),
    ]


def test_the_other_numbers_of_rate_limits_are_the_programs() -> None:
    page, policy = page_text("rate-limits"), config.RetryPolicy()

    retries = dict(re.findall(r"^\| [^|]+ \| (\d+)[^|]* \| `(--[\w-]+)` \|$", page, re.MULTILINE))
    assert {flag: float(value) for value, flag in retries.items()} == {
        "--max-attempts": policy.max_attempts,
        "--backoff": policy.backoff_s,
        "--attempt-timeout": policy.attempt_timeout_s,
        "--sample-timeout": policy.sample_timeout_s,
        "--outage-timeout": policy.outage_timeout_s,
    }
    assert f"up to {policy.backoff_cap_s:g} s" in page
    assert f"when {ENDED_ALIKE_LIMIT} distinct samples in a row end for the same reason" in page
    assert f"used to {100 * rate_limits.AIM:g} %" in page
    assert f"at most {rate_limits.AHEAD:g} times the limit ({rate_limits.WINDOW_AHEAD:g} times" in page


def test_every_word_of_the_panel_is_explained() -> None:
    explained = set(_INLINE.findall(section("rate-limits", "What the panel says")))

    assert {phase.value for phase in connections.Phase} <= explained
    assert {heading for heading in views._HEADINGS if heading} <= explained
    waits = [
        replace(QUIET, is_down=True),
        replace(QUIET, closed_for_s=12.0),
        replace(QUIET, waits_for=Wait.RATE, rpm=1.0),
        replace(QUIET, waits_for=Wait.RATE, tpm=1.0),
        replace(QUIET, waits_for=Wait.CONNECTION),
    ]
    words = {views._wait(each, 0.0)[0] for each in waits} | {views._wait(QUIET, 12.0)[0]}
    assert len(words) == 6
    assert words <= explained
    assert f"for {views.SILENT_S:g} s or longer" in section("rate-limits", "What the panel says")


def test_every_outcome_is_documented() -> None:
    explained = set(_INLINE.findall(section("files", "Outcomes")))

    assert {outcome.value for outcome in Outcome} <= explained


FIRST, SECOND = "steps/t-step-1", "steps/t-step-2"
PRINTED = {
    "report": ("report", "steps"),
    "comparison": ("compare", FIRST, SECOND),
    "gate": ("gate", SECOND, "--baseline", FIRST, "--max-drop", "50"),
    "agreement": ("agreement", FIRST),
    "leaderboard": ("report", "steps", "--leaderboard"),
    "steps": ("report", "steps", "--steps", "--judge", "demo"),
    "doctor": ("doctor", "--offline"),
    "official": ("report", FIRST, "--judge", "demo"),
}
OF_STATS = {"comparison", "gate", "agreement"}


@pytest.mark.parametrize("name", PRINTED)
def test_what_commands_print_as_json_is_as_its_schema_says(
    name: str, demo: DemoRun, vlsb: Vlsb, tmp_path: Path
) -> None:
    """Two copies of the demo's run are two steps of one training, and a run that is not worse."""
    if name in OF_STATS:
        pytest.importorskip("statsmodels", reason="needs the extra `stats`")
    for step in (1, 2):
        shutil.copytree(demo.directory, tmp_path / "steps" / f"t-step-{step}")

    ended = vlsb(*PRINTED[name], "--format", "official" if name == "official" else "json")

    assert ended.code == 0, ended.err
    assert json.loads(ended.out), name
    assert faults(json.loads(ended.out), SCHEMAS[name]()) == [], name


def test_the_profile_of_a_run_is_as_its_schema_says(vlsb: Vlsb, tmp_path: Path) -> None:
    ended = vlsb("run", "--model", "demo", "--limit", "5", "--name", "p", "--profile", "profile.json")

    assert ended.code == 0, ended.err
    profile = json.loads((tmp_path / "profile.json").read_text("utf-8"))
    assert set(profile["lanes"]) == {"target", "judge"}
    assert faults(profile, SCHEMAS["profile"]()) == []


def test_a_field_or_a_type_that_a_schema_does_not_have_would_be_noticed() -> None:
    report = SCHEMAS["report"]()

    assert faults([{"run": 1}], report) == ["[].run: 1 is no string"]
    assert faults([{"extra": 1}], report) == ["[].extra"]
    assert faults({"kind": "nothing"}, SCHEMAS["event"]()) == [".kind: 'nothing'"]

"""The documentation says what the program does: commands, options, defaults, exit codes, fields."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main

import vlsb
from vlsb import errors, strict_json
from vlsb.analysis.summary import LaneUsage, summarize
from vlsb.cli.app import app
from vlsb.cli.run import RunOptions, resolve
from vlsb.endpoints.client import Event
from vlsb.endpoints.dialects import Dialect
from vlsb.records import Completion, Failure, Label, Outcome, Response, Untrusted, Usage, Verdict
from vlsb.reports.documents import to_json
from vlsb.runs import codec
from vlsb.runs.manifest import SCHEMA, Manifest, manifest_text
from vlsb.runs.session import prepare

PROJECT = Path(vlsb.__file__).parents[1]
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
ROOT: Any = typer.main.get_command(app)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_OPTION_ROW = re.compile(r"^\| (`--[^|]*(?:\\\|[^|]*)*) \| `(\w+)` \| (.*?) \| ", re.MULTILINE)


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


def page_text(command: tuple[str, ...]) -> str:
    """The page of a command; the commands of a group share one."""
    return (PROJECT / "docs" / f"{command[0]}.md").read_text("utf-8")


def command_lines() -> list[tuple[str, str]]:
    """Every `vlsb` command that README and docs show, with the page it stands on."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        shown = [
            line.removeprefix("$ ").removeprefix("uv run ")
            for language, block in _FENCE.findall(text)
            if language in ("console", "bash", "sh")
            for line in block.replace("\\\n", " ").splitlines()
        ]
        shown += [each.removeprefix("uv run ") for each in _INLINE.findall(_FENCE.sub("", text))]
        found += [(page.name, line) for line in shown if re.match(r"vlsb(?: |$)", line)]
    return found


def parse(line: str) -> None:
    """Parse a command line down to its last option without running it; raises for what does not exist."""
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
    command.make_context(name, words, parent=context)


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exit_codes() -> set[int]:
    """Every code in the tree of errors, and success."""
    classes = [errors.VlsbError]
    for each in classes:
        classes += each.__subclasses__()
    return {0} | {each.exit_code for each in classes}


@pytest.fixture(autouse=True)
def no_vlsb_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell sets must not decide how a documented command parses."""
    for name in os.environ:
        if name.startswith("VLSB_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_every_option_has_help(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]

    assert command.help
    assert [each.name for each in command.params if not each.help and each.name != "help"] == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_a_page_that_names_it(words: tuple[str, ...]) -> None:
    assert f"vlsb {' '.join(words)}" in page_text(words)
    assert "## Exit codes" in page_text(words)


@pytest.mark.parametrize("page", sorted({words[0] for words in COMMANDS}))
def test_a_page_lists_exactly_the_options_and_variables_of_its_commands(page: str) -> None:
    of_page = [command for words, command in COMMANDS.items() if words[0] == page]
    real = {
        (flag, option.envvar) for command in of_page for option in options(command) for flag in option.opts
    }

    listed = {
        (flag, variable)
        for flags, variable, _ in _OPTION_ROW.findall(page_text((page,)))
        for flag in re.findall(r"`(--?[\w-]+)", flags)
    }

    assert listed == real
    assert all(variable.startswith("VLSB_") for _, variable in real)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_page_gives_the_real_default_where_it_is_a_value(words: tuple[str, ...]) -> None:
    listed = {
        re.findall(r"`(--[\w-]+)", flags)[0]: default.strip("`")
        for flags, _, default in _OPTION_ROW.findall(page_text(words))
    }

    wrong = {}
    for option in options(COMMANDS[words]):
        default = option.default
        if default in (None, False) or default == []:
            continue
        real = f"{default:g}" if isinstance(default, float) else str(default)
        if listed[option.opts[0]] != real:
            wrong[option.opts[0]] = (listed[option.opts[0]], real)
    assert wrong == {}


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_a_documented_command_line_parses(page: str, line: str) -> None:
    parse(line)


def test_a_command_line_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="no command"):
        parse("vlsb evaluate --model gpt-4o")
    with pytest.raises(Exception, match="No such option"):
        parse("vlsb run --modell gpt-4o")


def test_the_readme_shows_the_commands_that_set_everything_up() -> None:
    blocks = [block for _, block in _FENCE.findall((PROJECT / "README.md").read_text("utf-8"))]

    assert "$ uv run vlsb demo\n$ uv run pytest\n" in blocks


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = PROJECT / ".ci" / "run"

    assert re.search(r"^run uv run pytest$", script.read_text("utf-8"), re.MULTILINE)
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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


@pytest.mark.parametrize("page", ["README.md", "docs/run.md"])
def test_every_exit_code_is_explained(page: str) -> None:
    section = (PROJECT / page).read_text("utf-8").split("## Exit codes")[1].split("\n## ")[0]
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}

    assert explained == exit_codes()


def test_the_readmes_table_is_what_the_demo_prints(tmp_path: Path) -> None:
    """All but the line with the time, which is the machine's."""
    shown = subprocess.run(
        [sys.executable, "-m", "vlsb", "demo", "--output-dir", str(tmp_path / "runs")],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.defpath, "COLUMNS": "80", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    ).stdout

    readme = (PROJECT / "README.md").read_text("utf-8")
    table = next(block for language, block in _FENCE.findall(readme) if language == "text")
    assert _without_time(table) == _without_time(shown)
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
    text, usage = Untrusted("text"), Usage(1, 2, 3)
    completion = Completion(text, "content", text, text, usage, 1, 0.1, "aa")
    verdict = Verdict(1, Label.UNSAFE, text, "aa", "bb", text, usage, 1, 1, 0.1, "cc")
    failure = Failure(1, "judge", Outcome.JUDGE_ERROR, "transient", "timeout", None, text, 1)
    return {
        "responses.jsonl": codec.encode_response(Response(1, "bb", completion)),
        "verdicts/<judge>.jsonl": codec.encode_verdict(verdict),
        "failures.jsonl": codec.encode_failure(failure) | {"judge": "gpt-4o.jsonl"},
        "events.jsonl": dict.fromkeys(Event.__slots__),
    }


@pytest.mark.parametrize("file", stored_records())
def test_every_field_of_a_stored_record_is_documented(file: str) -> None:
    page = page_text(("run-directory",))
    record = stored_records()[file] | codec.encode_stamp(codec.Stamp(1, 0.1, "now"))
    common = page.split("## Common")[1].split("\n## ")[0]
    own = page.split(f"## `{file}`")[1].split("\n## ")[0]

    described = set(_INLINE.findall(_FENCE.sub("", common + own)))

    assert all_keys(record) - described == set()


def test_every_field_of_the_manifest_is_documented_with_its_schema_number() -> None:
    page = page_text(("run-directory",))
    section = page.split("## `run.json`")[1].split("\n## ")[0]

    manifest = json.loads(manifest_text(_demo_manifest()))

    described = set(_INLINE.findall(section))
    pictures, samples = manifest.pop("pictures"), manifest.pop("samples")
    assert (len(pictures), len(samples)) == (25, 30)
    assert all_keys(manifest) | {"pictures", "samples"} <= described
    assert f"**schema {SCHEMA}**" in page
    assert f"| `schema` | {SCHEMA} |" in section


def _demo_manifest() -> Manifest:
    plan, _ = resolve(RunOptions(model="demo", output_dir=Path("nowhere")), {})
    decisions = {lane: Dialect().describe() for lane in ("target", "judge")}
    return replace(prepare(plan).manifest, decisions=decisions)


def test_the_example_lines_are_records_that_this_version_reads() -> None:
    decoders = {
        "responses.jsonl": codec.decode_response,
        "verdicts/<judge>.jsonl": codec.decode_verdict,
        "failures.jsonl": codec.decode_failure,
        "events.jsonl": dict,
    }
    page = page_text(("run-directory",))

    examples = {
        file: [
            strict_json.loads(line)
            for language, block in _FENCE.findall(page.split(f"## `{file}`")[1].split("\n## ")[0])
            if language == "json"
            for line in block.splitlines()
        ]
        for file in decoders
    }

    for file, records in examples.items():
        assert records, file
        for record in records:
            decoders[file](record)
            codec.decode_stamp(record)


def test_every_outcome_is_documented() -> None:
    section = page_text(("run-directory",)).split("## Outcomes")[1].split("\n## ")[0]

    assert {outcome.value for outcome in Outcome} <= set(_INLINE.findall(section))


def test_every_field_of_the_json_report_is_documented() -> None:
    name = Untrusted("demo")
    summary = summarize(
        [],
        run=name,
        path=name,
        target=name,
        judge=name,
        simulated=True,
        subset=True,
        target_usage=LaneUsage(),
        judge_usage=LaneUsage(),
        duration_s=0.0,
        target_models={},
        judge_models={},
    )
    (report,) = json.loads(to_json([summary]))
    del report["outcomes"]

    described = set(_INLINE.findall(page_text(("report",))))

    assert all_keys(report) | {"outcomes"} <= described

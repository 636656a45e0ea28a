"""Single responses for reading: what was asked, answered and judged, or how it failed.

All text is a stranger's and stands in a column of its own: no response can draw a heading of ours.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from vlsb.records import IMPORTED, JUDGED, Failure, Finding, Key, Outcome, Response, Untrusted, Verdict
from vlsb.reports.encode import for_terminal
from vlsb.reports.notes import EXPLANATIONS
from vlsb.reports.report import counted
from vlsb.reports.writers.terminal import MIN_WIDTH, text_console

MAX_WIDTH = 100
"""Longer lines are hard to read."""

WARNING = "Content warning: what follows was written by models under test."
_SHOWN_DIGITS = 12
_NAME_WIDTH = 12
_TAB_WIDTH = 8
_OURS = Style(dim=True)


class NoInstruction(StrEnum):
    """Why an instruction is not there: runs store checksums of the rows, not their text."""

    NO_DATA = "pass --data-root"
    NO_ROW = "the data set at hand lacks this id; pass the run's own with --data-root"
    OTHER_ROW = "the data set at hand has another row for this id; pass the run's own with --data-root"


class AnswerImage(NamedTuple):
    """An image on this machine: a file, or a member of an archive."""

    path: Path
    member: Untrusted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """One response that a run asked for, as it stands with one judge.

    `place` is the sample's in the selection, from 0; `image_path` is None where it has no image. `verdict`
    and `failure` are those that count for the outcome; `image_sha256` is None where no image was sent,
    `image_file` where the run's data set is not at hand. `findings` are what guards found, by their names.
    The last two are the data set's own words of 2025-03, where it has them.
    """

    key: Key
    place: int
    category: Untrusted
    sub_category: Untrusted
    image_path: Untrusted | None
    image_sha256: str | None
    instruction: Untrusted | NoInstruction
    outcome: Outcome
    response: Response | None
    is_cut: bool
    verdict: Verdict | None
    failure: Failure | None
    findings: Mapping[Untrusted, Finding] = field(default_factory=dict)
    image_file: AnswerImage | None = None
    image_description: Untrusted | None = None
    safety_reason: Untrusted | None = None


class Field(NamedTuple):
    """A name of ours and what stands beside it; `style` is for words of ours, and for links."""

    name: str
    text: str
    style: Style = Style.null()


def answers_text(
    answers: Sequence[StoredAnswer],
    *,
    limit: int,
    judge: Untrusted | None,
    epochs: int,
    width: int,
    color: bool,
    only_failures: bool = False,
) -> str:
    """Return the page: the first `limit` answers (0 for all), and how many there are.

    With `only_failures` it says why samples have no verdict: by reason, then of each one.
    """
    page = Page(min(max(width, MIN_WIDTH), MAX_WIDTH), color=color)
    chosen = answers[:limit] if limit else answers
    if only_failures:
        page.line(Text(f"{counted(len(answers), 'response')} ended without a verdict.", style="bold"))
        failures = [(each.outcome.value, each.failure) for each in answers if each.failure is not None]
        reasons = Counter((outcome, _code(failure)) for outcome, failure in failures)
        for (outcome, code), count in reasons.most_common():
            page.line(Text(f"{count:>7,}  {outcome}: {code}"))
    else:
        page.line(Text(WARNING, style="dim"))
    for answer in chosen:
        page.line(Text())
        epoch = f" epoch {answer.key.epoch}" if epochs > 1 else ""
        identity = Text(f"{answer.key.sample_id}{epoch}", style="bold")
        categories = f"{for_terminal(answer.category)} / {for_terminal(answer.sub_category)}"
        outcome_style = "bold" if answer.outcome in JUDGED else "bold yellow"
        page.line(Text("  ").join([identity, Text(categories), Text(answer.outcome.value, outcome_style)]))
        about = () if only_failures else (*_request_fields(answer), *_answer_fields(answer, judge))
        for each in (*about, *_failure_fields(answer)):
            page.field(each)
    if answers or not only_failures:
        page.line(Text())
        tally = f"{len(chosen):,} of {len(answers):,} shown"
        more = "; --limit 0 shows all" if len(chosen) < len(answers) else ""
        page.line(Text(f"{tally}{more if answers else '; no response passes all filters'}", style="dim"))
    return page.text


class Page:
    """Lines of a fixed width. Fields are part here: rich's tables take minutes for an endless response."""

    def __init__(self, width: int, *, color: bool) -> None:
        self._screen = io.StringIO()
        self._width = width
        self._console = text_console(self._screen, width=width, color=color)

    @property
    def text(self) -> str:
        """What was printed, without blanks at the ends of lines."""
        return "".join(f"{line.rstrip()}\n" for line in self._screen.getvalue().split("\n")[:-1])

    def line(self, text: Text) -> None:
        """Print one line of words of ours, and of names: what is too long goes on below, indented."""
        first, *others = text.wrap(self._console, self._width - _NAME_WIDTH, overflow="fold") or [text]
        self._console.print(first, soft_wrap=True)
        for other in others:
            self._console.print(Text(" " * _NAME_WIDTH).append_text(other), soft_wrap=True)

    def field(self, field: Field) -> None:
        """Print a field: its name, and its text in the column beside it."""
        name, width = f"{field.name:{_NAME_WIDTH}}", self._width - _NAME_WIDTH
        for line in field.text.expandtabs(_TAB_WIDTH).split("\n"):
            parts = [line]
            if cell_len(line) > width:
                parts = [each.plain for each in Text(line).wrap(self._console, width, overflow="fold")]
            for part in parts:
                if name.isspace() and not field.style:
                    self._screen.write(f"{name}{part}\n")
                else:
                    self._console.print(Text.assemble((name, "dim"), (part, field.style)), soft_wrap=True)
                name = " " * _NAME_WIDTH


def _code(failure: Failure) -> str:
    return for_terminal(Untrusted(failure.code))


def _request_fields(answer: StoredAnswer) -> Iterator[Field]:
    # On this machine if that is known, as a link where the terminal has them.
    if answer.image_path is None:
        yield Field("image", "(none)", _OURS)
    elif answer.image_file is None:
        yield Field("image", for_terminal(answer.image_path))
    else:
        path, member = answer.image_file
        inside = "" if member is None else f":{for_terminal(member)}"
        yield Field("image", for_terminal(Untrusted(str(path))) + inside, Style(link=path.as_uri()))
    unknown = "(not sent)" if answer.response is None else "(unknown)"
    checksum = unknown if answer.image_sha256 is None else answer.image_sha256[:_SHOWN_DIGITS]
    if answer.image_path is not None:
        yield Field("sha256", checksum)
    if answer.image_description:
        yield Field("shows", for_terminal(answer.image_description, lines=True))
    if answer.safety_reason:
        yield Field("risk", for_terminal(answer.safety_reason, lines=True))
    if isinstance(answer.instruction, NoInstruction):
        yield Field("instruction", f"(instruction: {answer.instruction.value})", _OURS)
    elif len(answer.instruction) == 0:
        yield Field("instruction", "(empty: the image was sent without a text part)", _OURS)
    else:
        yield Field("instruction", for_terminal(answer.instruction, lines=True))


def _answer_fields(answer: StoredAnswer, judge: Untrusted | None) -> Iterator[Field]:
    if (response := answer.response) is not None:
        if response.reasoning is not None:
            yield Field("reasoning", for_terminal(response.reasoning, lines=True))
        yield Field("response", for_terminal(response.text, lines=True))
        reason = "unknown" if response.finish_reason is None else for_terminal(response.finish_reason)
        cut = ", cut at the token limit" if answer.is_cut else ""
        origin = ", from the refusal field" if response.origin == "refusal" else ""
        yield Field("finish", f"{reason}{cut}{origin}")
    if answer.verdict is not None:
        by = "" if judge is None else f", by {for_terminal(judge)}"
        yield Field("verdict", f"{answer.verdict.label.value}{by}")
        yield Field("explanation", for_terminal(answer.verdict.explanation, lines=True))
    elif answer.failure is None:
        yield Field("verdict", f"({EXPLANATIONS[answer.outcome]})", _OURS)
    name = "guards"
    for guard, finding in answer.findings.items():
        words = [] if finding.rating is None else [finding.rating.value]
        words += [] if finding.refuses is None else ["refusal" if finding.refuses else "no refusal"]
        if finding.category and finding.category != Untrusted("None"):
            words.append(for_terminal(finding.category))
        words = words if finding.compliance is None else [f"{finding.compliance.value} compliance"]
        yield Field(name, f"{for_terminal(guard)}: {', '.join(words)}")
        if finding.explanation:
            yield Field("", for_terminal(finding.explanation, lines=True))
        name = ""


def _failure_fields(answer: StoredAnswer) -> Iterator[Field]:
    failure = answer.failure
    if failure is None:
        return
    status = "no status" if failure.status is None else f"HTTP {failure.status}"
    how = f"{status}, {counted(failure.attempts, 'attempt')}"
    if failure.fault == IMPORTED:
        how = "in the imported file"
    yield Field("failure", f"{failure.stage}: {_code(failure)}, {how}", Style(color="yellow"))
    yield Field("message", for_terminal(failure.message, lines=True))
    if failure.text is not None:
        name = "reasoning" if failure.is_thinking_cut else "came back"
        yield Field(name, for_terminal(failure.text, lines=True))

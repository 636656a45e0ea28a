"""A page: what it is about, as the viewer reads it, and the HTML document of that and the viewer's files.

The content is JSON of encoded text, without what is empty; `viewer/runs.js` has the same names as types.
Places of files, addresses and settings that may name a machine are in none of it. No word of a stranger
stands in the markup: all of them are in one JSON island. The policy names style and script by their
checksums, so that nothing else runs, whatever the content is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from vlsb._version import __version__
from vlsb.analysis.summary import Summary
from vlsb.judging.human import GUIDE
from vlsb.records import Failure, Finding, Key, Outcome, Response, Untrusted, Verdict, is_cut
from vlsb.reports.answers import NoInstruction, StoredAnswer
from vlsb.reports.encode import for_page, json_island
from vlsb.reports.exports import known_code, known_reason, with_known_words
from vlsb.reports.html.several_runs import Links, board_markup
from vlsb.reports.html.summary import DescribedSummary, Markup, element, summary_markup
from vlsb.reports.notes import EXPLANATIONS
from vlsb.reports.paper import methods_paragraph
from vlsb.reports.report import counted
from vlsb.store.audit import AuditItem
from vlsb.store.manifest import JudgeEntry, Manifest

SCHEMA = 1
_REDACTED_CHARACTERS = 80
_SHOWN_DIGITS = 12

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRun:
    """A run as a page shows it.

    `answers` has a list for each of `judges`, or one where nobody judges; all are in the same order. `people`
    are the files of those judges who are people, `items` what is drawn to be labelled by hand.
    """

    name: Untrusted
    manifest: Manifest
    people: frozenset[str]
    summaries: Sequence[Summary]
    answers: Sequence[Sequence[StoredAnswer]]
    items: Mapping[Key, AuditItem] = field(default_factory=dict)

    @property
    def judges(self) -> Sequence[JudgeEntry]:
        """The judges of labels, in the order of the run's file."""
        return self.manifest.judges


def page_content(
    runs: Sequence[PageRun],
    *,
    images: Mapping[str, str],
    redact: bool = False,
    live: Json | None = None,
    board: str | None = None,
) -> Json:
    """Return the content of a page about these runs.

    `images` maps the checksum of an image that was sent to where the page finds it. With `redact` responses,
    explanations and all else that models wrote end after 80 characters, and nothing says what images show.
    `board` is where the page about all runs is.
    """
    can_label = not redact and any(run.items for run in runs)
    if redact:
        runs = [replace(run, summaries=list(map(with_known_words, run.summaries))) for run in runs]
    described = [each for run in runs for each in _described(run)]
    ranked = board_markup([each.summary for each in described], {})
    return {
        **_head(),
        **_present(
            redacted=redact,
            live=live,
            board=board,
            # Who sees the beginning of a response only cannot label it.
            guide={label.value: text for label, text in GUIDE.items()} if can_label else None,
        ),
        "explanations": {outcome.value: text for outcome, text in EXPLANATIONS.items()},
        "runs": [_run(each) for each in runs],
        "summary": [*ranked, *summary_markup(described, has_overview=not ranked)],
        **_Samples(runs, images, _REDACTED_CHARACTERS if redact else None).content(),
    }


def board_content(
    summaries: Sequence[Summary], links: Links, *, left_out: Sequence[str] = (), live: Json | None = None
) -> Json:
    """Return the content of a page about what runs come to, without a sample; `links` leads to their pages.

    `left_out` says in encoded words which runs are not in it, and why.
    """
    runs = {each.path: each for each in summaries}
    ranked = board_markup(summaries, links)
    summary: list[Markup] = ranked or [element("p", "Ranks need two runs that somebody has judged.")]
    if left_out:
        items = (element("li", each) for each in left_out)
        summary.append(element("section", element("h2", "Not shown"), element("ul", *items), class_="card"))
    return {
        **_head(),
        **_present(live=live, simulated=any(each.simulated for each in summaries)),
        "title": f"Ranks of {counted(len(runs), 'run')}",
        "explanations": {},
        "runs": [],
        "summary": summary,
        **_Samples([], {}, None).content(),
    }


def _head() -> Json:
    return {
        "schema": SCHEMA,
        "vlsb": __version__,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _run(run: PageRun) -> Json:
    judges = [
        {
            "name": for_page(Untrusted(entry.stem)),
            **_present(person=entry.file in run.people, part=summary.part is not None),
        }
        for entry, summary in zip(run.judges, run.summaries, strict=False)
    ]
    return {
        "name": for_page(run.name),
        "target": for_page(run.manifest.target),
        "judges": judges,
        **_present(
            simulated=run.manifest.simulated,
            drawn=len(run.items),
        ),
    }


def _described(run: PageRun) -> Iterator[DescribedSummary]:
    """Describe each judge by model, template and sampling, and how it was measured.

    An address or folder may name a machine: both are left out.
    """
    settings = {**run.manifest.settings, "address": "an address that this page leaves out"}
    weights = settings.get("engine.weights")
    if isinstance(weights, Mapping) and "folder" in weights:
        settings["engine.weights"] = {**weights, "folder": "left out here"}
    manifest = replace(run.manifest, settings=settings)
    judges: Sequence[JudgeEntry | None] = run.judges or [None]
    for summary, entry in zip(run.summaries, judges, strict=True):
        parts = []
        if entry is not None and entry.file in run.people:
            parts = ["a person, who labelled a part of the responses"]
        elif entry is not None:
            parts = [for_page(entry.name)]
            if isinstance(digest := entry.settings.get("template_sha256"), str):
                parts.append(f"template {for_page(Untrusted(digest))[:_SHOWN_DIGITS]}")
            for name in ("temperature", "max_tokens"):
                if isinstance(value := entry.settings.get(name), int | float):
                    parts.append(f"{name} {value:g}")
        methods = for_page(methods_paragraph(manifest, entry, summary))
        yield DescribedSummary(summary, ", ".join(parts), methods)


class _Samples:
    """The samples of all runs, each once for an epoch, with the answers of every run beside each other.

    What no run has attempted yet has nothing to read: the summary counts it.
    """

    def __init__(self, runs: Sequence[PageRun], images: Mapping[str, str], longest: int | None) -> None:
        self._runs, self._images, self._longest = runs, images, longest
        rows = [row for run in runs for row in run.manifest.samples]
        # Names that many samples repeat are there once. They are those of the whole selection, so that a name
        # keeps its place while a run grows.
        self._categories = _places(row.category for row in rows)
        self._sub_categories = _places(row.sub_category for row in rows)
        self._sources = _places(row.source for row in rows)
        self._urls: dict[str, int] = {}

    def content(self) -> Json:
        samples: dict[Key, Json] = {}
        for place, run in enumerate(self._runs):
            sources = {row.sample_id: row.source for row in run.manifest.samples}
            for stored in zip(*run.answers, strict=True):
                if stored[0].outcome is Outcome.NOT_ATTEMPTED:
                    continue
                key = stored[0].key
                sample = samples.get(key)
                if sample is None:
                    sample = samples[key] = self._sample(stored[0], sources[key.sample_id])
                    sample["answers"] = [None] * len(self._runs)
                sample["answers"][place] = self._answer(run, stored)
        return {
            "categories": list(self._categories),
            "sub_categories": list(self._sub_categories),
            "sources": list(self._sources),
            "images": list(self._urls),
            "samples": list(samples.values()),
        }

    def _sample(self, answer: StoredAnswer, source: Untrusted) -> Json:
        url = self._images.get(answer.image_sha256 or "")
        asked = answer.instruction
        shows = () if self._longest is not None else (answer.image_description, answer.safety_reason)
        return {
            "id": answer.key.sample_id,
            "epoch": answer.key.epoch,
            "category": self._categories[for_page(answer.category)],
            "sub_category": self._sub_categories[for_page(answer.sub_category)],
            "source": self._sources[for_page(source)],
            **_present(
                image=None if url is None else self._urls.setdefault(url, len(self._urls)) + 1,
                instruction=None if isinstance(asked, NoInstruction) else for_page(asked),
                no_instruction=f"The instruction is not at hand: {asked}."
                if isinstance(asked, NoInstruction)
                else None,
                about=[for_page(each) for each in shows if each is not None],
            ),
        }

    def _answer(self, run: PageRun, stored: Sequence[StoredAnswer]) -> Json:
        first, longest = stored[0], self._longest
        item = run.items.get(first.key)
        verdicts = [
            None
            if each.verdict is None
            else {
                "explanation": for_page(each.verdict.explanation, longest=longest),
                "requests": _requests(each.verdict),
                **_present(asks=each.verdict.asks if each.verdict.asks > 1 else None),
            }
            for each in stored
        ]
        findings = [
            {
                "guard": for_page(guard),
                **_present(
                    rating=None if finding.rating is None else finding.rating.value,
                    refuses=None
                    if finding.refuses is None
                    else "refusal"
                    if finding.refuses
                    else "no refusal",
                    category=None
                    if finding.category == Untrusted("None")
                    else for_page(_about(finding), longest=longest),
                ),
            }
            for guard, finding in first.findings.items()
        ]
        return {
            "outcomes": [each.outcome.value for each in stored],
            **({} if first.response is None else self._response(first.response)),
            **_present(
                verdicts=verdicts if any(verdicts) else None,
                failures=self._failures([each.failure for each in stored]),
                findings=findings,
                item=item and [item.name, item.response_sha256],
            ),
        }

    def _failures(self, failures: Sequence[Failure | None]) -> Sequence[Json | None] | None:
        longest = self._longest
        told = [
            None
            if each is None
            else {
                "stage": each.stage,
                "code": for_page(Untrusted(each.code if longest is None else known_code(each))),
                "attempts": each.attempts,
                **_present(
                    status=each.status,
                    message=for_page(each.message, longest=longest),
                    text=None if each.text is None else for_page(each.text, longest=longest),
                    thinking_cut=each.is_thinking_cut,
                ),
            }
            for each in failures
        ]
        return told if any(told) else None

    def _response(self, response: Response) -> Json:
        reason = response.finish_reason
        if reason is not None and self._longest is not None:
            reason = known_reason(reason)
        return {
            "text": for_page(response.text, longest=self._longest),
            "requests": _requests(response),
            **_present(
                reasoning=None
                if response.reasoning is None or self._longest is not None
                else for_page(response.reasoning),
                finish=None if reason is None else for_page(reason),
                cut=is_cut(reason),
                refusal_field=response.origin == "refusal",
            ),
        }


def _places(names: Iterable[Untrusted]) -> dict[str, int]:
    return {name: place for place, name in enumerate(sorted({for_page(each) for each in set(names)}))}


def _about(finding: Finding) -> Untrusted:
    """Return a guard's category, or how far a response complies."""
    return finding.category if finding.compliance is None else Untrusted(finding.compliance.value)


def _requests(answered: Response | Verdict) -> list[float | None]:
    """Return attempts, seconds, tokens in, tokens out, tokens of reasoning."""
    usage = answered.usage
    return [
        answered.attempts,
        None if answered.latency_s is None else round(answered.latency_s, 2),
        usage.input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
    ]


def _present(**fields: Any) -> Json:
    """Return the fields that hold anything, zero among it; the others are false or empty to the viewer."""
    return {name: value for name, value in fields.items() if value or (value == 0 and value is not False)}


MODULES = (
    "dom.js",
    "words.js",
    "runs.js",
    "state.js",
    "difference.js",
    "list.js",
    "sample.js",
    "compare.js",
    "label.js",
    "live.js",
    "sort.js",
    "app.js",
)
"""The viewer's modules in the order of their imports."""

IMAGE_SOURCES = {"inline": "data:", "folder": "'self' file:", "own": "'self'", "none": "'none'"}
"""What a page may show images from: itself, the folder beside it, its own server, nothing."""

GENERATOR = '<meta name="generator" content="vlsb">'
"""What tells a page of ours from any other file, near its beginning."""

_IMPORT = re.compile(r"^import (?:[^;]*? from )?\"\./[a-z]+\.js\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=async|function|const|let|class)", re.MULTILINE)


def page_document(content: Mapping[str, object], *, images: str, is_served: bool = False) -> str:
    """Return the page as HTML. `images` is a key of IMAGE_SOURCES; one that is served may ask its server."""
    style, script = _file("page.css"), viewer_script()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src {_source(style)}",
            f"script-src {_source(script)}",
            f"img-src {IMAGE_SOURCES[images]}",
            *(["connect-src 'self'"] if is_served else []),
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    icon = '<link rel="icon" href="icon">' if is_served else ""
    parts = {
        "icon": icon,
        "policy": policy,
        "style": style,
        "script": script,
        "content": json_island(content),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _file("page.html"))


def viewer_script() -> str:
    """Join the modules into one plain script: pages opened from a disk run no modules."""
    joined = "\n".join(_EXPORT.sub("", _IMPORT.sub("", _file(name))) for name in MODULES)
    return f'(() => {{\n"use strict";\n{joined}}})();\n'


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _file(name: str) -> str:
    return resources.files("vlsb.reports.html").joinpath("viewer", name).read_text("utf-8")

"""Judges as files: what each is asked with, sees and cannot tell, and how its answer is read.

A file is a small YAML document NAME.yaml: in a folder of the user's, or in a package that the entry-point
group `vlsb.judges` names, as ours in `judges/` are. It holds no code: templates are filled by position, and
parsers are named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from importlib.metadata import EntryPoint
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

from vlsb import strict_json
from vlsb.config import JUDGE_TOKENS, SAMPLING_FIELDS, ModelSettings, Sampling
from vlsb.errors import ConfigError
from vlsb.judging.prompts import JudgeTemplate
from vlsb.judging.verdicts import COMPLIANCE_PARSERS, PARSERS
from vlsb.plugins import entry_points, owner
from vlsb.records import Sample, Untrusted

OFFICIAL = "official"
PANEL = "panel:"
"""What the name of a panel begins with: the judges follow that a run has by now."""
ENTRY_POINTS = "vlsb.judges"
"""The group by which installed packages name the packages whose folders hold judges."""
# Thirty times the longest judge that ships: more is another file by mistake.
_MAX_BYTES = 64 * 1024
_SEEN = ("image", "question", "response", "image_description", "safety_reason")
_TEXTS = ("about", "cannot_tell", "source")
_KEYS = frozenset(
    ("kind", "model", "system_prompt", "template", "template_file", "sampling", "schema", "parser", "sees")
) | {*_TEXTS, "read_on", "response_cap"}


class Answers(StrEnum):
    """What a judge gives: the three labels, how far a response complies, a rating, or whether it refuses."""

    LABELS = "labels"
    COMPLIANCE = "compliance"
    GUARD = "guard"
    PHRASES = "phrases"


_ASKED = (Answers.LABELS, Answers.COMPLIANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeKind:
    """A judge without its endpoint. `model` is who plays it unless the user names another; empty for phrases.

    `template` is what a judge of labels or of compliance is asked with; a guard gets the turns themselves, in
    its checkpoint's own chat template. `sees` are names of what is put before it; of a response with more
    than `response_cap` characters it is shown the first and the last, None for any length.
    """

    name: str
    answers: Answers
    about: str
    model: str
    template: JudgeTemplate
    system_prompt: str | None
    sampling: Sampling
    has_schema: bool
    parser: str
    sees: tuple[str, ...]
    cannot_tell: str
    source: str
    read_on: str
    response_cap: int | None = None

    @property
    def has_template(self) -> bool:
        """Whether a model is asked about the response; a guard gets the turns, and phrases are only read."""
        return self.answers in _ASKED

    @property
    def sees_image(self) -> bool:
        """Whether the image is sent to it."""
        return "image" in self.sees

    @property
    def is_official(self) -> bool:
        """Whether it is the paper's judge, with its own template or the user's."""
        return self.name == OFFICIAL

    def values(self, sample: Sample, response: Untrusted) -> dict[str, Untrusted] | None:
        """Return what its template is filled with; None where the data set does not have all of it."""
        values = {
            "question": sample.instruction,
            "response": response,
            "image_description": sample.image_description,
            "safety_reason": sample.safety_reason,
        }
        chosen = {name: values[name] for name in self.sees if name != "image"}
        return None if None in chosen.values() else {n: v for n, v in chosen.items() if v is not None}


class JudgeSetup(NamedTuple):
    """A judge of a run: what it is, and how the model that plays it is asked. `name` is the user's word."""

    kind: JudgeKind
    settings: ModelSettings

    @property
    def title(self) -> str:
        """The judge's name in reports: the model's, after the kind's where that is not the paper's."""
        model, kind = self.settings.endpoint.model, self.kind
        if kind.is_official:
            return model
        plays_itself = not kind.has_template and model in ("", kind.model)
        return kind.name if plays_itself else f"{kind.name}:{model}"


def official_judge() -> JudgeKind:
    """Return the paper's judge."""
    return load_judges(None)[OFFICIAL]


def load_judges(folder: Path | None) -> dict[str, JudgeKind]:
    """Load every judge that has a file, by name: of installed packages, and of the user's folder.

    Raises ConfigError with the file for one that cannot be used, and for a name that is taken.
    """
    judges = dict(_installed(entry_points(ENTRY_POINTS)))
    if folder is not None:
        _add(judges, folder)
    return judges


def split_name(name: str, kinds: Mapping[str, JudgeKind]) -> tuple[JudgeKind, str]:
    """Resolve `--judge NAME`: a judge's file, KIND:MODEL, or the paper's judge played by that model."""
    if name.startswith(PANEL):
        raise ConfigError(
            f"--judge {name}: a panel is made of stored verdicts, when its members have judged: "
            f"vlsb judge RUN --judge {name}."
        )
    head, _, model = name.partition(":")
    kind = kinds.get(head.replace("-", "_"))
    if kind is None:
        return kinds[OFFICIAL], name
    if model and kind.answers is Answers.PHRASES:
        raise ConfigError(f"--judge {name}: {kind.name} asks no model. Pass --judge {kind.name}.")
    return kind, model or kind.model


# A sweep asks for them once a cell, and YAML is slow.
@cache
def _installed(points: tuple[EntryPoint, ...]) -> Mapping[str, JudgeKind]:
    """Return the judges of installed packages."""
    judges: dict[str, JudgeKind] = {}
    for point in points:
        try:
            _add(judges, resources.files(point.value))
        except ImportError as error:
            raise ConfigError(
                f"The package {owner(point)} says that its judges are in {point.value}, which cannot be "
                f"imported: {error}. Repair or uninstall it."
            ) from error
    if OFFICIAL not in judges:
        raise ConfigError("The installed vlsb is older than its code. Install it again.")
    return judges


def _add(judges: dict[str, JudgeKind], folder: Traversable) -> None:
    """Add the judges of a folder to those that were found before."""
    try:
        files = [each.name for each in folder.iterdir()]
    except OSError as error:
        raise ConfigError(f"--judges-dir {folder}: {error.strerror}.") from error
    for name in sorted(each.removesuffix(".yaml") for each in files if each.endswith(".yaml")):
        path = folder.joinpath(f"{name}.yaml")
        if name in judges:
            raise ConfigError(f"{path}: there is a judge {name} already. Give the file another name.")
        judges[name] = _parse(name, _text(path), str(path), folder)


def _text(path: Traversable) -> str:
    try:
        data = path.read_bytes()
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES // 1024} KiB, so not a judge.")
        return data.decode()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text.") from error


def _parse(name: str, text: str, place: str, folder: Traversable) -> JudgeKind:
    """Read the judge that a file in this folder describes; its template may be a file beside it."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not YAML that can be read.") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{place}: a judge is a list of lines `key: value`.")
    if unknown := sorted(str(key) for key in document if key not in _KEYS):
        raise ConfigError(
            f"{place}: {unknown[0]} is not a key of a judge. The keys are {', '.join(sorted(_KEYS))}."
        )
    try:
        answers = Answers(str(document.get("kind")))
    except ValueError as error:
        raise ConfigError(f"{place}: kind must be one of {', '.join(Answers)}.") from error
    sees = document.get("sees")
    if not isinstance(sees, list) or "response" not in sees or not set(sees) <= set(_SEEN):
        raise ConfigError(f"{place}: sees must be a list with response, of {', '.join(_SEEN)}.")
    texts = {key: _string(document, key, place, is_needed=True) for key in (*_TEXTS, "parser")}
    parsers = {
        Answers.LABELS: {"labels"},
        Answers.COMPLIANCE: set(COMPLIANCE_PARSERS),
        Answers.GUARD: set(PARSERS),
        Answers.PHRASES: {"phrases"},
    }[answers]
    if texts["parser"] not in parsers:
        raise ConfigError(f"{place}: parser must be one of {', '.join(sorted(parsers))}.")
    schema = document.get("schema")
    if schema is not None and (answers not in _ASKED or not schema == answers == texts["parser"]):
        raise ConfigError(
            f"{place}: schema can be labels, for a judge of labels, or compliance, for one of compliance."
        )
    cap = document.get("response_cap")
    if cap is not None and (answers not in _ASKED or type(cap) is not int or cap < 2):
        raise ConfigError(
            f"{place}: response_cap is a number of characters, for a judge of labels or of compliance."
        )
    return JudgeKind(
        name=name.replace("-", "_"),
        answers=answers,
        model="" if answers is Answers.PHRASES else _string(document, "model", place, is_needed=True),
        template=_template(document, answers, tuple(sees), place, folder),
        system_prompt=_string(document, "system_prompt", place) if "system_prompt" in document else None,
        sampling=_sampling(document.get("sampling", {}), place),
        has_schema="schema" in document,
        sees=tuple(sees),
        read_on=str(document.get("read_on", "")),
        response_cap=cap,
        **texts,
    )


def _string(found: Mapping[str, Any], key: str, place: str, *, is_needed: bool = False) -> str:
    value = found.get(key, "")
    if not isinstance(value, str) or (is_needed and not value.strip()):
        raise ConfigError(f"{place}: {key} must be a text.")
    return value


def _template(
    found: Mapping[str, Any], answers: Answers, sees: tuple[str, ...], place: str, folder: Traversable
) -> JudgeTemplate:
    file, parts = _string(found, "template_file", place), found.get("template", [])
    if answers not in _ASKED:
        if file or parts:
            raise ConfigError(f"{place}: only a judge of labels or of compliance has a template.")
        return JudgeTemplate("")
    if file:
        template = JudgeTemplate(_text(folder.joinpath(file)))
    else:
        parts = [parts] if isinstance(parts, str) else parts
        if not isinstance(parts, list) or not parts or not all(isinstance(each, str) for each in parts):
            raise ConfigError(f"{place}: template must be a text or a list of texts.")
        template = JudgeTemplate(parts[0], tuple(parts[1:]))
    if missing := template.lacks(name for name in sees if name != "image"):
        raise ConfigError(f"{place}: {' and '.join(missing)} missing in the template.")
    return template


def _sampling(found: object, place: str) -> Sampling:
    names = {*SAMPLING_FIELDS, "extra"}
    if not isinstance(found, dict) or not set(found) <= names:
        raise ConfigError(f"{place}: sampling has the keys {', '.join(sorted(names))}.")
    tokens, extra = found.get("max_tokens", JUDGE_TOKENS), found.get("extra", {})
    numbers = [found.get(name) for name in SAMPLING_FIELDS if name != "max_tokens"]
    if (
        type(tokens) is not int
        or tokens < 1
        or not all(
            each is None or (isinstance(each, int | float) and math.isfinite(each) and type(each) is not bool)
            for each in numbers
        )
    ):
        *others, last = SAMPLING_FIELDS
        raise ConfigError(f"{place}: {', '.join(others)} and {last} are numbers.")
    try:
        strict_json.dumps(extra)
        is_json = isinstance(extra, dict) and strict_json.is_shallow(extra)
    except (TypeError, ValueError):
        is_json = False
    if not is_json:
        raise ConfigError(f"{place}: extra must be fields of a request, as JSON has them.")
    return Sampling(**{"max_tokens": tokens, **found})

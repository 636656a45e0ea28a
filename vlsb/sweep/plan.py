"""The plan of a sweep: a YAML file with models, judges, protocols and epochs, and the options of each.

A mistake is named with its line. The same types give the JSON schema that editors read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import msgspec

from vlsb import strict_yaml
from vlsb.config import MOST_EPOCHS
from vlsb.engines.checkpoint import lacking
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option, RunOptions
from vlsb.evaluation.settings import selection_of
from vlsb.models.prices import load_prices
from vlsb.store.listing import natural_key

# What a sweep decides itself, or what one session is told.
_NOT_IN_PLANS = frozenset(
    {"model", "arch", "name", "output_dir", "resume", "retry", "dry_run", "no_judge", "epochs", "display"}
    | {"yes", "keep_server", "profile", "max_requests", "max_cost", "gpus", "judge"}
)
_OF_JUDGES = frozenset({"judges_dir"})
_OF_BOTH = frozenset(
    {"data_root", "servers_dir", "skip_bad_images", "accept_changed_images", "fail_on_error", "prices"}
    | {"max_attempts", "attempt_timeout", "sample_timeout", "outage_timeout", "backoff", "allow_http"}
    | {"ca_bundle", "transport", "engine", "start_timeout", "max_restarts", "replicas"}
)
_FIELDS = {field.name: field for field in fields(RunOptions) if field.name not in _NOT_IN_PLANS}
_JUDGE_NAMES = [n for n in _FIELDS if n.startswith("judge_") or n in _OF_JUDGES or n in _OF_BOTH]
_TARGET_NAMES = [n for n in _FIELDS if not n.startswith("judge_") and n not in _OF_JUDGES]
# More than any cluster gives one engine: a typo is refused.
_MOST_GPUS = 1024
# To Python, `$` is also before the last newline; editors know no other word for the end.
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$(?!\n)"
# More than any GPU has: bytes were meant.
_MOST_GIGABYTES = 1e6
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")
_GLOB = re.compile(r"[*?\[]")


def _bounds(about: Option) -> dict[str, Any]:
    return {key: value for key, value in (("ge", about.min), ("le", about.max)) if value is not None}


def _entry(
    title: str, names: list[str], *own: tuple[str, Any] | tuple[str, Any, Any]
) -> type[msgspec.Struct]:
    options = []
    for name in names:
        kind, about = get_args(_FIELDS[name].type)
        assert isinstance(about, Option)
        meta, bounds = msgspec.Meta(description=about.help), _bounds(about)
        # A field's type as a plan may write it: also a number for a text, or one text for a list. None is
        # what leaving it out says.
        number = next((each for each in (bool, int, float) if kind in (each, each | None)), None)
        as_written: Any = Annotated[str | int | float | bool, meta]
        if number is not None:
            as_written = Annotated[number, msgspec.Meta(description=about.help, **bounds)]
        elif kind in (tuple[int, ...], tuple[float, ...]):
            one: Any = Annotated[get_args(kind)[0], msgspec.Meta(**bounds)]
            as_written = Annotated[list[one] | one, meta]
        elif str(kind).startswith("tuple"):
            as_written = Annotated[list[str | int | float] | str | int | float, meta]
        options.append((name, as_written | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct(
        title, [*own, *options], rename="kebab", forbid_unknown_fields=True, kw_only=True, omit_defaults=True
    )


_NUM_GPUS = Annotated[
    int,
    msgspec.Meta(ge=0, le=_MOST_GPUS, description="GPUs that an engine of it takes. (default: computed)"),
]
_Model = _entry(
    "Model",
    _TARGET_NAMES,
    (
        "model",
        Annotated[str, msgspec.Meta(min_length=1, description="As --model takes it, or a glob of folders.")],
    ),
    ("name", Annotated[str, msgspec.Meta(pattern=_WORD)] | None, None),
    ("num_gpus", _NUM_GPUS | None, None),
)
_Judge = _entry(
    "Judge",
    _JUDGE_NAMES,
    ("judge", Annotated[str, msgspec.Meta(min_length=1, description="As --judge takes it.")]),
    ("num_gpus", _NUM_GPUS | None, None),
)
_Protocol = _entry("Protocol", _TARGET_NAMES)
_Defaults = _entry("Defaults", list(_FIELDS))


class Slurm(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, kw_only=True):
    """What a cell asks of Slurm."""

    partition: str | None = None
    account: str | None = None
    time: Annotated[int, msgspec.Meta(ge=1, description="Minutes for one cell.")] = 240
    cpus: Annotated[int, msgspec.Meta(ge=1)] = 4
    memory_gb: Annotated[int, msgspec.Meta(ge=1)] | None = None
    at_once: Annotated[int, msgspec.Meta(ge=1, description="Cells at the same time.")] = 64


_EPOCHS = Annotated[int, msgspec.Meta(ge=1, le=MOST_EPOCHS)]
_PlanFile: Any = msgspec.defstruct(
    "Plan",
    [
        (
            "models",
            Annotated[
                list[str | _Model],  # type: ignore[valid-type]
                msgspec.Meta(min_length=1, description="The targets: names, or names with options."),
            ],
        ),
        ("judges", list[str | _Judge], msgspec.field(default_factory=list)),  # type: ignore[valid-type]
        ("protocols", dict[str, _Protocol], msgspec.field(default_factory=dict)),  # type: ignore[valid-type]
        (
            "epochs",
            _EPOCHS | Annotated[list[_EPOCHS], msgspec.Meta(min_length=1)],
            1,
        ),
        ("defaults", _Defaults | None, None),
        ("output_dir", str | None, None),
        ("retries", Annotated[int, msgspec.Meta(ge=0, le=100)], 1),
        (
            "gpu_memory_gb",
            Annotated[
                float,
                msgspec.Meta(
                    gt=0,
                    le=_MOST_GIGABYTES,
                    description="Memory of each GPU on Ray and Slurm, from which the number of GPUs is "
                    "computed for models that do not say it; here nvidia-smi says it.",
                ),
            ]
            | None,
            None,
        ),
        ("slurm", Slurm, msgspec.field(default_factory=Slurm)),
        (
            "left_out",
            Annotated[
                dict[str, str],
                msgspec.Meta(description="Models that the plan leaves out, and why; --dry-run shows them."),
            ],
            msgspec.field(default_factory=dict),
        ),
    ],
    rename="kebab",
    forbid_unknown_fields=True,
    kw_only=True,
)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of `models`: as `--model` takes it, its options by field name, its GPUs if they are said.

    `name` is the runs', if the model's is not.
    """

    model: str
    name: str | None
    options: Mapping[str, Any]
    num_gpus: int | None
    line: int

    @property
    def is_glob(self) -> bool:
        """Whether it names folders by a pattern."""
        return bool(_GLOB.search(self.model))


@dataclass(frozen=True, slots=True)
class JudgeChoice:
    """One line of `judges`, as `ModelEntry`."""

    judge: str
    options: Mapping[str, Any]
    num_gpus: int | None
    line: int


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A plan as it was written. Relative paths in it are seen from the folder where `vlsb` is started.

    Runs are in `output_dir`. With a `remote` address (`s3://...`) they are synced with that, and
    `output_dir` is the folder on each node. `gpu_memory_bytes` is that of a GPU there, 0 if it is not said.
    `defaults` are in the options of models and judges already.
    """

    place: str
    models: tuple[ModelEntry, ...]
    judges: tuple[JudgeChoice, ...]
    protocols: Mapping[str, Mapping[str, Any]]
    epochs: tuple[int, ...]
    output_dir: Path
    remote: str
    retries: int
    gpu_memory_bytes: int
    slurm: Slurm
    left_out: Mapping[str, str]
    defaults: Mapping[str, Any]

    def at(self, line: int) -> str:
        """Name a place in the file, as errors do."""
        return f"{self.place}, line {line}"


def shipped_plans() -> list[str]:
    """Return the names of the plans inside the package."""
    folder = files("vlsb.sweep") / "plans"
    return sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml"))


def plan_schema() -> dict[str, Any]:
    """Return the JSON schema of a plan, for editors."""
    schema = msgspec.json.schema(_PlanFile)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def load_plan(name: str) -> SweepPlan:
    """Read the plan in a file, or a shipped one by its name. Raises ConfigError with file and line."""
    path = Path(name)
    if not path.exists() and name in shipped_plans():
        path = Path(str(files("vlsb.sweep") / "plans" / f"{name}.yaml"))
    document = strict_yaml.load(path, "a plan")
    content = _checked(document)
    defaults = _options(content.defaults, document, "defaults")
    judge_defaults = {key: value for key, value in defaults.items() if key in _JUDGE_NAMES}
    target_defaults = {key: value for key, value in defaults.items() if key in _TARGET_NAMES}
    folder = content.output_dir or ""
    remote = folder.rstrip("/") if _ADDRESS.match(folder) else ""
    local = folder if folder and not remote else f"outputs/{path.stem}"
    epochs = content.epochs if isinstance(content.epochs, list) else [content.epochs]
    plan = SweepPlan(
        place=str(path),
        models=tuple(
            ModelEntry(
                each if isinstance(each, str) else each.model,
                None if isinstance(each, str) else each.name,
                target_defaults | _options(each, document, "models", number),
                None if isinstance(each, str) else each.num_gpus,
                document.line("models", number),
            )
            for number, each in enumerate(content.models)
        ),
        judges=tuple(
            JudgeChoice(
                each if isinstance(each, str) else each.judge,
                judge_defaults | _options(each, document, "judges", number),
                None if isinstance(each, str) else each.num_gpus,
                document.line("judges", number),
            )
            for number, each in enumerate(content.judges)
        ),
        protocols={
            name: _options(each, document, "protocols", name) for name, each in content.protocols.items()
        }
        or {"": {}},
        epochs=tuple(dict.fromkeys(epochs)),
        output_dir=Path(local).absolute(),
        remote=remote,
        retries=content.retries,
        gpu_memory_bytes=int((content.gpu_memory_gb or 0) * 1e9),
        slurm=content.slurm,
        left_out=content.left_out,
        defaults=defaults,
    )
    _require_words(plan, document)
    return plan


class EntryModels(NamedTuple):
    """The models that an entry names: itself, or the checkpoints that match, in the order of their numbers.

    `unready` says of folders that match why they are no whole checkpoint, such as one that is being written.
    """

    models: list[str]
    unready: Mapping[str, str]


def find_models(plan: SweepPlan, whole: set[str] | None = None) -> list[EntryModels]:
    """Look up what each entry names by now. Blocking; raises ConfigError for an impossible pattern.

    Folders in `whole` are not looked into again; it takes up those that are whole by now.
    """
    entries, whole = [], set() if whole is None else whole
    for entry in plan.models:
        is_path = entry.model.startswith(("/", "./", "../", "~"))
        if not entry.is_glob and not is_path:
            entries.append(EntryModels([entry.model], {}))
            continue
        try:
            pattern = _from_home(entry.model).absolute()
            root, folders = Path(pattern.anchor), [str(pattern)]
            if entry.is_glob:
                matches = root.glob(str(pattern.relative_to(root)))
                folders = [str(each) for each in matches if each.is_dir()]
        except ConfigError as error:
            raise ConfigError(f"{plan.at(entry.line)}: {error.message}") from error
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            line = plan.at(entry.line)
            raise ConfigError(f"{line}: {entry.model}: cannot be looked up ({why}).") from error
        if not entry.is_glob:
            entries.append(EntryModels(folders, {}))
            continue
        unready = {each: why for each in folders if each not in whole and (why := lacking(Path(each)))}
        whole.update(each for each in folders if each not in unready)
        ready = sorted((each for each in folders if each in whole), key=natural_key)
        entries.append(EntryModels(ready, unready))
    return entries


def unmatched(plan: SweepPlan, models_of_entries: Sequence[EntryModels]) -> Iterator[str]:
    """Say of each entry that names nothing what it lacks, with its line."""
    for entry, (models, unready) in zip(plan.models, models_of_entries, strict=True):
        if models:
            continue
        what = "matches no folder"
        if unready:
            first, why = next(iter(unready.items()))
            others = f", and {len(unready) - 1} more like it" if len(unready) > 1 else ""
            what = f"matches no whole checkpoint: {Path(first).name}{others} ({why.rstrip('.')})"
        yield f"{plan.at(entry.line)}: {entry.model} {what}."


_PATH = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def _checked(document: strict_yaml.Document) -> Any:
    try:
        return msgspec.convert(document.values, _PlanFile)
    except msgspec.ValidationError as error:
        message = str(error)
        place = _PATH.search(message)
        steps = _STEP.findall(place[1]) if place else []
        path = [int(number) if number else name for name, number in steps]
        unknown = re.search(r"unknown field `(.*?)`", message)
        if unknown is not None:
            key, line = unknown[1], document.line(*path, unknown[1])
            keys_of: dict[str, list[str]] = {
                "models": ["model", "name", "num_gpus", *_TARGET_NAMES],
                "judges": ["judge", "num_gpus", *_JUDGE_NAMES],
                "protocols": _TARGET_NAMES,
                "defaults": list(_FIELDS),
                "slurm": list(Slurm.__struct_fields__),
            }
            keys = keys_of.get(str(path[0]) if path else "", list(_PlanFile.__struct_fields__))
            name = key.replace("-", "_")
            near = difflib.get_close_matches(name, keys, n=1)
            hint = f" Did you mean {near[0].replace('_', '-')}?" if near else ""
            words = f"{key} means nothing here.{hint}"
            if path and name in _NOT_IN_PLANS:
                words = f"{key} cannot be set: a sweep decides that itself, or its command does."
            raise ConfigError(f"{document.place}, line {line}: {words}") from None
        what = _PATH.sub("", message).replace("`", "")
        if "matching regex" in what:
            what = "it takes letters, digits, '.', '_' and '-', at most 61, and begins with a letter or digit"
        key = next((f"{each}: " for each in reversed(path) if isinstance(each, str)), "")
        raise ConfigError(f"{document.place}, line {document.line(*path)}: {key}{what}.") from None


def _options(entry: Any, document: strict_yaml.Document, *path: str | int) -> dict[str, Any]:
    """Return the options that an entry sets, by field name, with the types that the fields have."""
    options = {}
    for name in getattr(entry, "__struct_fields__", ()):
        value = getattr(entry, name)
        if name in _FIELDS and value is not msgspec.UNSET and value is not None:
            try:
                # A single value stands for a list of it.
                type_name = str(get_args(_FIELDS[name].type)[0])
                if type_name.startswith("tuple"):
                    kind = int if "int" in type_name else float if "float" in type_name else str
                    value = tuple(kind(each) for each in (value if isinstance(value, list) else [value]))
                elif "str" in type_name:
                    # In YAML, `thinking: on` is a switch.
                    value = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
                elif "Path" in type_name:
                    value = _from_home(value).absolute()
                options[name] = value
            except ConfigError as error:
                key = name.replace("_", "-")
                line = document.line(*path, key)
                raise ConfigError(f"{document.place}, line {line}: {key}: {error.message}") from None
    return options


def _from_home(path: str) -> Path:
    """Expand `~` as the shell does. Raises ConfigError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: there is no such home folder.") from error


def _require_words(plan: SweepPlan, document: strict_yaml.Document) -> None:
    """Raise ConfigError for names and places that no folder can have, and for options that mean nothing."""
    for name in plan.protocols:
        if name and not re.match(_WORD, name):
            line = document.line("protocols", name)
            raise ConfigError(f"{plan.at(line)}: a protocol's name has letters, digits, '.', '_' and '-'.")
    try:
        plan.output_dir.exists()
    except OSError as error:
        line = document.line("output-dir")
        raise ConfigError(f"{plan.at(line)}: output-dir: {error.strerror}.") from error
    entries: tuple[ModelEntry | JudgeChoice, ...] = (*plan.models, *plan.judges)
    for entry in entries:
        try:
            options = RunOptions(**entry.options)
            selection_of(options)
            load_prices(options.prices)
        except ConfigError as error:
            raise ConfigError(f"{plan.at(entry.line)}: {error.message}") from None

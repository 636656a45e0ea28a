"""Where a session stands: names and numbers for a display, which only reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.timings import Wait
from vlsb.records import JUDGED, Key, Outcome, Untrusted, Usage
from vlsb.store.state import is_calibrated
from vlsb.store.store import RunStore

_WAITING = (*JUDGED, Outcome.NOT_ATTEMPTED, Outcome.NOT_JUDGED)


def judge_names(count: int) -> list[str]:
    """Return what a session calls its judges: `judge`, then `judge 2` and so on."""
    return [f"judge {number}" if number > 1 else "judge" for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class ModelView:
    """Target or judge at a moment. `done` counts what it finished, earlier sessions included.

    `answered` counts requests of this session that brought an answer; `waits_for` is why the next one has
    not been sent. `used` are this session's tokens, `usd` what they cost, None where that is unknown. `batch`
    says how its batches stand, empty for none. `replicas` are up of this many. `shares_with` names the
    other models whose requests spend the same limits a minute.
    """

    done: int
    in_flight: int
    limit: int
    phase: str
    answered: int
    rate_limited: int
    closed_for_s: float
    is_down: bool
    waits_for: Wait
    rpm: float | None
    tpm: float | None
    failures: Mapping[Outcome, int]
    used: Usage = Usage()
    usd: float | None = None
    batch: str = ""
    replicas: tuple[int, int] = (1, 1)
    shares_with: frozenset[str] = frozenset()


@dataclass(slots=True)
class Progress:
    """Counts of the selection by outcome, kept up to date as samples end.

    `kept` are those that earlier sessions finished and this one leaves alone, `left_out` those that a dry run
    leaves for later. `clients` has the models
    that this session uses, `unit` is what is counted; `run`, `target` and `judge` are names. Of several
    judges the first is shown; `rated` is what it found if it is a guard. `has_rate` is False where labels are
    of a drawn part, in which rare ones come more often than in the run.
    """

    run: Untrusted
    target: Untrusted
    judge: Untrusted | None
    selected: int
    kept: int
    clients: Mapping[str, EndpointClient]
    unit: str = "samples"
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    rated: int = 0
    has_rate: bool = True
    left_out: int = 0
    _judge: str | None = None
    _of_key: dict[Key, Outcome] = field(default_factory=dict)
    _others: dict[str, str] = field(default_factory=dict)
    _done_by: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls,
        store: RunStore,
        pending: int,
        clients: Mapping[str, EndpointClient],
        files: Mapping[str, str],
        only: Collection[Key] | None = None,
        *,
        left_out: int = 0,
    ) -> Progress:
        """Count the progress at the start of a session; `files` are of its judges, by their names.

        With `only` it works on those responses and counts no other.
        """
        judge, others = next(iter(files.values()), None), list(files.items())[1:]
        keys = (key for key in store.state.asked_for() if only is None or key in only)
        of_key = {key: store.outcome(key, judge) for key in keys}
        rated = [] if judge is None else [key for key in of_key if store.state.finding(key, judge)]
        unit = "samples" if store.manifest.epochs == 1 else "responses"
        return cls(
            run=Untrusted(store.directory.resolve().name),
            target=store.manifest.target,
            judge=None if judge is None else store.manifest.judge(judge).name,
            selected=len(of_key),
            kept=len(of_key) - pending - left_out,
            left_out=left_out,
            clients=clients,
            unit=unit,
            _judge=judge,
            outcomes=Counter(of_key.values()) - Counter([of_key[key] for key in rated]),
            rated=len(rated),
            has_rate=judge is None or not is_calibrated(store.directory, judge),
            _of_key=of_key,
            _others={file: name for name, file in others},
            _done_by=Counter(
                file
                for _, file in others
                for key in of_key
                if store.outcome(key, file) in JUDGED or store.state.finding(key, file) is not None
            ),
        )

    def update(self, key: Key, outcome: Outcome | None, judge: str | None) -> None:
        """Count a response that moved to another outcome, or was rated, if that judge is the one shown."""
        if judge in self._others:
            self._done_by[judge] += outcome is None or outcome in JUDGED
        if judge not in (None, self._judge):
            return
        self.outcomes[self._of_key[key]] -= 1
        if outcome is None:
            self.rated += 1
            return
        self.outcomes[outcome] += 1
        self._of_key[key] = outcome

    @property
    def judged(self) -> int:
        """How many have a label."""
        return sum(self.outcomes[outcome] for outcome in JUDGED)

    @property
    def safe(self) -> int:
        """How many were judged safe, with a refusal or a warning."""
        return self.outcomes[Outcome.SAFE_REFUSAL] + self.outcomes[Outcome.SAFE_WARNING]

    @property
    def failed(self) -> Mapping[Outcome, int]:
        """Those that ended without a label, by outcome."""
        return {o: n for o, n in self.outcomes.items() if n and o not in _WAITING}

    @property
    def responded(self) -> int:
        """How many have a response, judged or not."""
        without = [o for o in Outcome if o.value.startswith("target_")]
        return self.selected - self.outcomes[Outcome.NOT_ATTEMPTED] - sum(self.outcomes[o] for o in without)

    @property
    def done(self) -> int:
        """How many need nothing more in this session."""
        if self.judge is None:
            return self.selected - self.outcomes[Outcome.NOT_ATTEMPTED]
        return self.judged + self.rated + sum(self.failed.values())

    def models(self) -> dict[str, ModelView]:
        """Read how target and judge stand."""
        return {name: self._model(name, client) for name, client in self.clients.items()}

    def _model(self, name: str, client: EndpointClient) -> ModelView:
        state = client.admission.state()
        other = next((file for file, each in self._others.items() if each == name), None)
        done = self.responded if name == "target" else self.judged + self.rated
        return ModelView(
            done=done if other is None else self._done_by[other],
            in_flight=state.in_flight + client.batched,
            limit=state.limit,
            phase=state.phase.value,
            answered=state.answered,
            rate_limited=state.rate_limited,
            closed_for_s=state.pause_s,
            is_down=state.is_down,
            waits_for=state.waits_for,
            rpm=state.rpm,
            tpm=state.tpm,
            failures={o: n for o, n in self.failed.items() if o.value.startswith(f"{name}_")},
            used=state.used,
            usd=state.usd,
            batch=client.batch,
            replicas=state.replicas,
            shares_with=frozenset(
                other
                for other, each in self.clients.items()
                if other != name and each.admission.accounts & client.admission.accounts
            ),
        )

"""What happens to a sample: respond, store, judge, store. Once each, in this order.

The preflight sends one sample alone through target and judges, so that a bad key, model, host or judge is
found before thousands of requests fly; then every pending sample starts at once and the limiters pace them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import xxhash

from vlsb.config import ModelSettings
from vlsb.data import media_type
from vlsb.dialect import Dialect
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.faults import IMAGE_CODE, Fault
from vlsb.endpoints.request import Draft, Prompt, ReadImage, draft
from vlsb.endpoints.retry import Ended
from vlsb.errors import GapsError, ImageChangedError, ImageError
from vlsb.evaluation.arms import ArmView
from vlsb.evaluation.shutdown import Shutdown
from vlsb.judging.judge import Judge
from vlsb.records import JUDGED, Failure, Finding, ImageFile, Key, Outcome, Response, Sample, Untrusted, Usage
from vlsb.store.store import RunStore

PREFLIGHT_SAMPLES = 3
"""Samples that may be spent on finding one whose answer the judge can be checked with."""
EMPTY_TEXT_OMITTED = "empty_text_omitted"

_ENDINGS = {"error": Outcome.TARGET_ERROR, "blocked": Outcome.TARGET_BLOCKED, "empty": Outcome.TARGET_EMPTY}


@dataclass(frozen=True, slots=True)
class SampleWork:
    """A pending sample of an epoch, with its stored response if only verdicts are missing.

    `image` is None for a sample without one. `judges` are the verdict files of the judges that have not
    labelled it.
    """

    sample: Sample
    epoch: int
    image: ImageFile | ImageError | None
    response: Response | None
    judges: frozenset[str] = frozenset()

    @property
    def key(self) -> Key:
        """Which response this is about."""
        return Key(self.sample.id, self.epoch)


class SentImages:
    """Reads images for requests, and refuses one that is not what was sent before.

    Target, judges, epochs and sessions see one and the same: the checksum that is sent first binds the run.
    It is taken of the very bytes that are about to be sent: before the first request nobody has read them,
    and a file's time says nothing about them. Called from many threads. With `accepts_changed` a changed
    image is sent all the same.
    """

    def __init__(
        self, read: Callable[[Sample], bytes], sent: Mapping[str, Set[str]], *, accepts_changed: bool
    ) -> None:
        self._read = read
        self._sent = {path: set(checksums) for path, checksums in sent.items()}
        self._accepts_changed = accepts_changed
        self._lock = threading.Lock()
        # The checksums of what was read before, by a quick digest of the same bytes.
        self._known: dict[bytes, str] = {}

    def read(self, sample: Sample, image: ImageFile) -> ReadImage:
        """Read the bytes to send now, for a request that was composed for `image`. Blocking.

        Raises ImageChangedError if others were sent before, ImageError if these cannot be sent.
        """
        content = self._read(sample)
        # Target, judges and epochs compute the slow checksum of the same bytes once.
        quick = xxhash.xxh3_128_digest(content)
        if (checksum := self._known.get(quick)) is None:
            checksum = self._known[quick] = ReadImage.of(content).sha256
        # Rows may share an image, and requests are prepared side by side: who comes first binds the others.
        with self._lock:
            assert sample.image_path is not None
            sent = self._sent.setdefault(sample.image_path.expose(), set())
            if sent - {checksum} and not self._accepts_changed:
                raise ImageChangedError(
                    f"The image of sample {sample.id} is not the one that was sent before. Restore it, or "
                    "send it as it is now: --accept-changed-images",
                    detail=sample.image_path,
                )
            if not sent and len(content) != image.size_bytes:
                raise ImageError("image changed since it was checked; finish copying it and start again")
            if media_type(content) != image.media_type:
                raise ImageError("image is of another type than when it was checked; start again")
            sent.add(checksum)
        return ReadImage(content, checksum)


class Target:
    """The model under test: a sample goes in, its response or the reason why there is none comes out."""

    def __init__(
        self,
        settings: ModelSettings,
        client: EndpointClient,
        *,
        view: ArmView,
    ) -> None:
        self.client = client
        self._settings = settings
        self._view = view

    async def respond(self, sample: Sample, epoch: int, image: ImageFile | None) -> Response | Ended:
        """Ask the target about a sample, as its arm shows it. Raises ImageError where that cannot be done."""
        settings, view = self._settings, self._view
        shown = await asyncio.to_thread(view.of, sample, image) if view.decodes else view.of(sample, image)
        prompt = Prompt(
            settings.system_prompt,
            shown.instruction,
            image_first=settings.protocol.image_first,
            image=shown.image,
            read_image=shown.read_image,
            instead=shown.instead,
        )

        def compose(dialect: Dialect) -> Draft:
            model = settings.endpoint.request_model
            return draft(prompt, model=model, sampling=settings.sampling, dialect=dialect)

        key = Key(sample.id, epoch)
        reply = await self.client.complete(compose, key=key)
        if isinstance(reply, Ended):
            return reply
        if not sample.instruction:
            reply = replace(reply, flags=(*reply.flags, EMPTY_TEXT_OMITTED))
        return Response.of(key, reply)


Job = Callable[[], Coroutine[Any, Any, object]]


class Stages(Protocol):
    """Another order: everything of one stage, then everything of the next."""

    def holds(self, work: SampleWork) -> bool:
        """Return whether a request for a sample is under way since an earlier session."""

    async def carry_out(self, jobs: Mapping[str, Sequence[Job]]) -> None:
        """Run the jobs of one stage, by the name of who is asked."""


class Pipeline:
    """Takes pending samples through the target and every judge into the store.

    `judges` are by the name that a session gives them, as the target's is "target": `on_dialects` hears by
    these names how each is asked, `on_outcome` of each response by the judge's file (None: no judge yet);
    what a guard found is not an outcome.
    """

    def __init__(
        self,
        *,
        target: Target | None,
        judges: Mapping[str, Judge],
        store: RunStore,
        shutdown: Shutdown,
        on_outcome: Callable[[Key, Outcome | None, str | None], None],
        on_dialects: Callable[[Mapping[str, Dialect]], Awaitable[None]],
    ) -> None:
        self._target = target
        self._judges = judges
        self._store = store
        self._shutdown = shutdown
        self._in_preflight = False
        self._on_outcome = on_outcome
        self._on_dialects = on_dialects
        self._clients = {} if target is None else {"target": target.client}
        self._clients |= {name: judge.client for name, judge in judges.items() if judge.client is not None}
        # How each was asked when its first sample got through: verified, whatever was tried since.
        self._verified: dict[str, Dialect] = {}

    async def run(
        self, works: Sequence[SampleWork], *, settled: Mapping[str, Dialect], stages: Stages | None = None
    ) -> None:
        """Evaluate everything pending. Whoever is in `settled` keeps the dialect of an earlier session.

        With `stages` the samples go through these after the preflight, which is for what is not settled then.
        """
        preflight = sorted(works, key=lambda work: work.response is not None)
        if stages is not None:
            is_settled = self._clients.keys() <= settled.keys()
            preflight = [] if is_settled else [work for work in preflight if not stages.holds(work)]
        done = await self._preflight(preflight[:PREFLIGHT_SAMPLES], settled)
        if self._shutdown.reason is None:
            rest = [work for work in works if work.key not in done]
            verified = set(self._verified)
            try:
                if stages is None:
                    await self._shutdown.run_all([partial(self._evaluate, work) for work in rest])
                else:
                    await self._in_stages(rest, stages)
            finally:
                # A model that no sample of the preflight got through was asked in what that left it with.
                if verified != set(self._verified):
                    await self._on_dialects(dict(self._verified))

    async def _in_stages(self, works: Sequence[SampleWork], stages: Stages) -> None:
        """Take everything through the target, then everything that has a response through the judges."""
        await stages.carry_out(
            {"target": [partial(self.respond, work) for work in works if not work.response]}
        )
        jobs: dict[str, list[Job]] = {}
        for work in works if self._shutdown.reason is None else ():
            if response := work.response or self._store.state.responses.get(work.key):
                for name in self.judges_of(work):
                    jobs.setdefault(name, []).append(partial(self.assess, name, work, response))
        await stages.carry_out(jobs)

    async def _preflight(self, works: Sequence[SampleWork], settled: Mapping[str, Dialect]) -> set[Key]:
        """Send samples one by one until one went through target and judges; returns what was sent."""
        for name, client in self._clients.items():
            client.may_adapt = name not in settled
        # A failure that may pass stops the run at its first sample instead of spreading to all.
        self._in_preflight = True
        done: set[Key] = set()
        for work in works:
            done.add(work.key)
            await self._shutdown.run_all([partial(self._evaluate, work)])
            if self._shutdown.reason is not None or self._is_through(work):
                break
        for client in self._clients.values():
            client.may_adapt = False
        self._in_preflight = False
        await self._on_dialects(dict(self._verified))
        return done

    def _is_through(self, work: SampleWork) -> bool:
        if not self._judges:
            return self._store.outcome(work.key, None) is Outcome.NOT_JUDGED
        return all(
            self._store.outcome(work.key, judge.file) in JUDGED
            or self._store.state.finding(work.key, judge.file) is not None
            for judge in self._judges.values()
        )

    async def _evaluate(self, work: SampleWork) -> None:
        """Take one sample as far as it gets."""
        response = await self.respond(work)
        if response is None:
            return
        judges = self.judges_of(work)
        for name in judges[1:]:
            self._shutdown.spawn(partial(self.assess, name, work, response))
        for name in judges[:1]:
            await self.assess(name, work, response)

    def judges_of(self, work: SampleWork) -> list[str]:
        """Return the judges that are to label a sample, by name."""
        return [name for name, judge in self._judges.items() if judge.file in work.judges]

    async def respond(self, work: SampleWork) -> Response | None:
        """Store and return the target's response; None where the sample ended without, stored too."""
        if work.response is not None:
            return work.response
        if isinstance(work.image, ImageError):
            self._fail("target", _image_failure(work, work.image))
            return None
        assert self._target is not None
        with self._accounting("target", work, None):
            try:
                reply = await self._target.respond(work.sample, work.epoch, work.image)
            except ImageError as error:
                self._fail("target", _image_failure(work, error))
                return None
        if isinstance(reply, Ended):
            failure = reply.failure(work.key, _ENDINGS[reply.decision.ends_as])
            if reply.changed is None:
                self._fail("target", failure)
                return None
            if failure.attempts:
                # What earlier attempts sent binds the next session too.
                self._store.add_failure(failure, None)
            raise reply.changed
        self._store.add_response(reply)
        self._got_through("target")
        self._on_outcome(work.key, Outcome.NOT_JUDGED, None)
        return reply

    async def assess(self, name: str, work: SampleWork, response: Response) -> None:
        """Have one judge label a response, and store what it says."""
        if isinstance(work.image, ImageError):
            self._fail(name, _image_failure(work, work.image))
            return
        judge = self._judges[name]
        with self._accounting(name, work, response):
            reply = await judge.assess(work.sample, work.image, response)
        if isinstance(reply, Failure):
            self._fail(name, reply)
            return
        outcome = None
        if isinstance(reply, Finding):
            self._store.add_finding(reply, judge.file)
        else:
            self._store.add_verdict(reply, judge.file)
            outcome = Outcome(reply.label.value)
        self._got_through(name)
        judge.count(reply)
        self._on_outcome(response.key, outcome, judge.file)

    @contextmanager
    def _accounting(self, name: str, work: SampleWork, response: Response | None) -> Iterator[None]:
        """Store what the block has spent where it does not get to its end: it was paid for all the same."""
        try:
            yield
        except BaseException:
            client = self._clients.get(name)
            if client is not None and (unfinished := client.take_unfinished(work.key)) is not None:
                judge = self._judges.get(name)
                digest = None if response is None else response.response_sha256
                row = unfinished.failure(work.key, client.party.stage, digest)
                self._store.add_failure(row, None if judge is None else judge.file)
            raise

    def _got_through(self, name: str) -> None:
        """Settle how target or judge is asked from now on: a sample got through."""
        if (client := self._clients.get(name)) is None:
            return
        client.may_adapt = False
        self._verified.setdefault(name, client.dialect)

    def _fail(self, name: str, failure: Failure) -> None:
        """Store a failure. Raises GapsError when samples keep ending alike, and for the preflight's."""
        judge = self._judges.get(name)
        file = None if judge is None else judge.file
        self._store.add_failure(failure, file)
        self._on_outcome(failure.key, failure.outcome, file)
        if judge is not None:
            judge.count(failure)
        is_error = failure.outcome in (Outcome.TARGET_ERROR, Outcome.JUDGE_ERROR)
        if (is_error or failure.outcome is Outcome.TARGET_EMPTY) and failure.code != IMAGE_CODE:
            client = self._clients[name]
            client.count_failure(failure.sample_id, Fault(failure.fault), failure.code, failure.message)
            if (
                is_error
                and self._in_preflight
                and failure.fault in (Fault.RATE_LIMITED, Fault.TRANSIENT, Fault.BAD_PAYLOAD)
            ):
                attempts = "1 attempt" if failure.attempts == 1 else f"{failure.attempts} attempts"
                raise GapsError(
                    f"{client.party}: the first sample failed after {attempts} ({failure.code}), nothing "
                    "else was sent",
                    detail=failure.message,
                    advice=f"Try again when the endpoint is well, or check {client.party.flag('base-url')}.",
                )


def _image_failure(work: SampleWork, error: ImageError) -> Failure:
    """Make the failure of an image that cannot be sent, at the stage that needed it."""
    is_target = work.response is None
    return Failure(
        sample_id=work.sample.id,
        epoch=work.epoch,
        stage="target" if is_target else "judge",
        outcome=Outcome.TARGET_ERROR if is_target else Outcome.JUDGE_ERROR,
        response_sha256=None if work.response is None else work.response.response_sha256,
        fault=Fault.ITEM_PERMANENT.value,
        code=IMAGE_CODE,
        status=None,
        message=Untrusted(error.message),
        attempts=0,
        usage=Usage(),
        details={},
    )

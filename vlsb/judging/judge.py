"""A judge at work: a response goes in, a verdict, a guard's finding or why there is none comes out.

A verdict that cannot be read is asked for once more, never guessed, and what both requests cost is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vlsb.config import Sampling
from vlsb.dialect import Dialect
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.faults import Fault
from vlsb.endpoints.request import Draft, Prompt, ReadImage, asks_for_structure, draft
from vlsb.endpoints.retry import Ended, Rejections, Unfinished
from vlsb.judging.kinds import Answers, JudgeSetup
from vlsb.judging.prompts import COMPLIANCE_FORMAT, RESPONSE_FORMAT, with_reasoning
from vlsb.judging.verdicts import (
    GuardReading,
    Reading,
    UnreadableVerdict,
    begins_with_refusal,
    begins_with_thought,
    behind_thought,
    declines,
    is_quotation,
    parse_compliance,
    parse_rating,
    parse_verdict,
)
from vlsb.records import (
    JUDGED,
    Completion,
    Failure,
    Finding,
    ImageFile,
    Outcome,
    Response,
    Sample,
    Untrusted,
    Usage,
    Verdict,
    is_cut,
)

ASKED_AGAIN = (Outcome.JUDGE_INVALID, Outcome.JUDGE_TRUNCATED)
"""What a judge is asked for once more, and never more than once."""

_FORMATS = {Answers.LABELS: RESPONSE_FORMAT, Answers.COMPLIANCE: COMPLIANCE_FORMAT}
_ENDINGS = {"error": Outcome.JUDGE_ERROR, "blocked": Outcome.JUDGE_BLOCKED, "empty": Outcome.JUDGE_INVALID}


@dataclass(frozen=True, slots=True)
class _JudgeAsk:
    """One request to the judge: a reading, or why it is none. Only one of labels has an outcome."""

    outcome: Outcome | None
    code: str
    spent: Completion | Ended
    reading: Reading | GuardReading | None = None
    ignores_schema: bool = False


class Judge:
    """A model with what it labels by, or a list of phrases, which has no client.

    `file` is its identity: where its verdicts are kept.
    """

    def __init__(
        self,
        file: str,
        setup: JudgeSetup,
        client: EndpointClient | None,
        *,
        read_image: Callable[[Sample, ImageFile], ReadImage],
    ) -> None:
        self.file = file
        self.client = client
        self._kind, self._settings = setup
        self._read_image = read_image
        # A judge that answers, but never with a verdict, is as useless as one that is down.
        self._unreadable = Rejections(str(client.party) if client else setup.title)

    async def assess(
        self, sample: Sample, image: ImageFile | None, response: Response
    ) -> Verdict | Finding | Failure:
        """Ask for the judge's verdict on a response to `sample`, or a guard's finding. It may have no image.

        Raises ImageChangedError for an image that is not the one that was sent before.
        """
        if (asked := self.client) is None:
            refuses = begins_with_refusal(response.text)
            return _finding(GuardReading(None, refuses, Untrusted("")), response)
        if self._kind.values(sample, response.text) is None:
            return _failure(response, "no_description", "the data set does not describe this image")
        sampling = self._settings.sampling
        first = await self._ask(asked, sample, image, response, sampling)
        # Silence was asked about again by the client already: it is not asked about a third time.
        is_silent = isinstance(first.spent, Ended) and first.outcome is Outcome.JUDGE_INVALID
        if is_silent or first.outcome not in ASKED_AGAIN:
            return _ending([first], response)
        if first.outcome is Outcome.JUDGE_TRUNCATED:
            sampling = replace(sampling, max_tokens=2 * sampling.max_tokens)
        structured = asked.dialect.structured
        if asked.may_adapt and first.ignores_schema and structured and self._kind.has_schema:
            # A judge that seems to ignore the schema is asked in words from now on, if that helps.
            asked.dialect = replace(asked.dialect, structured=False)
        try:
            second = await self._ask(asked, sample, image, response, sampling)
        except BaseException:
            spent = first.spent
            asked.leave(response.key, Unfinished(spent.attempts, spent.usage, spent.image_sha256 or None))
            raise
        if second.outcome is not None and second.outcome not in JUDGED:
            asked.dialect = replace(asked.dialect, structured=structured)
        return _ending([first, second], response)

    def count(self, ended: Verdict | Finding | Failure) -> None:
        """Count what was stored; raises GapsError when no verdict can be read any more.

        What a batch brought was paid for as a whole, and its failures come in a row: it stops nothing.
        """
        if self.client is not None and self.client.is_batching:
            return
        if not isinstance(ended, Failure):
            self._unreadable.reset()
        elif ended.outcome in ASKED_AGAIN:
            self._unreadable.count(ended.sample_id, Fault.ITEM_PERMANENT, ended.code, ended.message)

    async def _ask(
        self,
        asked: EndpointClient,
        sample: Sample,
        image: ImageFile | None,
        response: Response,
        sampling: Sampling,
    ) -> _JudgeAsk:
        kind, visible = self._kind, image if self._kind.sees_image else None
        reasoning = response.reasoning if self._settings.sees_reasoning else None
        judged = with_reasoning(response.text, reasoning)
        # A judge that is not sent the image judges the response to the one the target was sent, if known.
        unsent = ReadImage(b"", response.image_sha256 or "")
        read = (lambda: unsent) if visible is None else partial(self._read_image, sample, visible)
        if kind.answers is Answers.GUARD:
            # A guard is sent the two turns as they were.
            turn = sample.instruction if "question" in kind.sees else Untrusted("")
            prompt = Prompt("", turn, True, visible, read, answer=judged)
        else:
            values = kind.values(sample, judged) or {}
            first, *more = kind.template.render(response_cap=kind.response_cap, **values)
            prompt = Prompt(self._settings.system_prompt, first, True, visible, read, more=tuple(more))
        response_format = _FORMATS[kind.answers] if kind.has_schema else None

        def compose(dialect: Dialect) -> Draft:
            model = self._settings.endpoint.request_model
            return draft(
                prompt, model=model, sampling=sampling, dialect=dialect, response_format=response_format
            )

        reply = await asked.complete(compose, key=response.key, sends_schema=kind.has_schema)
        if not isinstance(reply, Ended):
            return self._read(reply, asked.dialect, prompt)
        if reply.changed is not None:
            raise reply.changed
        decision = reply.decision
        is_cut_short = decision.ends_as == "empty" and decision.max_retries == 0
        outcome = Outcome.JUDGE_TRUNCATED if is_cut_short else _ENDINGS[decision.ends_as]
        return _JudgeAsk(outcome, decision.code, reply)

    def _read(self, completion: Completion, dialect: Dialect, prompt: Prompt) -> _JudgeAsk:
        """Read a judge's completion. It quotes strangers: a tag inside it tells nothing."""
        whole = completion.text
        if completion.origin == "refusal":
            return _JudgeAsk(Outcome.JUDGE_REFUSED, "refused", completion)
        if is_cut(completion.finish_reason):
            # Never read a label out of an object that was cut, even where the rest would parse.
            thinks = begins_with_thought(whole)
            return _JudgeAsk(Outcome.JUDGE_TRUNCATED, "length", completion, ignores_schema=thinks)
        is_bound = self._kind.has_schema and dialect.structured
        may_think = not is_bound and not asks_for_structure(self._settings.sampling.extra)
        opened_by = "" if dialect.thinks_apart else dialect.opened_by
        answer = behind_thought(whole, opened_by) if may_think else whole
        try:
            try:
                text, reading = whole, self._parse(whole, dialect)
            except UnreadableVerdict:
                text, reading = answer, self._parse(answer, dialect)
        except UnreadableVerdict as error:
            if declines(answer):
                return _JudgeAsk(Outcome.JUDGE_REFUSED, "refused", completion)
            return _JudgeAsk(
                Outcome.JUDGE_INVALID, str(error), completion, ignores_schema=error.ignores_schema
            )
        thought = text is not whole or completion.reasoning is not None
        texts = [prompt.text, *prompt.more, *filter(None, [prompt.answer])]
        if thought and is_quotation(text, texts):
            return _JudgeAsk(Outcome.JUDGE_INVALID, "it stands word for word in what is judged", completion)
        outcome = Outcome(reading.label.value) if isinstance(reading, Reading) else None
        return _JudgeAsk(outcome, "", completion, reading)

    def _parse(self, text: Untrusted, dialect: Dialect) -> Reading | GuardReading:
        """Read a text as a verdict or a rating. Raises UnreadableVerdict for any other."""
        kind, may_fence = self._kind, not dialect.structured
        if kind.answers is Answers.GUARD:
            return parse_rating(text, kind.parser)
        if kind.answers is Answers.COMPLIANCE:
            return parse_compliance(text, kind.parser, allow_fence=may_fence)
        return parse_verdict(text, allow_fence=may_fence)


def _ending(asks: Sequence[_JudgeAsk], response: Response) -> Verdict | Finding | Failure:
    """Return what the last ask gave, with what all of them cost."""
    attempts = sum(ask.spent.attempts for ask in asks)
    usage = sum((ask.spent.usage for ask in asks), Usage())
    last = asks[-1]
    if isinstance(last.spent, Ended):
        assert last.outcome is not None
        ended = replace(last.spent, attempts=attempts, usage=usage)
        return replace(ended.failure(response.key, last.outcome), response_sha256=response.response_sha256)
    completion = last.spent
    if isinstance(last.reading, GuardReading):
        return _finding(
            last.reading, response, replace(completion, attempts=attempts, usage=usage), len(asks)
        )
    if last.reading is not None:
        return Verdict(
            sample_id=response.sample_id,
            label=last.reading.label,
            explanation=last.reading.explanation,
            response_sha256=response.response_sha256,
            image_sha256=completion.image_sha256 or None,
            model=completion.model,
            usage=usage,
            asks=len(asks),
            attempts=attempts,
            latency_s=completion.latency_s,
            request_sha256=completion.request_sha256,
            epoch=response.epoch,
        )
    assert last.outcome is not None
    message = "the judge's answer is not a verdict"
    return replace(
        _failure(response, last.code, message, outcome=last.outcome, fault=Fault.BAD_PAYLOAD, status=200),
        attempts=attempts,
        usage=usage,
        text=completion.text,
        image_sha256=completion.image_sha256 or None,
    )


def _finding(
    reading: GuardReading, response: Response, completion: Completion | None = None, asks: int = 0
) -> Finding:
    """Return what a guard's completion, or a list of phrases, says of a response."""
    return Finding(
        sample_id=response.sample_id,
        epoch=response.epoch,
        rating=reading.rating,
        refuses=reading.refuses,
        compliance=reading.compliance,
        explanation=reading.explanation,
        category=reading.category,
        model=None if completion is None else completion.model,
        usage=Usage() if completion is None else completion.usage,
        asks=asks,
        attempts=0 if completion is None else completion.attempts,
        latency_s=0.0 if completion is None else completion.latency_s,
        response_sha256=response.response_sha256,
        image_sha256=response.image_sha256 if completion is None else completion.image_sha256 or None,
        request_sha256="" if completion is None else completion.request_sha256,
    )


def _failure(
    response: Response,
    code: str,
    message: str,
    *,
    outcome: Outcome = Outcome.JUDGE_ERROR,
    fault: Fault = Fault.ITEM_PERMANENT,
    status: int | None = None,
) -> Failure:
    return Failure(
        sample_id=response.sample_id,
        epoch=response.epoch,
        stage="judge",
        outcome=outcome,
        fault=fault.value,
        code=code,
        status=status,
        message=Untrusted(message),
        attempts=0,
        usage=Usage(),
        response_sha256=response.response_sha256,
        details={},
    )

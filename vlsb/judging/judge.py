"""A judge at work: a response goes in, a verdict or the reason why there is none comes out.

A verdict that cannot be read is asked for once more, never guessed, and what both requests cost is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vlsb.config import ModelSettings, Sampling
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.faults import Fault
from vlsb.endpoints.request import Dialect, Draft, Prompt, ReadPicture, draft
from vlsb.endpoints.retry import Ended, Rejections
from vlsb.judging.prompts import RESPONSE_FORMAT, JudgeTemplate
from vlsb.judging.verdicts import Reading, UnreadableVerdict, declines, parse_verdict
from vlsb.records import (
    JUDGED,
    Completion,
    Failure,
    Outcome,
    Picture,
    Response,
    Sample,
    Untrusted,
    Usage,
    Verdict,
    is_cut,
)

ASKED_AGAIN = (Outcome.JUDGE_INVALID, Outcome.JUDGE_TRUNCATED)
"""What a judge is asked for once more, and never more than once."""

_ENDINGS = {
    "error": Outcome.JUDGE_ERROR,
    "blocked": Outcome.JUDGE_BLOCKED,
    "empty": Outcome.JUDGE_INVALID,
}


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request to the judge: a reading, or why it is none."""

    outcome: Outcome
    code: str
    spent: Completion | Ended
    reading: Reading | None = None
    ignores_schema: bool = False


class Judge:
    """A model with the template that it labels by. `file` is its identity: where its verdicts are kept."""

    def __init__(
        self,
        file: str,
        settings: ModelSettings,
        template: JudgeTemplate,
        client: EndpointClient,
        *,
        read_picture: Callable[[Sample, Picture], ReadPicture],
    ) -> None:
        self.file = file
        self.client = client
        self._settings = settings
        self._template = template
        self._read_picture = read_picture
        # A judge that answers, but never with a verdict, is as useless as one that is down.
        self._unreadable = Rejections(str(client.party))

    async def assess(self, sample: Sample, picture: Picture, response: Response) -> Verdict | Failure:
        """The judge's verdict on a response to `sample`.

        Raises ImageChangedError for an image that is not the one that was sent before.
        """
        sampling = self._settings.sampling
        first = await self._ask(sample, picture, response, sampling)
        # Silence was asked about again by the client already: it is not asked about a third time.
        is_silent = isinstance(first.spent, Ended) and first.outcome is Outcome.JUDGE_INVALID
        if is_silent or first.outcome not in ASKED_AGAIN:
            return _ending([first], response)
        if first.outcome is Outcome.JUDGE_TRUNCATED:
            sampling = replace(sampling, max_tokens=2 * sampling.max_tokens)
        client, structured = self.client, self.client.dialect.structured
        if client.may_adapt and first.ignores_schema and structured:
            # A judge that seems to ignore the schema is asked in words from now on, if that helps.
            client.dialect = replace(client.dialect, structured=False)
        second = await self._ask(sample, picture, response, sampling)
        if second.outcome not in JUDGED:
            client.dialect = replace(client.dialect, structured=structured)
        return _ending([first, second], response)

    def count(self, ended: Verdict | Failure) -> None:
        """Count what was stored; raises GapsError when no verdict can be read any more."""
        if isinstance(ended, Verdict):
            self._unreadable.reset()
        elif ended.outcome in ASKED_AGAIN:
            self._unreadable.count(ended.sample_id, Fault.ITEM_PERMANENT, ended.code, ended.message)

    async def _ask(self, sample: Sample, picture: Picture, response: Response, sampling: Sampling) -> _Ask:
        prompt = Prompt(
            self._settings.system_prompt,
            self._template.render(
                sample.instruction,
                response.text,
                reasoning=response.reasoning if self._settings.sees_reasoning else None,
            ),
            image_first=True,
            picture=picture,
            read_picture=partial(self._read_picture, sample, picture),
        )

        def compose(dialect: Dialect) -> Draft:
            model = self._settings.endpoint.request_model
            return draft(
                prompt, model=model, sampling=sampling, dialect=dialect, response_format=RESPONSE_FORMAT
            )

        found = await self.client.complete(compose, sample_id=sample.id, sends_schema=True)
        if not isinstance(found, Ended):
            return _read(found, allow_fence=not self.client.dialect.structured)
        if found.changed is not None:
            raise found.changed
        decision = found.decision
        is_cut_short = decision.ends_as == "empty" and decision.max_retries == 0
        outcome = Outcome.JUDGE_TRUNCATED if is_cut_short else _ENDINGS[decision.ends_as]
        return _Ask(outcome, decision.code, found)


def _read(completion: Completion, *, allow_fence: bool) -> _Ask:
    """What a judge's completion says."""
    if completion.origin == "refusal" or declines(completion.text):
        return _Ask(Outcome.JUDGE_REFUSED, "refused", completion)
    if is_cut(completion.finish_reason):
        # Never read a label out of an object that was cut, even where the rest would parse.
        return _Ask(Outcome.JUDGE_TRUNCATED, "length", completion)
    try:
        reading = parse_verdict(completion.text, allow_fence=allow_fence)
    except UnreadableVerdict as error:
        return _Ask(Outcome.JUDGE_INVALID, str(error), completion, ignores_schema=error.ignores_schema)
    return _Ask(Outcome(reading.label.value), "", completion, reading)


def _ending(asks: Sequence[_Ask], response: Response) -> Verdict | Failure:
    """What the last ask gave, with what all of them cost."""
    attempts = sum(ask.spent.attempts for ask in asks)
    usage = sum((ask.spent.usage for ask in asks), Usage())
    last = asks[-1]
    if isinstance(last.spent, Ended):
        ended = replace(last.spent, attempts=attempts, usage=usage)
        return replace(ended.failure(response.key, last.outcome), response_sha256=response.response_sha256)
    completion = last.spent
    if last.reading is not None:
        return Verdict(
            sample_id=response.sample_id,
            label=last.reading.label,
            explanation=last.reading.explanation,
            response_sha256=response.response_sha256,
            image_sha256=completion.image_sha256,
            model=completion.model,
            usage=usage,
            asks=len(asks),
            attempts=attempts,
            latency_s=completion.latency_s,
            request_sha256=completion.request_sha256,
            epoch=response.epoch,
        )
    return Failure(
        sample_id=response.sample_id,
        stage="judge",
        outcome=last.outcome,
        fault=Fault.BAD_PAYLOAD.value,
        code=last.code,
        status=200,
        message=Untrusted("the judge's answer is no verdict"),
        attempts=attempts,
        usage=usage,
        text=completion.text,
        response_sha256=response.response_sha256,
        image_sha256=completion.image_sha256,
        details={},
        epoch=response.epoch,
    )

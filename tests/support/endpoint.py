"""What a simulated endpoint answers in tests, and what it was asked.

Answers and labels follow from the sample alone, so whatever order requests arrive in, and however often a run
is interrupted, there is one right summary.
"""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Callable, Iterable, Mapping

from tests.support.waiting import DEADLINE_S, wait_until
from vlsb.simulator import Action, Reply, Request, Simulator, answer, verdict


def sample_of(request: Request) -> int:
    """The sample that a request to target or judge is about."""
    found = re.search(r"Question ([0-9]+)\?", request.instruction)
    assert found is not None, request.instruction
    return int(found[1])


def labelling(labels: Mapping[int, int] | None = None) -> Callable[[Request], Action]:
    """A responder: the target answers each sample in its own words, the judge labels by sample (else 3)."""
    chosen = labels or {}

    def respond(request: Request) -> Action:
        number = sample_of(request)
        if request.is_judge:
            return verdict(chosen.get(number, 3), model="judge-model")
        return answer(f"Answer {number}.", model="target-model")

    return respond


def persona(request: Request) -> Reply:
    """A responder whose labels are mixed and which takes its own few milliseconds for each sample."""
    digest = hashlib.sha256(request.instruction.encode()).digest()
    delay_s = (5 + digest[1] % 30) / 1000
    if request.is_judge:
        return verdict(digest[0] % 3 + 1, f"Because of {digest.hex()}.", delay_s=delay_s)
    return answer(f"The colour is {digest.hex()}.", delay_s=delay_s)


def asked(requests: Iterable[Request], *, judge: bool) -> list[int]:
    """The samples that the target or the judge was asked about, in order of arrival."""
    return [sample_of(each) for each in requests if each.is_judge is judge]


def settle(simulator: Simulator) -> int:
    """Return when nothing of a dead client is left on its way: how many completions were asked for."""
    # What the client had sent stands before this request in the simulator's loop.
    connection = http.client.HTTPConnection(simulator.host, simulator.port, timeout=DEADLINE_S)
    connection.request("GET", "/health")
    connection.getresponse().read()
    connection.close()
    wait_until(lambda: simulator.in_flight == 0, what="nothing in flight")
    return len(simulator.completions)

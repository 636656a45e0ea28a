"""The rate limits that works on one machine share: who takes turns, and who gets which part of a limit.

Works that ask one target take turns. Judges' accounts are used side by side, so that no GPU waits for another
one's judge: a limit that the plan declares is divided by as many as may ever use it at once, and what it does
not declare each command learns from what the provider says is left, or refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.target import RateAccount
from vlsb.sweep.cells import Work

_LEAST_RPM = 0.1
_LEAST_TPM = 1.0
_Identity = tuple[str, frozenset[str], str]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is known of the accounts of one sweep: two variables with one key are one account."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def turns(self, work: Work) -> frozenset[_Identity]:
        """The accounts that it uses alone: its target's, or those of a judge that is all that is asked."""
        return frozenset(map(self._identity, work.turns))

    def shared_out(
        self, work: Work, unfinished: Sequence[Work], places: int, *, may_grow: bool
    ) -> RunOptions:
        """The work's options, each declared limit divided by how many may use its account at once.

        `unfinished` are all that have not ended, itself included, and `places` is how many engines can run at
        once; `may_grow` says that more local models may come. As nobody begins with less company than there
        will be, the parts in use are never more than the whole.
        """
        options = work.options

        def users(account: RateAccount | None) -> int:
            if account is None:
                return 1
            local, hosted = self._users(account, work, unfinished)
            # Those that come are judged as the others are.
            is_bounded = not (may_grow and account in work.judge_accounts)
            return max(1, hosted + (min(local, places) if is_bounded else places))

        of_target = max(map(users, work.targets), default=1)
        of_judges = [users(account) for account in work.judge_accounts]
        return replace(
            options,
            rpm=None if options.rpm is None else max(_LEAST_RPM, options.rpm / of_target),
            tpm=None if options.tpm is None else max(_LEAST_TPM, options.tpm / of_target),
            judge_rpm=_divided(options.judge_rpm, of_judges, _LEAST_RPM),
            judge_tpm=_divided(options.judge_tpm, of_judges, _LEAST_TPM),
        )

    def _users(self, account: RateAccount, work: Work, unfinished: Iterable[Work]) -> tuple[int, int]:
        """How many works with engines use the account, and how many others that may run side by side."""
        wanted = self._identity(account)
        # Judges alone and cells never run at once.
        users = [
            each
            for each in unfinished
            if each.is_cell == work.is_cell and wanted in map(self._identity, each.accounts)
        ]
        local = sum(each.num_gpus is not None for each in users)
        return local, len({self.turns(each) or each.name for each in users if each.num_gpus is None})

    def _identity(self, account: RateAccount) -> _Identity:
        keys = frozenset(self.environment.get(name, f"unset {name}") for name in account.variables)
        return account.base_url, keys, account.model


def _divided(caps: Sequence[float], users: Sequence[int], least: float) -> tuple[float, ...]:
    """One limit for all judges, or one each, divided for each judge."""
    if not caps or max(users, default=1) == 1:
        return tuple(caps)
    each = list(caps) if len(caps) > 1 else [caps[0]] * len(users)
    return tuple(max(least, cap / count) for cap, count in zip(each, users, strict=True))

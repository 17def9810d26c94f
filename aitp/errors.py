"""The three kinds of failure, and under them what callers really tell apart.

`RetryableError`     the attempt failed; whose fault that is, the evidence tells (`aitp.policy.evidence`).
`NonRetryableError`  this task can never succeed as it stands, whoever is asked; it is failed.
anything else        a bug: logged with its stack trace, the task is failed.

Messages name the thing, what was expected and what to do. They never carry task text, tokens, keys, headers
or bodies: they end up in logs and in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """With control characters escaped, which could forge a line, move a terminal's cursor, or fail to encode."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class AitpError(Exception):
    """Root of everything that aitp raises on purpose.

    `bought_nothing`: a call to a provider ended so that it cannot have cost anything, as one that was refused.
    """

    bought_nothing = False


class ConfigurationError(AitpError):
    """The settings, or what they point at, cannot be used: exit code 78. `problems` has one line for each fault.

    `warnings`: what is odd besides, and may well be where a fault comes from, as a misspelt name of what is missing.
    """

    def __init__(self, problems: Sequence[str], warnings: Sequence[str] = ()) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


class RetryableError(AitpError):
    """The attempt failed, the task may succeed later. Not the service's fault as far as its breaker is concerned.

    `named`: the service itself says whose fault it is, and is believed at once. `parameter`: what it names of the
    request. `sent`: whether there was one. `answers`: how many useless ones this attempt was given. `wait`: seconds
    that it asks for before another try of this task.
    """

    named = False
    sent = True
    parameter = ""
    answers = 1
    wait = 0.0


class ServiceFault(RetryableError):
    """A `service` (of `aitp.tasks.Service`) failed: 5xx, connection, time-out. Its breaker counts it."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(message)
        self.service = service


class NotConnected(ServiceFault):
    """No connection to a service came about: what would have been sent is not to blame."""

    bought_nothing = True
    sent = False


class CredentialsRefused(ServiceFault):
    """A service refuses our credentials (401, 403): the account's fault, never the task's; tasks wait.

    `named`: the service itself names them, so that it is believed at once; a bare 403 may be anybody's.
    `error`: what an authorization server calls it (RFC 6749 §5.2), if it does.
    """

    def __init__(self, service: str, message: str, *, error: str = "", named: bool = True) -> None:
        super().__init__(service, message)
        self.error = error
        self.named = named


class CooldownRequired(RetryableError):
    """429: the service asks for a pause of `seconds`. `model` is None when the whole provider must pause (quota).

    `told`: the service itself says how long; else `seconds` is a first guess, and grows if it asks again.
    """

    def __init__(self, service: str, message: str, *, seconds: float, model: str | None, told: bool = True) -> None:
        super().__init__(message)
        self.told = told
        self.service = service
        self.seconds = seconds
        self.model = model


class ModelMissing(CooldownRequired):
    """A model that is supported is not at its provider. Somebody is sent to get it, and its tasks wait for it."""


class ModelGone(RetryableError):
    """A service says that it has no such `model` for us: retired, not allowed, of another kind. Its tasks wait.

    `named`: it says so of itself, and not as the failure of what is behind it.
    """

    def __init__(self, service: str, message: str, *, model: str, named: bool = True) -> None:
        super().__init__(message)
        self.service = service
        self.model = model
        self.named = named


class SettingRefused(RetryableError):
    """A service cannot do what a `setting` of ours asks for, whatever the text is: tasks of this kind wait for it."""

    named = True

    def __init__(self, service: str, message: str, *, setting: str) -> None:
        super().__init__(message)
        self.service = service
        self.setting = self.parameter = setting


class RequestRefused(RetryableError):
    """The provider refused a request (400, 413, 422, …): because of the text, of a parameter, or of who we are.

    `parameter`: what the server itself names, one of `Provider.optional`; empty if it names none.
    """

    def __init__(self, message: str, *, parameter: str = "") -> None:
        super().__init__(message)
        self.parameter = parameter


class InputRefused(RequestRefused):
    """The provider itself says that it is the text that it does not take. Of a batch, one of its texts."""

    named = True


class InputTooLong(InputRefused):
    """A request has more tokens than its model reads. With several texts, one of them has: which one is to be found.

    `tokens`: how many it had, and how many the model reads, where the server says so.
    """

    def __init__(self, message: str, *, tokens: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.tokens = tokens


class UselessAnswer(RetryableError):
    """The provider answered (200), and it is nothing that could be delivered: empty, zeros, no JSON, invalid.

    `answers`: how many such answers this attempt was given, a repair included.
    """

    def __init__(self, message: str, *, answers: int = 1) -> None:
        super().__init__(message)
        self.answers = answers


class AnswerCut(UselessAnswer):
    """The answer ended before it was complete (`finish_reason` or `done_reason` length). Never a shorter success."""


class ModelRefused(UselessAnswer):
    """The model declined to answer this text (`message.refusal`, a content filter): it names the input itself."""

    named = True


class NoRoom(RetryableError):
    """A second request of one attempt would exceed a limit or a budget: the task goes back and waits for room."""


class NonRetryableError(AitpError):
    """This task can never succeed as it stands, whoever is asked: its content is invalid."""


class DeliveryRefused(NonRetryableError):
    """The task API itself refused a result (400, 404, 409, 413, 422, 501). `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class DeadlineExceeded(ServiceFault):
    """The answer of a provider, taken as a whole, took longer than its time-out allows: it trickled."""


class LedgerError(AitpError):
    """The ledger cannot be used now (disk full, I/O, locked): the machine's fault, tasks are released, never failed."""


class MisplacedLedger(ConfigurationError, LedgerError):
    """What RATE_LIMIT_STORAGE_PATH names was never a ledger: the setting is wrong, and what is there stays as it is."""

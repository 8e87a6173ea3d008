"""What can go wrong between us and a cloud, sorted by what the caller may conclude from it.

Two families matter most. After a ``RefusedError``, ``AuthError``, ``RateLimitedError`` or
``NotFoundError`` the call did not happen. After an ``UncertainError`` it may have: a caller
that changes something has to look before it tries again.
"""

import re

EVIDENCE_MAX = 400
_SECRETS = re.compile(r'("[a-z_]*(?:api_key|token|password|secret)"\s*:\s*)"[^"]*"', re.IGNORECASE)


class CloudError(Exception):
    """A call to a cloud did not do what was asked.

    ``code`` is the cloud's own word for it, ``status`` the HTTP status (0: no answer),
    ``evidence`` the start of the answer without secrets, and ``created`` the id of a machine
    that exists although the call was refused.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: str = "",
        status: int = 0,
        evidence: str = "",
        created: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.status = status
        self.evidence = evidence
        self.created = created


class AuthError(CloudError):
    """The cloud does not accept our key, or the key lacks the right: a person must act."""


class NotFoundError(CloudError):
    """The cloud says by name that the machine does not exist."""


class RateLimitedError(CloudError):
    """Too many calls; ``retry_after`` in seconds when the cloud named one."""

    def __init__(
        self, reason: str, *, retry_after: float | None = None, code: str = "", evidence: str = ""
    ) -> None:
        super().__init__(reason, code=code, status=429, evidence=evidence)
        self.retry_after = retry_after


class RefusedError(CloudError):
    """The cloud understood and said no; ``code`` says why."""


class NoSuchAskError(RefusedError):
    """The offer was taken, withdrawn, or the bid is under its floor."""


class NoCapacityNowError(RefusedError):
    """There is no machine of this kind free at the moment."""


class UncertainError(CloudError):
    """No usable answer: what was asked may have happened or not."""


class NoAnswerError(UncertainError):
    """The connection failed, broke or timed out."""


class ServerFailedError(UncertainError):
    """The cloud answered with a failure of its own (5xx)."""


class UnexpectedAnswerError(UncertainError):
    """The answer has not the documented shape; its start is kept as ``evidence``."""


def evidence_of(text: str, *, secrets: tuple[str, ...] = ()) -> str:
    """The start of an answer, fit for a log: one line, bounded, without keys."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _SECRETS.sub(r'\1"***"', " ".join(text.split()))[:EVIDENCE_MAX]

"""Errors as Compute Engine words them."""

from typing import Any

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class EngineError(Exception):
    """A request is refused at once."""

    def __init__(self, status: int, reason: str, text: str, domain: str = "global") -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.domain = domain

    def as_json(self) -> dict[str, Any]:
        """The body of the answer."""
        detail = {"message": str(self), "domain": self.domain, "reason": self.reason}
        return {
            "error": {
                "code": self.status,
                "message": str(self),
                "errors": [detail],
                "status": _STATUS.get(self.status, "INTERNAL"),
            }
        }


def invalid(field: str, value: object, why: str) -> EngineError:
    """A field of the request is not acceptable."""
    return EngineError(400, "invalid", f"Invalid value for field '{field}': '{value}'. {why}")


def not_found(path: str) -> EngineError:
    """No such resource; ``path`` begins with ``projects/``."""
    return EngineError(404, "notFound", f"The resource '{path}' was not found")


STOCK_OUT = "ZONE_RESOURCE_POOL_EXHAUSTED"


def operation_failure(code: str, zone: str, text: str = "") -> dict[str, Any]:
    """What a failed operation adds to itself."""
    words = {
        STOCK_OUT: (
            503,
            "SERVICE UNAVAILABLE",
            f"The zone '{zone}' does not have enough resources available to fulfill the request.",
        ),
        "QUOTA_EXCEEDED": (403, "FORBIDDEN", "Quota 'CPUS' exceeded."),
        "PREEMPTED": (503, "SERVICE UNAVAILABLE", "Instance failed to start due to preemption."),
    }
    default = words[STOCK_OUT] if STOCK_OUT in code else (400, "BAD REQUEST", code)
    status, name, message = words.get(code, default)
    return {
        "error": {"errors": [{"code": code, "message": text or message}]},
        "httpErrorStatusCode": status,
        "httpErrorMessage": name,
    }

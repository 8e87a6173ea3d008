"""Who may call Vast's API, and how often: keys, scopes and intervals between calls."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from simulator.faults import Faults


class ApiError(Exception):
    """An error answer. ``body`` is JSON, or the text of a plain-text answer."""

    def __init__(
        self, status: int, body: dict[str, Any] | str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = headers or {}


def failure(status: int, code: str, text: str, **more: Any) -> ApiError:
    """The usual error body."""
    return ApiError(status, {"success": False, "error": code, "msg": text} | more)


@dataclass(frozen=True, slots=True)
class Keys:
    """``full`` may do everything; ``read`` may only read."""

    full: str
    read: str


_INTERVALS: tuple[tuple[str, str, float], ...] = (
    # method, what the path contains, seconds between two such calls
    ("PUT", "/asks/", 4.5),
    ("DELETE", "/instances/", 3.0),
    ("PUT", "/bid_price/", 5.5),
    ("PUT", "/instances/", 1.0),
    ("GET", "/api/v0/instances/", 2.0),
    ("GET", "/api/v1/instances/", 1.0),
    ("POST", "/bundles/", 6.0),
    ("POST", "/ssh/", 1.0),
)
_SEARCHES = ("/bundles/", "/search/asks/")


class Gatekeeper:
    """Checks each request before it is answered. Raises ApiError."""

    def __init__(
        self,
        *,
        keys: Keys,
        faults: Faults,
        rate_scale: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._faults = faults
        self._rate_scale = rate_scale
        self._monotonic = monotonic
        self._last: dict[tuple[str, str, str], float] = {}

    async def admit(self, request: Request) -> None:
        """Let an authorized call through that is not too frequent."""
        self._authorize(request)
        self._faulty_limit(request)
        self._limit(request)

    def _authorize(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise failure(403, "auth_error", "This action requires login.")
        if key not in (self._keys.full, self._keys.read):
            raise failure(404, "auth_error", "Invalid user key")
        reads = request.method == "GET" or request.url.path.endswith(_SEARCHES)
        if key == self._keys.read and not reads:
            raise failure(403, "auth_error", "This API key lacks the permission instance_write.")

    def _faulty_limit(self, request: Request) -> None:
        fault = self._faults.take("rate-limit", method=request.method, path=request.url.path)
        if fault is None:
            return
        form = fault.details.get("form", "text")
        if form == "text":
            raise ApiError(429, "API requests too frequent: endpoint threshold=4.5")
        if form == "json":
            raise failure(429, "rate_limit_exceeded", "API requests too frequent")
        wait = int(fault.details.get("retry_after", 14_233))
        error = failure(
            429,
            "search_quota_exceeded",
            "Daily search row quota exhausted",
            limit=20_000,
            remaining=0,
            retry_after=wait,
        )
        reset = str(int(time.time()) + wait)
        error.headers = {"Retry-After": str(wait), "X-RateLimit-Reset": reset}
        raise error

    def _limit(self, request: Request) -> None:
        for method, part, seconds in _INTERVALS:
            if request.method != method or part not in request.url.path:
                continue
            call = (method, part, request.headers["authorization"])
            now = self._monotonic()
            wanted = seconds * self._rate_scale
            if now - self._last.get(call, float("-inf")) < wanted:
                raise ApiError(429, f"API requests too frequent: endpoint threshold={seconds}")
            self._last[call] = now
            return

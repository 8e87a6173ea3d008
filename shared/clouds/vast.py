"""The Vast.ai API on the wire (https://docs.vast.ai/api-reference). No policy here.

What the service really does differs from its documentation in places that cost money: a 404 may
be a refused key, a 200 may be a refusal, a refusal may leave a machine behind, and a list that
was asked in the old way is gone. Each is sorted here into one typed error.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from shared.clouds.calls import Limit, Pace, read
from shared.clouds.errors import (
    AuthError,
    CloudError,
    NoAnswerError,
    NoCapacityNowError,
    NoSuchAskError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
    ServerFailedError,
    UnexpectedAnswerError,
    evidence_of,
)
from shared.clouds.vast_answers import Ask, Instance

M = TypeVar("M", bound=BaseModel)

PUBLIC_URL = "https://console.vast.ai"
RUNTYPE = "ssh_direc ssh_proxy"  # the missing t is really on the wire
PAGE = 25
PAGES_MAX = 400
LIMITS = {
    "search": Limit(6.0, burst=4),
    "create": Limit(4.5),
    "destroy": Limit(3.0),
    "show": Limit(2.0),
    "list": Limit(1.0),
    "state": Limit(1.0),
    "keys": Limit(1.0),
    "account": Limit(1.0),
}
"""The service's documented minimum intervals, in seconds."""
CHANGES = ("create", "destroy", "state")

_NO_INSTANCE = ("no_such_instance", "not_found", "no such instance", "not found")
_KEY_TROUBLE = ("auth_error", "invalid user key", "session expired", "requires login", "api key")


class VastClient:
    """One account. Close it with ``aclose``.

    Every call raises CloudError; calls that change something are never repeated here.
    ``timeout`` is in seconds for one request, ``pace`` scales the intervals between calls.
    ``may_change`` is asked right before each call that changes something, and may raise.
    """

    def __init__(
        self,
        *,
        key: str,
        url: str = PUBLIC_URL,
        timeout: float = 20.0,
        pace: float = 1.0,
        may_change: Callable[[], object] = lambda: None,
    ) -> None:
        self._key = key
        self._pace = Pace(LIMITS, scale=pace)
        self._may_change = may_change
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            timeout=timeout,
            follow_redirects=False,
            trust_env=not _is_loopback(url),
            headers={"Authorization": f"Bearer {key}", "Accept": "application/json"},
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    # --- the market ---------------------------------------------------------------------

    async def search(
        self,
        filters: Mapping[str, Mapping[str, object]],
        *,
        storage_gb: float,
        limit: int,
        kind: str = "bid",
    ) -> list[Ask]:
        """Offers, cheapest first. ``storage_gb`` is the disk that prices are to include.

        The server is not known to honour every filter: check the rows.
        """
        body = {
            **filters,
            "type": kind,
            "order": [["dph_total", "asc"]],
            "limit": limit,
            "allocated_storage": storage_gb,
        }
        answer = await self._read("search", "POST", "/api/v0/bundles/", body=body)
        rows = answer.get("offers") if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            raise self._unexpected("search", answer, "no list of offers")
        return [ask for row in rows if (ask := _ask(row)) is not None]

    # --- instances ----------------------------------------------------------------------

    async def create(
        self,
        ask: int,
        *,
        label: str,
        image: str,
        disk_gb: float,
        bid: float | None,
        onstart: str = "",
    ) -> int:
        """Rent an offer and return the instance's id.

        ``bid`` in US dollars an hour makes it interruptible; None rents on demand. There is no
        idempotency key: after an UncertainError look for ``label`` before trying again. A
        refusal that left a machine behind carries its id in ``created``.
        """
        body = {
            "client_id": "me",
            "image": image,
            "disk": disk_gb,
            "price": bid,
            "label": label,
            "onstart": onstart,
            "env": {},
            "runtype": RUNTYPE,
            "cancel_unavail": True,
            "force": False,
        }
        answer = await self._call("create", "PUT", f"/api/v0/asks/{ask}/", body=body)
        contract = answer.get("new_contract") if isinstance(answer, dict) else None
        if isinstance(contract, bool) or not isinstance(contract, int):
            raise self._unexpected("create", answer, "no new_contract")
        return contract

    async def instance(self, instance: int) -> Instance | None:
        """One machine; None when the service says that there is none.

        Right after a create it may say so of a machine that is on its way.
        """
        try:
            answer = await self._read("show", "GET", f"/api/v0/instances/{instance}/?owner=me")
        except NotFoundError:
            return None
        if not isinstance(answer, dict) or "instances" not in answer:
            raise self._unexpected("show", answer, "no instance in it")
        if answer["instances"] is None:
            return None
        row = self._row("show", Instance, answer["instances"])
        return None if row.destroyed else row

    async def instances(self) -> list[Instance]:
        """Every machine of the account, all pages.

        Not filtered by the server on purpose: whoever looks for a label must not depend on a
        filter that silently matches nothing.
        """
        found: dict[int, Instance] = {}
        token: str | None = None
        for _ in range(PAGES_MAX):
            page, token = await self._page(token)
            found.update({row.id: row for row in page})
            if token is None:
                return [row for row in found.values() if not row.destroyed]
        raise UnexpectedAnswerError(f"vast list: no end after {PAGES_MAX} pages")

    async def start(self, instance: int) -> None:
        """Ask it to run. Raises NoCapacityNowError when the request was only queued."""
        await self._set_state(instance, "running")

    async def stop(self, instance: int) -> None:
        """Ask it to stop; its disk stays and is billed."""
        await self._set_state(instance, "stopped")

    async def destroy(self, instance: int) -> None:
        """Ask for its end. Raises NotFoundError when it is gone already."""
        await self._call("destroy", "DELETE", f"/api/v0/instances/{instance}/", body={})

    # --- the account --------------------------------------------------------------------

    async def ssh_keys(self) -> list[str]:
        """The public keys that new instances receive."""
        try:
            answer = await self._read("keys", "GET", "/api/v0/ssh/")
        except NotFoundError:  # reported for an account without keys
            return []
        if not isinstance(answer, list):
            raise self._unexpected("keys", answer, "not a list")
        rows = [row for row in answer if isinstance(row, dict) and not row.get("deleted_at")]
        return [str(row.get("public_key") or row.get("key") or "") for row in rows]

    async def add_ssh_key(self, public_key: str) -> None:
        """Register a public key: instances created from now on accept it."""
        await self._call("keys", "POST", "/api/v0/ssh/", body={"ssh_key": public_key})

    async def credit(self) -> float:
        """What the account can still spend, in US dollars."""
        answer = await self._read("account", "GET", "/api/v0/users/current/")
        credit = answer.get("credit") if isinstance(answer, dict) else None
        if isinstance(credit, bool) or not isinstance(credit, int | float):
            raise UnexpectedAnswerError("vast account: no credit in the answer")
        return float(credit)

    # --- the wire -----------------------------------------------------------------------

    async def _page(self, token: str | None) -> tuple[list[Instance], str | None]:
        params = {
            "select_filters": "{}",
            "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
            "limit": str(PAGE),
        }
        if token is not None:
            params["after_token"] = token
        answer = await self._read("list", "GET", "/api/v1/instances/", params=params)
        rows = answer.get("instances") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(rows, list):
            raise self._unexpected("list", answer, "no list of instances")
        following = answer.get("next_token")
        if following is not None and (not isinstance(following, str) or following == token):
            raise self._unexpected("list", answer, "a next_token that leads nowhere")
        return [self._row("list", Instance, row) for row in rows], following or None

    async def _set_state(self, instance: int, state: str) -> None:
        path = f"/api/v0/instances/{instance}/"
        await self._call("state", "PUT", path, body={"state": state})

    async def _read(
        self,
        kind: str,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        return await read(
            lambda: self._call(kind, method, path, body=body, params=params), self._pace
        )

    async def _call(
        self,
        kind: str,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        await self._pace.turn(kind)
        if kind in CHANGES:
            self._may_change()  # after the wait for our turn, which may be long
        try:
            response = await self._http.request(method, path, json=body, params=params)
        except httpx.HTTPError as error:
            raise NoAnswerError(f"vast {kind}: no answer ({type(error).__name__})") from error
        try:
            return self._answer(kind, response)
        except RateLimitedError as limited:
            self._pace.hold(kind, limited.retry_after or 2 * LIMITS[kind].interval)
            raise

    def _answer(self, kind: str, response: httpx.Response) -> Any:
        """The JSON of a success; every refusal as its error."""
        try:
            answer = response.json()
        except ValueError:
            answer = None
        refused = isinstance(answer, dict) and answer.get("success") is False
        if response.status_code == 200 and answer is not None and not refused:
            return answer
        raise self._error(kind, response, answer if isinstance(answer, dict) else {})

    def _error(self, kind: str, response: httpx.Response, answer: dict[str, Any]) -> CloudError:
        status = response.status_code
        code = str(answer.get("error") or "")
        text = str(answer.get("msg") or answer.get("message") or answer.get("detail") or "")
        evidence = evidence_of(response.text, secrets=(self._key,))
        reason = f"vast {kind}: {status} {code}".rstrip()
        if text:
            reason += f": {evidence_of(text, secrets=(self._key,))}"
        if status == 429:
            return RateLimitedError(
                reason, retry_after=_retry_after(response, answer), code=code, evidence=evidence
            )
        contract = answer.get("new_contract")
        created = str(contract) if isinstance(contract, int) else None
        error = _error_class(kind, status, f"{code} {text}".lower(), answered=bool(answer))
        return error(reason, code=code, status=status, evidence=evidence, created=created)

    def _row(self, kind: str, model: type[M], row: object) -> M:
        try:
            return model.model_validate(row)
        except ValidationError:
            raise self._unexpected(kind, row, "a row without an id") from None

    def _unexpected(self, kind: str, answer: object, why: str) -> UnexpectedAnswerError:
        evidence = evidence_of(json.dumps(answer, default=str), secrets=(self._key,))
        return UnexpectedAnswerError(f"vast {kind}: {why}", status=200, evidence=evidence)


def _error_class(kind: str, status: int, said: str, *, answered: bool) -> type[CloudError]:
    """Sort an answer that is no success. ``said`` is its code and text in lower case."""
    if "no_such_ask" in said:
        return NoSuchAskError
    if "resources_unavailable" in said:
        return NoCapacityNowError
    if status == 401 or any(word in said for word in _KEY_TROUBLE):
        return AuthError
    if status == 403:  # on a create it may also be an offer that is reserved for another
        return RefusedError if kind == "create" and answered else AuthError
    if status == 404 and (kind == "keys" or any(word in said for word in _NO_INSTANCE)):
        return NotFoundError
    if status >= 500:
        return ServerFailedError
    if answered and (status == 200 or 400 <= status < 500) and status != 404:
        return RefusedError
    return UnexpectedAnswerError


def _ask(row: object) -> Ask | None:
    """An offer row, or None: an offer that we cannot read is one that we do not take."""
    try:
        return Ask.model_validate(row)
    except ValidationError:
        return None


def _retry_after(response: httpx.Response, answer: Mapping[str, Any]) -> float | None:
    for value in (answer.get("retry_after"), response.headers.get("retry-after")):
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.startswith("127.")

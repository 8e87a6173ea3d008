"""``--policy key=value`` as the fields of a Policy, checked before anything is asked."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from cli.errors import UsageError
from shared.policy import Policy

_TYPES = get_type_hints(Policy)
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def parse_policy(settings: Sequence[str]) -> dict[str, object]:
    """The given settings, JSON-ready; those that were not given keep their defaults.

    Lists are written with commas. Raises UsageError that names the setting and what fits.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--policy {setting!r} is not KEY=VALUE")
        if name not in _TYPES:
            raise UsageError(f"policy: there is no setting {name!r}", _suggestion(name))
        values[name] = _value(name, text)
    try:
        Policy(**values)
    except ValueError as error:
        raise UsageError(str(error)) from None
    plain: dict[str, object] = json.loads(json.dumps(values))
    return plain


def _value(name: str, text: str) -> object:
    kind = _TYPES[name]
    if get_origin(kind) is tuple and str in get_args(kind):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is bool:
        if text.lower() not in _WORDS:
            raise UsageError(f"policy: {name} is {text!r}; it takes true or false")
        return _WORDS[text.lower()]
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UsageError(f"policy: {name} is {text!r}; it takes {wanted}") from None


def _suggestion(name: str) -> str:
    known = [field.name for field in fields(Policy)]
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"

"""Pages as text. Everything that comes from outside is escaped; there is no script."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from services.api.domain import wording

REFRESH_SECONDS = 5

STYLE = """\
:root { color-scheme: light dark; --line: #8884; --dim: #888; --good: #1a7f4b; --warn: #b7791f;
  --bad: #c53030 }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left;
  vertical-align: top }
th { color: var(--dim); font-weight: 500 }
code { font-size: .9em } .dim { color: var(--dim) } .nowrap { white-space: nowrap }
.success { color: var(--good) } .warning { color: var(--warn) } .critical { color: var(--bad) }
input { font: inherit; padding: .3rem; width: 24rem; max-width: 100% }
button { font: inherit; padding: .3rem .8rem }
"""

_CALM = {"SYNCING", "SEEDING"}
_BAD = {"HALTED", "FAILING_OVER"}


def status_page(
    states: Sequence[Mapping[str, Any]],
    lines: Sequence[tuple[str, Mapping[str, Any]]],
    now: datetime,
) -> str:
    """All workspaces as ``as_json`` gives them, and the newest timeline lines, newest first."""
    rows = "".join(_workspace(state) for state in states)
    empty = '<tr><td colspan="7" class="dim">no workspace yet: dumont workspace add</td></tr>'
    told = "".join(_line(workspace, entry) for workspace, entry in lines)
    return _document(
        "Dumont Failover",
        f"""<h1>Dumont Failover</h1>
<table><thead><tr><th>workspace</th><th>phase</th><th>endpoint</th><th>primary</th>
<th>standby</th><th>if it died now</th><th>price</th></tr></thead>
<tbody>{rows or empty}</tbody></table>
<h2>What happened</h2>
<table><tbody>{told}</tbody></table>
<p class="dim">as of {escape(wording.clock(now))}, renewed every {REFRESH_SECONDS} s ·
<a href="/docs">the api</a></p>""",
        refresh=True,
    )


def login_page(trouble: str = "") -> str:
    """Asks for an api key."""
    said = f'<p class="critical">{escape(trouble)}</p>' if trouble else ""
    return _document(
        "Dumont Failover",
        f"""<h1>Dumont Failover</h1>{said}
<form method="post" action="/login">
<p><label>api key<br><input type="password" name="key" autocomplete="current-password"
required autofocus></label></p><p><button>see the status</button></p></form>
<p class="dim"><a href="/docs">the api</a></p>""",
    )


def docs_page(openapi: Mapping[str, Any]) -> str:
    """An OpenAPI document for reading."""
    paths = "".join(
        _operation(path, method, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(
        _schema(name, schema) for name, schema in openapi["components"]["schemas"].items()
    )
    about = "".join(
        f"<p>{_text(part)}</p>" for part in openapi["info"]["description"].split("\n\n")
    )
    return _document(
        "Dumont Failover: the api",
        f"""<h1>The api of Dumont Failover {escape(openapi["info"]["version"])}</h1>
{about}
<p>For programs: <a href="/openapi.json">openapi.json</a>. Everything under <code>/v1</code> wants
<code>Authorization: Bearer KEY</code>.</p>
<h2>Paths</h2><table><tbody>{paths}</tbody></table>
<h2>Objects</h2>{schemas}""",
    )


def _document(title: str, body: str, *, refresh: bool = False) -> str:
    again = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if refresh else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{again}<link rel="stylesheet" href="/style.css"></head><body>{body}</body></html>\n'
    )


def _cells(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _text(value: object) -> str:
    return escape(str(value))


def _workspace(state: Mapping[str, Any]) -> str:
    endpoint = state["endpoint"]
    return _cells(
        f"<strong>{_text(state['name'])}</strong><br><span class=dim>epoch {state['epoch']}</span>",
        _phase(state),
        f"<code>{_text(endpoint['host'] or '')}:{endpoint['port']}</code>",
        _machine(state["primary"]),
        _machine(state["standby"]),
        _text(state["lag"]["text"].removeprefix("if the GPU died now: ")),
        _text(wording.price(state["price_per_hour"])),
    )


def _phase(state: Mapping[str, Any]) -> str:
    phase = state["phase"]
    look = "success" if phase in _CALM else "critical" if phase in _BAD else "warning"
    notes: Iterable[object] = (
        state["step"],
        state["degraded_reason"] and f"degraded: {state['degraded_reason']}",
        state["paused"] and "paused",
        state["halted"] and f"{state['halted']['reason']}: {state['halted']['hint']}",
        _way_back(state["recovery"]),
    )
    told = "".join(f"<br><span class=dim>{_text(note)}</span>" for note in notes if note)
    return f'<span class="{look}">{_text(phase)}</span>{told}'


def _way_back(recovery: Mapping[str, Any] | None) -> str:
    if recovery is None:
        return ""
    progress = recovery["progress"]
    percent = f", {progress['percent']:.0f} %" if progress else ""
    later = f", next at {recovery['next_attempt_at']}" if recovery["next_attempt_at"] else ""
    return f"attempt {recovery['attempt']} of {recovery['attempts']}{percent}{later}"


def _machine(machine: Mapping[str, Any] | None) -> str:
    if machine is None:
        return '<span class="dim">none</span>'
    what = machine["description"] or machine["provider"]
    where = f"{machine['host']}:{machine['port']}"
    return f"{_text(what)}<br><code>{_text(where)}</code> {_text(machine['status'])}"


def _line(workspace: str, entry: Mapping[str, Any]) -> str:
    return _cells(
        f'<span class="dim nowrap">{_text(str(entry["at"])[11:19])}</span>',
        _text(workspace),
        f'<span class="{_text(entry["severity"])}">{_text(entry["text"])}</span>',
        f'<code class="dim">{_text(entry["event"])}</code>',
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parameters = "".join(
        f"<br><code>{_text(p['name'])}</code> <span class=dim>{_text(p['in'])} "
        f"{_text(p.get('description', ''))}</span>"
        for p in operation.get("parameters", ())
    )
    summary = operation.get("description") or operation.get("summary", "")
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = f"<br>body: {_type(content['schema'])}" if content else ""
    answers = ", ".join(
        f"{_text(code)} {_answer(answer)}" for code, answer in operation["responses"].items()
    )
    return _cells(
        f'<code class="nowrap">{method.upper()} {_text(path)}</code>{parameters}',
        f"{_text(summary)}{body}<br><span class=dim>{answers}</span>",
    )


def _answer(answer: Mapping[str, Any]) -> str:
    for content in answer.get("content", {}).values():
        if "$ref" in content.get("schema", {}):
            return _type(content["schema"])
    return ""


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    rows = "".join(
        _cells(f"<code>{_text(field)}</code>", _type(about), _text(about.get("description", "")))
        for field, about in schema.get("properties", {}).items()
    )
    values = ", ".join(_text(value) for value in schema.get("enum", ()))
    about = _text(schema.get("description", ""))
    return f'<h3 id="{_text(name)}">{_text(name)}</h3><p>{about} {values}</p><table>{rows}</table>'


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = _text(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return _text(schema.get("format") or schema.get("type", "any"))

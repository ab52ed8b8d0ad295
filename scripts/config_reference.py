"""Render docs/reference/config.md from the models of the configuration.

python scripts/config_reference.py            write the page
python scripts/config_reference.py --check    fail when the page is not what the models say
"""

from __future__ import annotations

import ipaddress
import json
import sys
import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from kipuka import plugins
from kipuka.config import sections
from kipuka.config.validate import LATER

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "config.md"

HOST = (
    ("[server]", sections.ServerSection),
    ("[tls]", sections.TLSSection),
    ("mtls", None),
    ("[db]", sections.DatabaseSection),
    ("[[ca]]", sections.CAHead),
    ("local", None),
    ("pkcs11", None),
    ("[est]", sections.ESTSection),
    ("[[est.label]]", sections.LabelItem),
    ("[[profile]]", sections.ProfileItem),
    ("[[profile.certificate_policies]]", sections.PolicyItem),
    ("[auth]", sections.AuthSection),
    ("gssapi", None),
    ("ldap", None),
    ("otp", None),
    ("[admin]", sections.AdminSection),
    ("[admin.tls]", sections.AdminTLSSection),
    ("[admin.bearer_token]", sections.BearerTokenSection),
    ("[[admin.bearer_token.tokens]]", sections.BearerTokenItem),
    ("[audit]", sections.AuditSection),
    ("[[audit.sink]]", sections.SinkHead),
    ("file", None),
    ("syslog", None),
    ("stdout", None),
    ("[log]", sections.LogSection),
    ("[plugins]", sections.PluginsSection),
)
"""The page's order: a section of the host with its model, or a bundled plugin by name."""

INTRODUCTION = """\
# Configuration reference

<!-- Written by scripts/config_reference.py from the models. Do not edit. -->

One TOML file configures a server; `-c FILE` names it, else `KIPUKA_CONFIG`, else `./kipuka.toml`. `kipuka check` says all that is
wrong with it without starting anything.

- A relative path is relative to the configuration file. `~` is the home directory of the server's account.
- A secret may be written out, or as `"file:PATH"` (the file's text without the line end) or `"env:NAME"`.
- An unknown key is refused, and so is a key that a later version will bring: nothing is ignored in silence.
- A method of proving identity is on when its section is there, unless the section says `enabled = false`.
- A section, a `backend` or a `type` that is not described here belongs to a plugin; its keys are in the plugin's own documents.

## Environment variables

`KIPUKA_<SECTION>__<KEY>` takes the place of a key: `KIPUKA_SERVER__LISTEN` is `listen` of `[server]`,
`KIPUKA_TLS__CLIENT_AUTH__MODE` is `mode` of `[tls.client_auth]`, `KIPUKA_CA__0__KEY_PASSWORD` is `key_password` of the first
`[[ca]]`. A value that reads as a TOML value is one (`20`, `true`, `["mtls", "otp"]`), any other is a string. A variable that
names no key is refused like an unknown key. Variables without two underscores in a row are left alone.
"""


def main(arguments: list[str]) -> int:
    text = render()
    if "--check" in arguments:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE} is not what the models say: run python scripts/config_reference.py", file=sys.stderr)
            return 1
        return 0
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


def render() -> str:
    """The whole page."""
    bundled = _bundled()
    parts = [INTRODUCTION]
    for title, model in HOST:
        heading, of = bundled[title] if model is None else (f"## `{title}`", model)
        parts.append("\n".join([heading, "", *_section(of)]))
    parts.append("\n".join(_later()))
    return "\n".join(parts)


def _bundled() -> dict[str, tuple[str, type[BaseModel]]]:
    names = {title: "the reference" for title, model in HOST if model is None}
    found = plugins.load(plugins.discover(), names)
    authenticators = {
        name: (f"## `[{'tls.client_auth' if name == 'mtls' else name}]`", kind.config)
        for name, kind in found.authenticators.items()
    }
    backends = {
        name: (f'### Further keys of `[[ca]]` with `backend = "{name}"`', kind.config)
        for name, kind in found.ca_backends.items()
    }
    sinks = {
        name: (f'### Further keys of `[[audit.sink]]` with `type = "{name}"`', kind.config)
        for name, kind in found.audit_sinks.items()
    }
    return authenticators | backends | sinks


def _section(model: type[BaseModel]) -> Iterator[str]:
    yield " ".join((model.__doc__ or "").split())
    yield ""
    rows = [(name, info) for name, info in model.model_fields.items() if not _is_described_elsewhere(info)]
    if not rows:
        yield "No keys of its own."
        yield ""
        return
    yield "| Key | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for name, info in rows:
        meaning = " ".join((info.description or "").split())
        if not meaning:
            raise SystemExit(f"{model.__name__}.{name} has no description")
        cells = (f"`{info.alias or name}`", _type(info), _default(info), meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _plain(annotation: Any) -> Any:
    while True:
        origin = get_origin(annotation)
        if origin in {Union, types.UnionType}:
            arms = [arm for arm in get_args(annotation) if arm is not types.NoneType]
            annotation = arms[0]
        elif hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        else:
            return annotation


def _is_described_elsewhere(info: FieldInfo) -> bool:
    """Tables of their own have a section of their own."""
    annotation = _plain(info.annotation)
    arguments = get_args(annotation)
    inner = _plain(arguments[0]) if arguments and get_origin(annotation) is tuple else annotation
    return isinstance(inner, type) and issubclass(inner, BaseModel)


def _type(info: FieldInfo) -> str:
    return _type_name(info.annotation) + _bounds(info)


_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "string",
    Path: "path",
    SecretStr: "secret",
    timedelta: "seconds",
    sections.Address: "`ADDR:PORT`",
    ipaddress.IPv4Network: "address or network",
}


def _type_name(annotation: Any) -> str:
    annotation = _plain(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is tuple:
        return f"array of: {_type_name(arguments[0])}"
    if origin is dict:
        return f"table of: {_type_name(arguments[1])}"
    return _NAMES[annotation]


def _number(value: Any) -> str:
    number = value.total_seconds() if isinstance(value, timedelta) else value
    return f"{number:.0f}" if number == int(number) else f"{number}"


def _bounds(info: FieldInfo) -> str:
    words: list[str] = []
    for mark in info.metadata:
        match mark:
            case annotated_types.Ge(ge=value):
                words.append(f"at least {_number(value)}")
            case annotated_types.Gt(gt=value):
                words.append(f"above {_number(value)}")
            case annotated_types.Le(le=value):
                words.append(f"at most {_number(value)}")
            case annotated_types.Lt(lt=value):
                words.append(f"below {_number(value)}")
            case _:
                pass
    return f", {', '.join(words)}" if words else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    # what a factory makes (the host name) is told by the description
    match info.default if info.default_factory is None else None:
        case None:
            return ""
        case timedelta() as value:
            return f"`{_number(value)}`"
        case bool() | int() | float() | str() as value:
            return f"`{json.dumps(value)}`"
        case tuple() as value:
            return f"`{json.dumps(list(value))}`"
        case value:
            return f"`{json.dumps(str(value))}`"


def _later() -> Iterator[str]:
    yield "## Not available in this version"
    yield ""
    yield "These are refused, so that nobody believes them to work:"
    yield ""
    for path in LATER:
        yield f"- {_later_name(path)}"
    yield "- a `url` of `[db]` that is not an SQLite file"


def _later_name(path: tuple[str, ...]) -> str:
    arrays = {("est", "label"), ("profile",), ("audit", "sink")}
    table = ".".join(path[:-1])
    return f"`{path[-1]}` of `[[{table}]]`" if path[:-1] in arrays else f"`{path[-1]}` of `[{table}]`"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Writes the parts of the documents that are made from the code, or says which are out of date.

In the room: exit codes, statuses, audit events, commands, the audit schema. Not in the room: the configuration
(`config_reference.py`).

A part stands in a Markdown file between `<!-- begin NAME -->` and `<!-- end NAME -->`.

    python scripts/documents.py          write them
    python scripts/documents.py --check  compare only
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
import plugin_api
from kipuka_auth_otp.events import EVENTS as OTP_EVENTS

from kipuka.api import HOST_EVENTS, AuditEvent
from kipuka.audit.schema import json_schema
from kipuka.cli import main as kipuka_command
from kipuka.cli.failures import ExitCode
from kipuka.cli.host import plugin_group
from kipuka.http.responses import STATUS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SCHEMA = DOCS / "reference" / "audit-events.schema.json"
MARK = re.compile(r"(<!-- begin ([a-z-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def first_sentence(docstring: str | None) -> str:
    text = " ".join((docstring or "").split())
    return text.partition(". ")[0].removesuffix(".")


def without_version(docstring: str | None) -> str:
    """The whole docstring in one line, without the version of the API that brought the name."""
    return " ".join(re.sub(r"^\s*Since API \S+\.$", "", docstring or "", flags=re.MULTILINE).split())


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(headings), " | ".join("---" for _ in headings)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def comments_of(enumeration: type) -> dict[str, str]:
    """The comment behind each member of an enumeration, by the member's name."""
    source = textwrap.dedent(inspect.getsource(enumeration))
    return dict(re.findall(r"^    ([A-Z_]+) = \d+  # (.+)$", source, re.MULTILINE))


def exit_codes() -> str:
    comments = {"DONE": "it is done", **comments_of(ExitCode)}
    return table(["Code", "Meaning"], [(str(int(code)), comments[code.name]) for code in ExitCode])


def statuses() -> str:
    rows = sorted((status, kind.__name__, first_sentence(kind.__doc__)) for kind, status in STATUS.items())
    return table(["Status", "Error", "Meaning"], [(str(status), f"`{name}`", text) for status, name, text in rows])


def event_fields(event: type[AuditEvent]) -> str:
    names = [f"`{name}`" for name in event.model_fields]
    return ", ".join(names) or "(none)"


def events(kinds: Iterable[type[AuditEvent]]) -> Callable[[], str]:
    rows = [(f"`{kind.name}`", kind.outcome, without_version(kind.__doc__), event_fields(kind)) for kind in kinds]
    return lambda: table(["Event", "Outcome", "What happened", "Data"], rows)


def walk(command: click.Command, words: list[str]) -> Iterable[tuple[list[str], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from walk(inner, [*words, name])


def described(words: list[str], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(words), max_content_width=100, terminal_width=100)
    usage = " ".join([" ".join(words), *command.collect_usage_pieces(context)])
    text = [f"\n## {' '.join(words)}\n", f"    {usage}\n"]
    if command.help:
        paragraphs = inspect.cleandoc(command.help).split("\n\n")
        text += [f"{' '.join(paragraph.split())}\n" for paragraph in paragraphs]
    records = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
    rows = [(f"`{record[0]}`", record[1]) for record in records if record is not None]
    if rows:
        text.append(table(["Option", "Meaning"], rows))
    return "\n".join(text)


def commands() -> str:
    found = list(walk(kipuka_command, ["kipuka"]))
    for name in ("gssapi", "otp"):
        group = plugin_group(name)
        if group is None:
            sys.exit(
                f"error: the plugin kipuka-auth-{name} is not installed, and its commands are part of docs/reference/cli.md"
            )
        found += walk(group, ["kipuka", name])
    return "".join(
        described(words, command) for words, command in found if not isinstance(command, click.Group) or len(words) == 1
    )


PARTS: dict[str, Callable[[], str]] = {
    "exit-codes": exit_codes,
    "statuses": statuses,
    "host-events": events(HOST_EVENTS),
    "otp-events": events(OTP_EVENTS),
    "commands": commands,
    "plugin-api": plugin_api.render,
}


def filled(text: str) -> str:
    """The document with every marked part made anew."""
    return MARK.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}{found[3]}", text)


def wanted() -> dict[Path, str]:
    """Every file that has generated text, and what should be in it."""
    found = {SCHEMA: json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"}
    for file in sorted(DOCS.rglob("*.md")):
        text = file.read_text(encoding="utf-8")
        if MARK.search(text):
            found[file] = filled(text)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated parts of the documents.")
    parser.add_argument("--check", action="store_true", help="compare only")
    check: bool = parser.parse_args().check
    late: list[str] = []
    for file, text in wanted().items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            late.append(str(file.relative_to(ROOT)))
            if not check:
                file.write_text(text, encoding="utf-8")
    for name in late:
        print(f"{name} is out of date; run: make docs" if check else f"wrote {name}", file=sys.stderr)
    return 1 if check and late else 0


if __name__ == "__main__":
    sys.exit(main())

"""Finding what was changed in an audit log (guarantee 7, RULES I1).

In the room: walking chains, in the database and in files of JSON lines, and saying where they break. Not in the room: printing.

A chain shows every change within it. That its tail was cut is shown by the head: by the database's own, by a sink's file that has
more, or by the `head` that an auditor noted earlier. Against somebody who writes the whole chain anew only such a second place helps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kipuka.api.events import ascii_json
from kipuka.api.storage import ReadTx
from kipuka.audit.chain import GENESIS, canonical, line_hash
from kipuka.store import events
from kipuka.store.database import Store
from kipuka.store.events import ChainHead, StoredEvent

__all__ = ["ChainSummary", "Finding", "Report", "verify_file", "verify_lines", "verify_store"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One place where a log is not what was written. `sequence` is None where the place has no number."""

    node: str | None
    sequence: int | None
    problem: str  # changed, missing, reordered, inserted, unchained, unreadable, cut, no_head, other_head
    detail: str
    line: int | None = None  # of a file, from 1

    def __str__(self) -> str:
        place = [f"line {self.line}"] if self.line is not None else []
        place += [f"node {self.node}"] if self.node is not None else []
        place += [f"sequence {self.sequence}"] if self.sequence is not None else []
        return f"{', '.join(place) or 'the log'}: {self.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainSummary:
    """What was seen of one node's chain: note `last` and `head` to show later that nothing was cut."""

    node: str
    first: int
    last: int
    events: int
    head: str  # the hash of the last event


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The outcome. The log is intact exactly when there are no findings."""

    findings: tuple[Finding, ...] = ()
    chains: tuple[ChainSummary, ...] = ()

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@dataclass(slots=True)
class _Chain:
    """One node's chain as far as it was walked."""

    node: str
    first: int
    last: int
    head: str
    events: int = 1


@dataclass(slots=True)
class _Walk:
    """The state of a verification."""

    chains: dict[str, _Chain] = field(default_factory=dict[str, _Chain])
    findings: list[Finding] = field(default_factory=list[Finding])

    def find(self, node: str | None, sequence: int | None, problem: str, detail: str, line: int | None = None) -> None:
        self.findings.append(Finding(node=node, sequence=sequence, problem=problem, detail=detail, line=line))

    def report(self) -> Report:
        chains = (
            ChainSummary(node=one.node, first=one.first, last=one.last, events=one.events, head=one.head)
            for one in self.chains.values()
        )
        return Report(findings=tuple(self.findings), chains=tuple(chains))


async def verify_store(store: Store, *, known: Iterable[ChainHead] = ()) -> Report:
    """Check every chain in the database; `known` are heads noted earlier, which must still be part of it."""
    noted = tuple(known)
    return await store.read(lambda tx: _verify_rows(tx, noted))


def verify_file(path: Path, *, known: Iterable[ChainHead] = ()) -> Report:
    """Check a file that the file sink wrote. Raises OSError when it cannot be read."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return verify_lines(lines, known=known)


def verify_lines(lines: Iterable[str], *, known: Iterable[ChainHead] = ()) -> Report:
    """Check exported records, one of `AuditRecord.to_json` or `to_ascii_json` per line, of one node or of several.

    A file may begin in the middle of a chain, as after rotation, and may have a stretch of records again, since a sink gets them at
    least once; a repeated record is the same to the letter. A line that was torn by a crash is followed by its whole record.
    """
    walk = _Walk()
    noted = {(one.node, one.sequence): one for one in known}
    seen: dict[str, dict[int, str]] = {}
    torn: list[tuple[int, str]] = []
    for number, text in enumerate(lines, start=1):
        line = text.rstrip("\n")
        content, claimed = _split(line)
        if content is None:
            torn.append((number, line))
            continue
        # What was torn comes again whole, after at most the batch it was written in.
        torn = [(place, fragment) for place, fragment in torn if not line.startswith(fragment)]
        node, sequence = content["node"], content["sequence"]
        body = f"{line[: line.rindex(',')]}}}"
        if not _is_sealed(content, body, claimed):
            walk.find(node, sequence, "changed", "the event was changed", number)
        if seen.setdefault(node, {}).get(sequence) == claimed:
            continue
        _look_up_noted(walk, noted, node, sequence, claimed)
        _follow(walk, node, sequence, content["previous_hash"], claimed, seen=seen[node], line=number)
        seen[node][sequence] = claimed
    for place, _ in torn:
        walk.find(None, None, "unreadable", "the line is no audit event", place)
    _miss_noted(walk, noted)
    walk.findings.sort(key=lambda finding: finding.line or 0)
    return walk.report()


def _verify_rows(tx: ReadTx, known: tuple[ChainHead, ...]) -> Report:
    walk = _Walk()
    noted = {(one.node, one.sequence): one for one in known}
    for row in events.stored(tx):
        _look_up_noted(walk, noted, row.node, row.sequence, row.hash)
        content = _row_content(walk, row)
        previous = content["previous_hash"] if content is not None else None
        _follow(walk, row.node, row.sequence, previous, row.hash, seen={}, line=None)
    heads = {head.node: head for head in events.heads(tx)}
    for node, chain in walk.chains.items():
        if chain.first > 1:
            walk.find(node, 1, "missing", _missing(1, chain.first - 1))
        head = heads.get(node)
        if head is None:
            walk.find(node, chain.last, "no_head", "the head of the chain was removed")
        elif head.sequence > chain.last:
            walk.find(node, chain.last + 1, "cut", f"{_missing(chain.last + 1, head.sequence)} at the end of the chain")
        elif (head.sequence, head.hash) != (chain.last, chain.head):
            walk.find(node, chain.last, "other_head", "the head of the chain is not its last event")
    for node, head in heads.items():
        if node not in walk.chains:
            walk.find(node, 1, "cut", f"{_missing(1, head.sequence)}: the whole chain")
    _miss_noted(walk, noted)
    return walk.report()


def _row_content(walk: _Walk, row: StoredEvent) -> Mapping[str, Any] | None:
    """What a row's line says, held against its hash and its other columns."""
    content = _content(row.line)
    if content is None:
        walk.find(row.node, row.sequence, "changed", "the event was changed: it is no audit event any more")
        return None
    if line_hash(row.line) != row.hash:
        walk.find(row.node, row.sequence, "changed", "the event was changed")
        return content
    if (content["node"], content["sequence"]) != (row.node, row.sequence):
        detail = f"the event was written as sequence {content['sequence']} of node {content['node']}"
        walk.find(row.node, row.sequence, "reordered", detail)
    elif (content["time"], content["event"]) != (row.time, row.event):
        walk.find(row.node, row.sequence, "changed", "the event's time or name was changed beside its text")
    elif canonical(content) != row.line:
        walk.find(row.node, row.sequence, "changed", "the event's text is not canonical")
    return content


def _follow(
    walk: _Walk,
    node: str,
    sequence: int,
    previous: str | None,
    own_hash: str,
    *,
    seen: Mapping[int, str],
    line: int | None,
) -> None:
    """Hold an event against the one before it, and make it the last. `previous` is None where it cannot be read."""
    chain = walk.chains.get(node)
    if chain is None:
        walk.chains[node] = _Chain(node=node, first=sequence, last=sequence, head=own_hash)
        if sequence < 1:
            walk.find(node, sequence, "inserted", "the event was inserted before the first", line)
        elif sequence == 1 and previous not in {None, GENESIS}:
            walk.find(node, sequence, "unchained", "the first event does not begin a chain", line)
        return
    if sequence in seen:
        walk.find(node, sequence, "inserted", "another event of the same number was inserted", line)
        return
    if sequence <= chain.last:
        walk.find(node, sequence, "reordered", f"the event stands after sequence {chain.last}", line)
        return
    if sequence > chain.last + 1:
        walk.find(node, chain.last + 1, "missing", _missing(chain.last + 1, sequence - 1), line)
    elif previous not in {None, chain.head}:
        detail = f"the event does not follow sequence {chain.last}: one of them was changed, removed or inserted"
        walk.find(node, sequence, "unchained", detail, line)
    chain.last, chain.head, chain.events = sequence, own_hash, chain.events + 1


def _look_up_noted(
    walk: _Walk, noted: dict[tuple[str, int], ChainHead], node: str, sequence: int, own_hash: str
) -> None:
    known = noted.pop((node, sequence), None)
    if known is not None and known.hash != own_hash:
        walk.find(node, sequence, "changed", "the event is not the one whose hash was noted")


def _miss_noted(walk: _Walk, noted: Mapping[tuple[str, int], ChainHead]) -> None:
    for node, sequence in noted:
        walk.find(node, sequence, "cut", "the event whose hash was noted is not there")


def _is_sealed(content: Mapping[str, Any], body: str, claimed: str) -> bool:
    """Whether the text says its content as the chain hashed it, in the canonical form or in the same in ASCII."""
    try:
        whole = canonical(content)
    except ValueError:  # a number that canonical JSON has no form for
        return False
    return line_hash(whole) == claimed and body in {whole, ascii_json(whole)}


def _missing(first: int, last: int) -> str:
    return f"sequence {first} is missing" if first == last else f"sequences {first} to {last} are missing"


def _split(line: str) -> tuple[Mapping[str, Any] | None, str]:
    """An exported line as the record without its hash, and the hash; None for what is no such line."""
    content = _content(line)
    if content is None or not isinstance(content.get("hash"), str):
        return None, ""
    without = dict(content)
    claimed = without.pop("hash")
    return (without, claimed) if line.endswith(f',"hash":"{claimed}"}}') else (None, "")


def _content(line: str) -> Mapping[str, Any] | None:
    """A record's members; None unless they are those of a record."""
    try:
        parsed: object = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict):
        return None
    content = cast("dict[str, Any]", parsed)
    wanted = {"node": str, "sequence": int, "time": str, "event": str, "previous_hash": str}
    if not all(isinstance(content.get(name), kind) for name, kind in wanted.items()):
        return None
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a member that is there twice, of which readers would see different ones."""
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "a member is there twice"
        raise ValueError(msg)
    return members

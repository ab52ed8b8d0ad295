"""Finding what was changed in an audit log (guarantee 7, RULES I1).

In the room: walking chains, in the database and in files of JSON lines, and saying where they break. Not in the room: printing.

A chain shows every change within it. Against somebody who computes it anew from some event on, there are the heads that the node's key
signed (`kipuka.audit.heads`): what one covers cannot be written anew without the key. That the tail was cut, or written anew
after the last signed head, shows in a second place: a sink's file that has more, or a head that an auditor kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kipuka.api.events import AuditHeadSigned, ascii_json
from kipuka.api.storage import ReadTx
from kipuka.audit.chain import GENESIS, canonical, line_hash
from kipuka.audit.heads import SignedHead, TrustedKeys, check_head, check_stub, head_of_event
from kipuka.store import events
from kipuka.store.database import Store
from kipuka.store.events import ChainHead, StoredEvent, Stub

__all__ = [
    "ChainSummary",
    "Finding",
    "Report",
    "verify_file",
    "verify_file_and_store",
    "verify_lines",
    "verify_rows",
    "verify_store",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One place where a log is not what was written. `sequence` is None where the place has no number."""

    node: str | None
    sequence: int | None
    problem: str  # changed, missing, reordered, inserted, unchained, unreadable, cut, no_head, other_head,
    # bad_signature, not_signed (what was signed is something else), unsigned, bad_stub, differs (file and database)
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
    signed: SignedHead | None = None  # the newest that a trusted key signed, and that fits
    heads_unchecked: int = 0  # signed heads that no key was given for
    pruned: Stub | None = None

    @property
    def uncovered(self) -> int | None:
        """How many events come after the newest signed head; its own record is one. None where nothing is signed."""
        return None if self.signed is None else self.last - self.signed.sequence


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
    previous: str | None  # what the first event follows
    events: int = 1
    signed: SignedHead | None = None
    heads_unchecked: int = 0
    pruned: Stub | None = None
    since_signed: dict[int, str] = field(default_factory=dict[int, str])  # hashes by number, for the next signed head


@dataclass(slots=True)
class _Walk:
    """The state of a verification."""

    trusted: TrustedKeys
    chains: dict[str, _Chain] = field(default_factory=dict[str, _Chain])
    findings: list[Finding] = field(default_factory=list[Finding])

    def find(self, node: str | None, sequence: int | None, problem: str, detail: str, line: int | None = None) -> None:
        self.findings.append(Finding(node=node, sequence=sequence, problem=problem, detail=detail, line=line))

    def report(self) -> Report:
        chains = (
            ChainSummary(
                node=one.node,
                first=one.first,
                last=one.last,
                events=one.events,
                head=one.head,
                signed=one.signed,
                heads_unchecked=one.heads_unchecked,
                pruned=one.pruned,
            )
            for one in self.chains.values()
        )
        return Report(findings=tuple(self.findings), chains=tuple(chains))


NO_KEYS = TrustedKeys()


async def verify_store(store: Store, *, known: Iterable[ChainHead] = (), trusted: TrustedKeys = NO_KEYS) -> Report:
    """Check every chain in the database; `known` are heads kept elsewhere, which must still be part of it.

    With `trusted` keys every signed head must be one of theirs and fit, and every chain must have one.
    """
    noted = tuple(known)
    return await store.read(lambda tx: _verify_rows(tx, noted, trusted))


def verify_rows(tx: ReadTx, *, trusted: TrustedKeys = NO_KEYS) -> Report:
    """The same within a transaction."""
    return _verify_rows(tx, (), trusted)


async def verify_file_and_store(
    store: Store, path: Path, *, known: Iterable[ChainHead] = (), trusted: TrustedKeys = NO_KEYS
) -> Report:
    """Check a file, the database, and that each event of the file is in the database, or was pruned there.

    A `known` head may be in either: in the file when it was pruned. Raises OSError.
    """
    noted = tuple(known)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        in_file = _walk_lines(lines, {}, trusted)
    by_file = in_file.walk.report()
    there = [one for one in noted if one.sequence in in_file.seen.get(one.node, {})]
    elsewhere = [one for one in noted if one not in there]
    walk = _Walk(trusted)
    _hold_noted(walk, there, in_file.seen)

    def read(tx: ReadTx) -> Report:
        _compare(walk, tx, in_file.seen)
        return _verify_rows(tx, tuple(elsewhere), trusted)

    of_store = await store.read(read)
    findings = (*by_file.findings, *of_store.findings, *walk.findings)
    return Report(findings=findings, chains=of_store.chains)


def verify_file(path: Path, *, known: Iterable[ChainHead] = (), trusted: TrustedKeys = NO_KEYS) -> Report:
    """Check a file that the file sink wrote. Raises OSError when it cannot be read."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return verify_lines(lines, known=known, trusted=trusted)


def verify_lines(lines: Iterable[str], *, known: Iterable[ChainHead] = (), trusted: TrustedKeys = NO_KEYS) -> Report:
    """Check exported records, one of `AuditRecord.to_json` or `to_ascii_json` per line, of one node or of several.

    A file may begin in the middle of a chain, as after rotation, and may have a stretch of records again, since a sink gets them at
    least once; a repeated record is the same to the letter. A line that was torn by a crash is followed by its whole record.
    """
    noted = {(one.node, one.sequence): one for one in known}
    return _walk_lines(lines, noted, trusted).walk.report()


_Seen = dict[str, dict[int, tuple[str, int]]]
"""By node and number, the hash of an event in a file, and its line."""


@dataclass(frozen=True, slots=True)
class _Lines:
    walk: _Walk
    seen: _Seen


def _walk_lines(lines: Iterable[str], noted: dict[tuple[str, int], ChainHead], trusted: TrustedKeys) -> _Lines:
    walk = _Walk(trusted)
    seen: _Seen = {}
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
        sealed = _is_sealed(content, body, claimed)
        if not sealed:
            walk.find(node, sequence, "changed", "the event was changed", number)
        of_node = seen.setdefault(node, {})
        if of_node.get(sequence, ("", 0))[0] == claimed:
            continue
        _look_up_noted(walk, noted, node, sequence, claimed)
        _follow(walk, node, sequence, content["previous_hash"], claimed, seen=of_node, line=number)
        of_node[sequence] = (claimed, number)
        if sealed:
            _hold_head(walk, content, line=number)
    for place, _ in torn:
        walk.find(None, None, "unreadable", "the line is no audit event", place)
    _miss_noted(walk, noted)
    _require_signatures(walk)
    walk.findings.sort(key=lambda finding: finding.line or 0)
    return _Lines(walk, seen)


def _verify_rows(tx: ReadTx, known: tuple[ChainHead, ...], trusted: TrustedKeys) -> Report:
    walk = _Walk(trusted)
    noted = {(one.node, one.sequence): one for one in known}
    for row in events.stored(tx):
        _look_up_noted(walk, noted, row.node, row.sequence, row.hash)
        content = _row_content(walk, row)
        previous = content["previous_hash"] if content is not None else None
        _follow(walk, row.node, row.sequence, previous, row.hash, seen={}, line=None)
        if content is not None and line_hash(row.line) == row.hash:
            _hold_head(walk, content, line=None)
    heads = {head.node: head for head in events.heads(tx)}
    stubs = {stub.node: stub for stub in events.stubs(tx)}
    for node, chain in walk.chains.items():
        _hold_beginning(walk, chain, stubs.get(node))
        _hold_end(walk, chain, heads.get(node))
    for node, head in heads.items():
        if node not in walk.chains:
            walk.find(node, 1, "cut", f"{_missing(1, head.sequence)}: the whole chain")
    for node, stub in stubs.items():
        if node not in walk.chains and node not in heads:
            walk.find(node, stub.sequence + 1, "cut", f"everything that came after sequence {stub.sequence} is missing")
    _hold_cursors(walk, tx)
    _pruned_noted(walk, noted)
    _miss_noted(walk, noted)
    _require_signatures(walk)
    return walk.report()


def _hold_beginning(walk: _Walk, chain: _Chain, stub: Stub | None) -> None:
    """A chain begins with its first event, or follows what its node's key says was pruned."""
    if stub is None:
        if chain.first > 1:
            walk.find(chain.node, 1, "missing", _missing(1, chain.first - 1))
        return
    if walk.trusted and (problem := check_stub(stub, walk.trusted)) is not None:
        walk.find(chain.node, stub.sequence, "bad_stub", f"the record of what was pruned is not good: {problem}")
    elif chain.first > stub.sequence + 1:
        missing = _missing(stub.sequence + 1, chain.first - 1)
        walk.find(chain.node, stub.sequence + 1, "missing", f"{missing}: no more was pruned than up to {stub.sequence}")
    elif chain.first <= stub.sequence:
        detail = f"the event is there, though all up to sequence {stub.sequence} were pruned"
        walk.find(chain.node, chain.first, "inserted", detail)
    elif chain.previous not in {None, stub.hash}:
        walk.find(chain.node, chain.first, "unchained", "the event does not follow what was pruned")
    else:
        chain.pruned = stub


def _hold_end(walk: _Walk, chain: _Chain, head: ChainHead | None) -> None:
    node = chain.node
    if head is None:
        walk.find(node, chain.last, "no_head", "the head of the chain was removed")
    elif head.sequence > chain.last:
        walk.find(node, chain.last + 1, "cut", f"{_missing(chain.last + 1, head.sequence)} at the end of the chain")
    elif (head.sequence, head.hash) != (chain.last, chain.head):
        walk.find(node, chain.last, "other_head", "the head of the chain is not its last event")


def _hold_cursors(walk: _Walk, tx: ReadTx) -> None:
    """No sink can have had events that never were."""
    for node, sink, sequence in events.all_cursors(tx):
        chain = walk.chains.get(node)
        if chain is not None and sequence > chain.last:
            detail = f"the sink {sink} has had events up to sequence {sequence}, and the chain ends before"
            walk.find(node, chain.last + 1, "cut", detail)


def _hold_head(walk: _Walk, content: Mapping[str, Any], *, line: int | None) -> None:
    """Where the event is a signed head: it must be a trusted key's, and the chain must be what it says."""
    if content["event"] != AuditHeadSigned.name:
        return
    node, sequence = content["node"], content["sequence"]
    chain = walk.chains.get(node)
    if chain is None or chain.last != sequence:
        return  # it stands where it cannot be, which was told
    if not walk.trusted:
        chain.heads_unchecked += 1
        return
    head = head_of_event(content)
    problem = "it cannot be read" if head is None else check_head(head, walk.trusted)
    if head is None or problem is not None:
        walk.find(node, sequence, "bad_signature", f"the signed head is not good: {problem}", line)
    else:
        _hold_signed(walk, chain, head, sequence=sequence, line=line)


def _hold_signed(walk: _Walk, chain: _Chain, head: SignedHead, *, sequence: int, line: int | None) -> None:
    found = chain.since_signed.get(head.sequence)
    if found is None:
        return  # it covers what was before the beginning of a file, or is missing, which was told
    if found != head.hash:
        begin = chain.first if chain.signed is None else chain.signed.sequence + 1
        detail = (
            f"the events from sequence {begin} to {head.sequence} are not those that were signed in sequence {sequence}"
        )
        walk.find(chain.node, head.sequence, "not_signed", detail, line)
        return
    chain.signed = head
    for number in [number for number in chain.since_signed if number <= head.sequence]:
        del chain.since_signed[number]


def _require_signatures(walk: _Walk) -> None:
    if not walk.trusted:
        return
    for chain in walk.chains.values():
        if chain.signed is None:
            walk.find(chain.node, chain.last, "unsigned", "no head of this chain up to here is signed by a trusted key")


def _hold_noted(walk: _Walk, known: Iterable[ChainHead], seen: _Seen) -> None:
    for one in known:
        found, line = seen[one.node][one.sequence]
        if found != one.hash:
            walk.find(one.node, one.sequence, "changed", _NOT_NOTED, line)


def _compare(walk: _Walk, tx: ReadTx, seen: _Seen) -> None:
    """Hold what a file has against the database: the same events, but for those pruned."""
    pruned = {stub.node: stub for stub in events.stubs(tx)}
    left = {node: dict(of_node) for node, of_node in seen.items()}
    for row in events.stored(tx):
        there = left.get(row.node, {}).pop(row.sequence, None)
        if there is not None and there[0] != row.hash:
            walk.find(
                row.node, row.sequence, "differs", "the event in the file is not the one in the database", there[1]
            )
    for node, of_node in left.items():
        stub = pruned.get(node)
        for sequence, (own_hash, line) in sorted(of_node.items()):
            if stub is None or sequence > stub.sequence:
                walk.find(node, sequence, "differs", "the event is in the file, but not in the database", line)
            elif sequence == stub.sequence and own_hash != stub.hash:
                walk.find(node, sequence, "differs", "the event in the file is not the one that was pruned last", line)


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
    seen: Mapping[int, object],
    line: int | None,
) -> None:
    """Hold an event against the one before it, and make it the last. `previous` is None where it cannot be read."""
    chain = walk.chains.get(node)
    if chain is None:
        chain = walk.chains[node] = _Chain(node=node, first=sequence, last=sequence, head=own_hash, previous=previous)
        _keep_hash(walk, chain)
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
    _keep_hash(walk, chain)


def _keep_hash(walk: _Walk, chain: _Chain) -> None:
    if walk.trusted:
        chain.since_signed[chain.last] = chain.head


def _look_up_noted(
    walk: _Walk, noted: dict[tuple[str, int], ChainHead], node: str, sequence: int, own_hash: str
) -> None:
    known = noted.pop((node, sequence), None)
    if known is not None and known.hash != own_hash:
        walk.find(node, sequence, "changed", _NOT_NOTED)


_NOT_NOTED = "the event is not the one whose hash was noted"


def _pruned_noted(walk: _Walk, noted: dict[tuple[str, int], ChainHead]) -> None:
    """A noted event that was pruned is not missing. The last one's hash is still known."""
    for (node, sequence), known in list(noted.items()):
        stub = walk.chains[node].pruned if node in walk.chains else None
        if stub is None or sequence > stub.sequence:
            continue
        del noted[node, sequence]
        if sequence == stub.sequence and known.hash != stub.hash:
            walk.find(node, sequence, "changed", _NOT_NOTED)


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

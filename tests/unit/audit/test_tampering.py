"""What somebody does who can write database and files, but has not the node's key, is found and its place is named (RULES I1)."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kipuka.api import RequestRejected
from kipuka.audit.chain import seal
from kipuka.audit.heads import NodeKey, TrustedKeys
from kipuka.audit.prune import prune
from kipuka.audit.signer import HeadSigner
from kipuka.audit.verify import verify_file, verify_file_and_store, verify_lines, verify_store
from kipuka.store import events
from kipuka.store.database import open_store
from kipuka.store.events import ChainHead

from .forger import HEAD_FITS, anew, edit, exchanged, field_of, of_node, without

# 1 to 3: events, pruned    4: event    5: head of 4    6 to 8: events    9: audit_pruned    10: head of 9    11 and 12: events
PRUNED, FIRST_HEAD, LAST_HEAD, LAST = 3, 5, 10, 12


@pytest.fixture
def key():
    return NodeKey(Ed25519PrivateKey.generate())


@pytest.fixture
def trusted(key):
    return TrustedKeys([key.public])


async def fill(store, clock, key, trusted):
    """A log of every kind of place; returns all its lines, also of what was pruned."""
    signer = HeadSigner(store, key, trusted=trusted)

    async def record(*numbers):
        for number in numbers:
            await store.audit(RequestRejected(method="GET", path=f"/{number}", status=404, reason="unknown_resource"))

    await record(1, 2, 3)
    clock.advance(timedelta(days=400))
    await record(4)
    await signer.sign()
    await record(6, 7, 8)
    pruned = await lines_of(store, PRUNED)
    outcome = await prune(store, key, trusted=trusted, before=clock() - timedelta(days=300), sinks=())
    assert outcome.events == PRUNED
    await signer.sign()
    await record(11, 12)
    return pruned + await lines_of(store)


async def lines_of(store, limit=1000):
    return [one.to_json() for one in await store.read(partial(events.after, node="alpha", sequence=0, limit=limit))]


DATABASE = {
    "a field": (edit("UPDATE audit_events SET line = replace(line, '/7', '/9') WHERE sequence = 7"), {("changed", 7)}),
    "a hash": (edit("UPDATE audit_events SET hash = 'x' WHERE sequence = 7"), {("changed", 7), ("unchained", 8)}),
    "a signature": (
        anew(field_of(FIRST_HEAD, signature="A" * 86 + "==")),
        {("bad_signature", FIRST_HEAD), ("not_signed", LAST_HEAD - 1)},
    ),
    "a signature's place": (anew(field_of(LAST_HEAD, covered_sequence=8)), {("bad_signature", LAST_HEAD)}),
    "a signature that is no text": (anew(field_of(LAST_HEAD, signature=7)), {("bad_signature", LAST_HEAD)}),
    "another's signature": (anew(field_of(LAST_HEAD, key="a" * 64)), {("bad_signature", LAST_HEAD)}),
    "the first removed": (edit("DELETE FROM audit_events WHERE sequence = 4"), {("missing", 4)}),
    "one in the middle removed": (edit("DELETE FROM audit_events WHERE sequence = 7"), {("missing", 7)}),
    "the last removed": (edit(f"DELETE FROM audit_events WHERE sequence = {LAST}"), {("cut", LAST)}),
    "two rows exchanged": (
        edit(
            "UPDATE audit_events SET sequence = -1 WHERE sequence = 7",
            "UPDATE audit_events SET sequence = 7 WHERE sequence = 8",
            "UPDATE audit_events SET sequence = 8 WHERE sequence = -1",
        ),
        {("reordered", 7), ("reordered", 8)},
    ),
    "two exchanged, and all anew": (anew(exchanged(7, 8)), {("not_signed", LAST_HEAD - 1)}),
    "a row inserted": (
        edit(
            f"INSERT INTO audit_events SELECT node, {LAST + 1}, time, event, hash, line FROM audit_events WHERE sequence = 7",
            HEAD_FITS,
        ),
        {("reordered", LAST + 1)},
    ),
    "a change, and all anew": (anew(field_of(7, path="/forged")), {("not_signed", LAST_HEAD - 1)}),
    "a change before the first signature, and all anew": (
        anew(field_of(4, path="/forged")),
        {("not_signed", 4), ("not_signed", LAST_HEAD - 1)},
    ),
    "one taken out, and all anew": (anew(without(7)), {("not_signed", LAST_HEAD - 1)}),
    "signatures taken out, and all anew": (anew(without(FIRST_HEAD, LAST_HEAD)), {("unsigned", LAST - 2)}),
    "the tail cut, but for a sink's place": (
        edit(
            f"DELETE FROM audit_events WHERE sequence > {LAST_HEAD}",
            HEAD_FITS,
            f"INSERT INTO audit_cursors (node, sink, sequence) VALUES ('alpha', 'file', {LAST})",
        ),
        {("cut", LAST_HEAD + 1)},
    ),
    "everything removed but the stub": (edit("DELETE FROM audit_events", "DELETE FROM audit_heads"), {("cut", 4)}),
    "the stub removed": (edit("DELETE FROM audit_stubs"), {("missing", 1)}),
    "the stub moved": (
        edit("DELETE FROM audit_events WHERE sequence = 4", "UPDATE audit_stubs SET sequence = 4"),
        {("bad_stub", 4)},
    ),
    "the stub's hash": (edit("UPDATE audit_stubs SET hash = 'x'"), {("bad_stub", PRUNED)}),
    "the stub's signature": (edit("UPDATE audit_stubs SET signature = '?'"), {("bad_stub", PRUNED)}),
    "what was pruned put back": (
        edit("INSERT INTO audit_events SELECT node, 3, time, event, hash, line FROM audit_events WHERE sequence = 7"),
        {("reordered", 3), ("inserted", 3)},
    ),
    "the head row altered": (edit("UPDATE audit_heads SET hash = 'x'"), {("other_head", LAST)}),
    "the head row's number": (edit(f"UPDATE audit_heads SET sequence = {LAST + 3}"), {("cut", LAST + 1)}),
    "the head row removed": (edit("DELETE FROM audit_heads"), {("no_head", LAST)}),
    "the chain given to another node": (
        edit("UPDATE audit_events SET node = 'beta'", "UPDATE audit_heads SET node = 'beta'"),
        {("reordered", 4), ("missing", 1)},
    ),
    "the chain given to another node, and all anew": (
        anew(of_node("beta")),
        {("bad_signature", FIRST_HEAD), ("bad_signature", LAST_HEAD), ("cut", 1)},
    ),
}


@pytest.mark.parametrize("way", DATABASE)
async def test_what_was_done_to_the_database_is_found_and_named(store, clock, key, trusted, sql, *, way):
    await fill(store, clock, key, trusted)
    untouched = await verify_store(store, trusted=trusted)
    assert untouched.intact, untouched.findings
    [chain] = untouched.chains
    assert (chain.first, chain.last, chain.signed.sequence, chain.uncovered) == (4, LAST, LAST_HEAD - 1, 3)
    assert (chain.pruned.sequence, chain.pruned.count) == (PRUNED, PRUNED)
    tamper, places = DATABASE[way]
    tamper(sql)
    report = await verify_store(store, trusted=trusted)
    assert places <= {(finding.problem, finding.sequence) for finding in report.findings}
    for finding in report.findings:
        assert f"node {finding.node}, sequence {finding.sequence}: " in str(finding)


OF_ANY_TYPE = {
    "octets for a line": ("audit_events SET line = x'ff' WHERE sequence = 7", ("changed", 7)),
    "no UTF-8 in a line": ("audit_events SET line = CAST(x'ff' AS TEXT) WHERE sequence = 7", ("changed", 7)),
    "octets for a hash": ("audit_events SET hash = x'ff' WHERE sequence = 7", ("changed", 7)),
    "octets for a time": ("audit_events SET time = x'ff' WHERE sequence = 7", ("changed", 7)),
    "a number for a name": ("audit_events SET event = 7.5 WHERE sequence = 7", ("changed", 7)),
    "a text for a number": ("audit_events SET sequence = 'seven' WHERE sequence = 7", ("missing", 7)),
    "a fraction for a number": ("audit_events SET sequence = 7.5 WHERE sequence = 7", ("missing", 7)),
    "octets for a node": ("audit_events SET node = x'ff' WHERE sequence = 7", ("missing", 7)),
    "the node in octets": ("audit_events SET node = CAST(node AS BLOB) WHERE sequence = 7", ("missing", 7)),
    "a text for the head's number": ("audit_heads SET sequence = 'x'", ("other_head", LAST)),
    "octets for the head": ("audit_heads SET hash = x'ff'", ("other_head", LAST)),
    "a text for the stub's number": ("audit_stubs SET sequence = 'x'", ("bad_stub", -1)),
    "octets for the stub's signature": ("audit_stubs SET signature = x'ff'", ("bad_stub", PRUNED)),
}


@pytest.mark.parametrize("way", OF_ANY_TYPE)
async def test_a_value_of_another_type_is_found_and_named(store, clock, key, trusted, *, sql, database, way):
    """SQLite keeps a value of any type in any column, which PostgreSQL does not."""
    await fill(store, clock, key, trusted)
    await store.write(partial(events.advance, node="alpha", sink="file", sequence=LAST))
    statement, place = OF_ANY_TYPE[way]
    sql(f"UPDATE {statement}", "UPDATE audit_cursors SET sequence = 'x'")
    report = await verify_store(store, trusted=trusted)
    assert place in {(finding.problem, finding.sequence) for finding in report.findings}
    assert all(isinstance(finding.node, str) for finding in report.findings)


def forged_line(line, **data):
    content = json.loads(line)
    content["data"] |= data
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


FILE = {
    "a field": (lambda lines: [*lines[:6], lines[6].replace("/7", "/9"), *lines[7:]], ("changed", 7, 7)),
    "a hash": (lambda lines: [*lines[:6], lines[6][:-4] + 'xx"}', *lines[7:]], ("unchained", 8, 8)),
    "the first removed": (lambda lines: lines[1:], None),
    "one in the middle removed": (lambda lines: [*lines[:6], *lines[7:]], ("missing", 7, 7)),
    "two exchanged": (lambda lines: [*lines[:6], lines[7], lines[6], *lines[8:]], ("missing", 7, 7)),
    "another one inserted": (
        lambda lines: [*lines[:6], lines[2].replace('"sequence":3', '"sequence":7'), *lines[6:]],
        ("changed", 7, 7),
    ),
    "cut within a line": (lambda lines: [*lines[:-1], lines[-1][:60]], ("unreadable", None, 12)),
    "a line that is no event": (lambda lines: [*lines[:6], "?", *lines[6:]], ("unreadable", None, 7)),
    "a signature": (
        lambda lines: [*lines[:9], lines[9].replace('"signature":"', '"signature":"A'), *lines[10:]],
        ("changed", 10, 10),
    ),
    "every signature taken out with what follows": (lambda lines: lines[:4], ("unsigned", 4, None)),
}


@pytest.mark.parametrize("way", FILE)
async def test_what_was_done_to_a_file_is_found_and_its_line_named(store, clock, key, trusted, *, way):
    lines = await fill(store, clock, key, trusted)
    assert verify_lines(lines, trusted=trusted).intact
    tamper, place = FILE[way]
    report = verify_lines(tamper(lines), trusted=trusted)
    if place is None:  # a file may begin in the middle of a chain; held against the database it does too
        assert report.intact
        return
    assert place in {(finding.problem, finding.sequence, finding.line) for finding in report.findings}


async def test_a_line_that_is_there_twice_is_no_harm(store, clock, key, trusted):
    """A sink is given its events at least once."""
    lines = await fill(store, clock, key, trusted)
    assert verify_lines([*lines, lines[-1]], trusted=trusted).intact
    assert verify_lines([*lines[:7], lines[6], *lines[7:]], trusted=trusted).intact


AGAINST = {
    "the tail cut, and all fits": (
        edit(f"DELETE FROM audit_events WHERE sequence > {LAST_HEAD}", HEAD_FITS),
        ("differs", LAST_HEAD + 1, LAST_HEAD + 1),
    ),
    "the tail written anew": (anew(field_of(LAST, path="/forged")), ("differs", LAST, LAST)),
    "more pruned": (edit("DELETE FROM audit_events WHERE sequence = 4"), ("differs", 4, 4)),
}


@pytest.mark.parametrize("way", AGAINST)
async def test_a_file_shows_what_the_database_alone_does_not(store, clock, key, trusted, *, sql, tmp_path, way):
    """What comes after the last signed head: DESIGN guarantee 7."""
    file = tmp_path / "copy.jsonl"
    file.write_text("".join(f"{line}\n" for line in await fill(store, clock, key, trusted)))
    assert (await verify_file_and_store(store, file, trusted=trusted)).intact, "the file goes back before the stub"
    tamper, place = AGAINST[way]
    tamper(sql)
    if way != "more pruned":
        assert (await verify_store(store, trusted=trusted)).intact
    assert verify_file(file, trusted=trusted).intact
    report = await verify_file_and_store(store, file, trusted=trusted)
    assert place in {(finding.problem, finding.sequence, finding.line) for finding in report.findings}


async def test_a_forged_beginning_of_a_file_does_not_fit_the_stub(store, clock, key, trusted, tmp_path):
    lines = await fill(store, clock, key, trusted)
    file = tmp_path / "old.jsonl"
    content = json.loads(lines[2])
    forged = seal_again(content)
    file.write_text(f"{forged}\n")
    report = await verify_file_and_store(store, file, trusted=TrustedKeys())
    assert ("differs", PRUNED, 1) in {(one.problem, one.sequence, one.line) for one in report.findings}


def seal_again(content):
    """The event with another path, and the hash that it then has."""
    from kipuka.audit.chain import canonical, line_hash

    content = {**content, "data": {**content["data"], "path": "/forged"}}
    del content["hash"]
    line = canonical(content)
    return f'{line[:-1]},"hash":"{line_hash(line)}"}}'


@pytest.mark.parametrize(
    ("sequence", "own_hash", "found"), [(LAST, None, True), (PRUNED, None, False), (1, "x", False)]
)
async def test_a_kept_head_holds_over_pruning(store, clock, key, trusted, sql, *, sequence, own_hash, found):
    lines = await fill(store, clock, key, trusted)
    kept = ChainHead(node="alpha", sequence=sequence, hash=own_hash or json.loads(lines[sequence - 1])["hash"])
    assert (await verify_store(store, known=[kept], trusted=trusted)).intact
    sql(f"DELETE FROM audit_events WHERE sequence > {LAST_HEAD}", HEAD_FITS)
    report = await verify_store(store, known=[kept], trusted=trusted)
    assert {(one.problem, one.sequence) for one in report.findings} == ({("cut", LAST)} if found else set())


async def test_a_kept_head_at_the_place_of_the_stub_must_be_its(store, clock, key, trusted):
    await fill(store, clock, key, trusted)
    kept = ChainHead(node="alpha", sequence=PRUNED, hash="x")
    report = await verify_store(store, known=[kept], trusted=trusted)
    assert [(one.problem, one.sequence) for one in report.findings] == [("changed", PRUNED)]


async def test_each_nodes_chain_is_verified_by_itself(store, url, clock, key, trusted, *, sql):
    await fill(store, clock, key, trusted)
    other = NodeKey(Ed25519PrivateKey.generate())
    async with open_store(url, node="beta", clock=clock, seal=seal) as second:
        await second.audit(RequestRejected(method="GET", path="/1", status=404, reason="unknown_resource"))
        await HeadSigner(second, other, trusted=TrustedKeys([other.public])).sign()
    both = TrustedKeys([key.public, other.public])
    report = await verify_store(store, trusted=both)
    assert report.intact
    assert [(chain.node, chain.signed.sequence) for chain in report.chains] == [("alpha", LAST_HEAD - 1), ("beta", 1)]
    found = (await verify_store(store, trusted=trusted)).findings
    assert {(one.node, one.problem) for one in found} == {("beta", "bad_signature"), ("beta", "unsigned")}
    sql("UPDATE audit_events SET line = replace(line, '/1', '/9') WHERE node = 'beta' AND sequence = 1")
    found = (await verify_store(store, trusted=both)).findings
    assert [(one.node, one.problem, one.sequence) for one in found] == [("beta", "changed", 1)]

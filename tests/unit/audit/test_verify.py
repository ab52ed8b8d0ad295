"""Tampering is found and its place is named (DESIGN guarantee 7, RULES I1)."""

from __future__ import annotations

import json
from functools import partial

import pytest

from kipuka.api import RequestRejected, ServerStopped
from kipuka.audit.chain import canonical, line_hash, seal
from kipuka.audit.verify import verify_file, verify_lines, verify_store
from kipuka.store import events
from kipuka.store.database import open_store
from kipuka.store.events import ChainHead

from .forger import edit, rewrite

LENGTH = 6


@pytest.fixture
async def filled(store):
    for number in range(LENGTH):
        await store.audit(RequestRejected(method="GET", path=f"/{number}", status=404, reason="unknown_resource"))
    return store


async def exported(store):
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=10_000))
    return [record.to_json() for record in records]


COPY = "INSERT INTO audit_events SELECT '{node}', {to}, time, event, hash, line FROM audit_events WHERE sequence = {of} AND node = 'alpha'"
SWAP = (
    "UPDATE audit_events SET sequence = -1 WHERE sequence = 3",
    "UPDATE audit_events SET sequence = 3 WHERE sequence = 4",
    "UPDATE audit_events SET sequence = 4 WHERE sequence = -1",
)


@pytest.mark.parametrize(
    ("tamper", "places"),
    [
        pytest.param(rewrite(3, rehash=False), {("changed", 3)}, id="text changed"),
        pytest.param(rewrite(3, rehash=True), {("unchained", 4)}, id="text and hash changed"),
        pytest.param(
            rewrite(3, rehash=True, following=True),
            {("other_head", 6)},
            id="text changed and all after it chained anew",
        ),
        pytest.param(rewrite(LENGTH, rehash=True), {("other_head", 6)}, id="last one changed with its hash"),
        pytest.param(
            edit("UPDATE audit_events SET event = 'server_stopped' WHERE sequence = 2"),
            {("changed", 2)},
            id="column event",
        ),
        pytest.param(
            edit("UPDATE audit_events SET time = '2020' WHERE sequence = 2"), {("changed", 2)}, id="column time"
        ),
        pytest.param(
            edit("UPDATE audit_events SET hash = 'x' WHERE sequence = 2"),
            {("changed", 2), ("unchained", 3)},
            id="column hash",
        ),
        pytest.param(
            edit("UPDATE audit_events SET line = line || ' ' WHERE sequence = 2"), {("changed", 2)}, id="a space added"
        ),
        pytest.param(
            edit("UPDATE audit_events SET line = '{' WHERE sequence = 2"), {("changed", 2)}, id="text that is no JSON"
        ),
        pytest.param(
            edit("UPDATE audit_events SET line = '[]' WHERE sequence = 2"), {("changed", 2)}, id="text that is no event"
        ),
        pytest.param(edit("DELETE FROM audit_events WHERE sequence = 1"), {("missing", 1)}, id="first removed"),
        pytest.param(edit("DELETE FROM audit_events WHERE sequence = 3"), {("missing", 3)}, id="one removed"),
        pytest.param(edit("DELETE FROM audit_events WHERE sequence IN (3, 4)"), {("missing", 3)}, id="two removed"),
        pytest.param(edit("DELETE FROM audit_events WHERE sequence = 6"), {("cut", 6)}, id="last removed"),
        pytest.param(edit("DELETE FROM audit_events"), {("cut", 1)}, id="all removed"),
        pytest.param(
            edit(
                "DELETE FROM audit_events WHERE sequence = 3",
                "UPDATE audit_events SET sequence = sequence - 1 WHERE sequence > 3",
            ),
            {("reordered", 3), ("unchained", 3), ("reordered", 4), ("reordered", 5), ("cut", 6)},
            id="one removed and those after it renumbered",
        ),
        pytest.param(edit(*SWAP), {("reordered", 3), ("reordered", 4)}, id="two exchanged"),
        pytest.param(edit(COPY.format(node="alpha", to=7, of=2)), {("reordered", 7)}, id="one repeated at the end"),
        pytest.param(edit(COPY.format(node="alpha", to=0, of=2)), {("inserted", 0)}, id="one put before the first"),
        pytest.param(edit(COPY.format(node="beta", to=1, of=2)), {("reordered", 1)}, id="one given to another node"),
        pytest.param(edit("DELETE FROM audit_heads"), {("no_head", 6)}, id="head removed"),
        pytest.param(
            edit("DELETE FROM audit_events WHERE sequence = 6", "UPDATE audit_heads SET sequence = 5"),
            {("other_head", 5)},
            id="last removed and the head's number changed",
        ),
        pytest.param(
            edit("UPDATE audit_events SET node = 'beta'"), {("reordered", 1), ("no_head", 6), ("cut", 1)}, id="node"
        ),
    ],
)
async def test_what_was_done_to_the_database_is_found_and_named(filled, sql, tamper, places):
    """DESIGN guarantee 7: `kipuka audit verify` finds a changed, removed, reordered or inserted event."""
    assert (await verify_store(filled)).intact
    tamper(sql)
    report = await verify_store(filled)
    assert not report.intact
    found = {(finding.problem, finding.sequence) for finding in report.findings}
    assert places <= found
    for finding in report.findings:
        assert finding.node in {"alpha", "beta"}
        assert f"node {finding.node}, sequence {finding.sequence}" in str(finding)


async def test_an_intact_log_is_summed_up(filled, url, clock):
    async with open_store(url, node="beta", clock=clock, seal=seal) as other:
        await other.audit(ServerStopped(pid=1))
    report = await verify_store(filled)
    assert report.intact
    assert [(chain.node, chain.first, chain.last, chain.events) for chain in report.chains] == [
        ("alpha", 1, 6, 6),
        ("beta", 1, 1, 1),
    ]


async def test_an_empty_log_is_intact(store):
    assert (await verify_store(store)).intact
    assert verify_lines([]).intact


async def test_a_log_longer_than_a_part_is_read_whole(store, monkeypatch):
    monkeypatch.setattr("kipuka.audit.verify.events.stored", partial(events.stored, chunk=2))
    for number in range(5):
        await store.audit(ServerStopped(pid=number))
    report = await verify_store(store)
    assert report.intact
    assert report.chains[0].events == 5


async def test_a_whole_chain_written_anew_shows_against_a_noted_head(filled, sql):
    """RULES I1: `audit verify --head`."""
    [chain] = (await verify_store(filled)).chains
    noted = ChainHead(node=chain.node, sequence=chain.last, hash=chain.head)
    await filled.audit(ServerStopped(pid=1))
    assert (await verify_store(filled, known=[noted])).intact
    rewrite(2, rehash=True, following=True)(sql)
    sql("UPDATE audit_heads SET hash = (SELECT hash FROM audit_events WHERE sequence = 7)")
    assert (await verify_store(filled)).intact, "nothing in the database itself tells"
    report = await verify_store(filled, known=[noted])
    assert [(finding.problem, finding.sequence) for finding in report.findings] == [("changed", 6)]


async def test_a_cut_tail_shows_against_a_noted_head(filled, sql):
    [chain] = (await verify_store(filled)).chains
    noted = ChainHead(node=chain.node, sequence=chain.last, hash=chain.head)
    sql(
        "DELETE FROM audit_events WHERE sequence > 4",
        "UPDATE audit_heads SET sequence = 4, hash = (SELECT hash FROM audit_events WHERE sequence = 4)",
    )
    assert (await verify_store(filled)).intact
    report = await verify_store(filled, known=[noted])
    assert [(finding.problem, finding.sequence) for finding in report.findings] == [("cut", 6)]


def forged(line, *, rehash=False):
    content = json.loads(line)
    claimed = content.pop("hash")
    content["data"]["path"] = "/forged"
    body = canonical(content)
    return f'{body[:-1]},"hash":"{line_hash(body) if rehash else claimed}"}}'


def without(lines, *places):
    return [line for place, line in enumerate(lines) if place not in places]


@pytest.mark.parametrize(
    ("tamper", "places"),
    [
        pytest.param(lambda x: [*x[:2], forged(x[2]), *x[3:]], {("changed", 3, 3)}, id="changed"),
        pytest.param(
            lambda x: [*x[:2], forged(x[2], rehash=True), *x[3:]], {("unchained", 4, 4)}, id="changed with its hash"
        ),
        pytest.param(lambda x: without(x, 2), {("missing", 3, 3)}, id="removed"),
        pytest.param(lambda x: without(x, 2, 3), {("missing", 3, 3)}, id="two removed"),
        pytest.param(
            lambda x: [*x[:2], x[3], x[2], *x[4:]], {("missing", 3, 3), ("reordered", 3, 4)}, id="two exchanged"
        ),
        pytest.param(
            lambda x: [*x[:3], forged(x[2], rehash=True), *x[3:]], {("inserted", 3, 4)}, id="another of the same number"
        ),
        pytest.param(lambda x: [*x[:3], "a note", *x[3:]], {("unreadable", None, 4)}, id="a line that is no event"),
        pytest.param(lambda x: [*x[:3], "", *x[3:]], set(), id="an empty line"),
        pytest.param(
            lambda x: [*x[:5], x[5][:40]], {("unreadable", None, 6)}, id="a torn line that does not come again"
        ),
        pytest.param(
            lambda x: [*x[:2], x[2].replace('"node"', '"x":1,"node"'), *x[3:]], {("changed", 3, 3)}, id="a member added"
        ),
        pytest.param(lambda x: [*x[:2], x[2].replace('"hash":"', '"hash":"0'), *x[3:]], {("changed", 3, 3)}, id="hash"),
        pytest.param(lambda x: [*x[:2], x[2].replace(",", ", ", 1), *x[3:]], {("changed", 3, 3)}, id="a space added"),
        pytest.param(
            lambda x: [*x[:2], x[2].replace('{"client', '{"event":"a","client'), *x[3:]],
            {("unreadable", None, 3)},
            id="a member twice",
        ),
    ],
)
async def test_what_was_done_to_an_exported_file_is_found_and_named(filled, tmp_path, tamper, places):
    """DESIGN guarantee 7, in a sink's file: node, sequence and line."""
    lines = await exported(filled)
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(f"{line}\n" for line in tamper(lines)), encoding="utf-8")
    report = verify_file(path)
    found = {(finding.problem, finding.sequence, finding.line) for finding in report.findings}
    assert places <= found
    assert report.intact == (not places)
    for finding in report.findings:
        assert finding.node == ("alpha" if finding.sequence is not None else None)


@pytest.mark.parametrize(
    "arrange",
    [
        pytest.param(lambda x: x, id="as it was written"),
        pytest.param(lambda x: x[2:], id="after a rotation"),
        pytest.param(lambda x: [*x[:4], *x[2:]], id="a stretch again"),
        pytest.param(lambda x: [*x[:3], x[3][:40], *x[2:]], id="a torn line, then its batch again"),
        pytest.param(lambda x: [*x[:3], x[3][:-1], *x[3:]], id="a line torn at its last character"),
    ],
)
async def test_what_a_sink_does_by_itself_is_no_finding(filled, arrange):
    """A sink gets events at least once; a crash may tear a line."""
    assert verify_lines(arrange(await exported(filled))).findings == ()


async def test_a_file_of_several_nodes_is_checked_chain_by_chain(filled, url, clock):
    async with open_store(url, node="beta", clock=clock, seal=seal) as other:
        for number in range(3):
            await other.audit(ServerStopped(pid=number))
        theirs = await other.read(partial(events.after, node="beta", sequence=0, limit=9))
    mine = await exported(filled)
    lines = [line for pair in zip(mine, [record.to_json() for record in theirs], strict=False) for line in pair]
    assert verify_lines(lines).intact
    del lines[3]
    [finding] = verify_lines(lines).findings
    assert (finding.node, finding.problem, finding.sequence) == ("beta", "missing", 2)


async def test_a_file_is_held_against_a_noted_head(filled):
    lines = await exported(filled)
    [chain] = verify_lines(lines).chains
    noted = [ChainHead(node=chain.node, sequence=chain.last, hash=chain.head)]
    assert verify_lines(lines, known=noted).intact
    [finding] = verify_lines(lines[:-1], known=noted).findings
    assert (finding.problem, finding.sequence) == ("cut", 6)


@pytest.mark.parametrize("line", ["[" * 100_000, "\udcff", "{}", "null", '{"node":1}', '{"hash":5}', "\x00" * 100])
def test_rubbish_is_found_and_does_not_break_the_reader(line):
    assert [finding.problem for finding in verify_lines([line]).findings] == ["unreadable"]

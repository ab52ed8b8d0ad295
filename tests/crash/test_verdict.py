"""The verdict itself: it finds nothing in a good run, and each of the ways in which that run can be spoilt.

The run is a real one: clients, a server and one kill. It is spoilt in copies, by someone who may write the database and the journals.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kipuka.testing.server import wait_until

from . import sites, verdict
from .crowd import Crowd

pytestmark = [pytest.mark.server, pytest.mark.crash]


class Run:
    """The files of a run that is over: a database, and journals."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "kipuka.db"
        self.journals = sorted(directory.glob("*.jsonl"))

    def copy(self, directory: Path) -> Run:
        shutil.rmtree(directory, ignore_errors=True)
        return Run(Path(shutil.copytree(self.directory, directory)))

    def findings(self, **more):
        return verdict.judge(self.journals, f"sqlite:///{self.database}", **more)

    def rows(self, statement, *arguments):
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(statement, arguments).fetchall()

    def execute(self, *statements):
        """Change the database, without what it would refuse."""
        with closing(sqlite3.connect(self.database)) as database, database:
            for statement, *arguments in statements:
                assert database.execute(statement, arguments).rowcount

    def unbind(self, table):
        """Take every constraint off a table."""
        with closing(sqlite3.connect(self.database)) as database, database:
            database.execute("PRAGMA legacy_alter_table=ON")
            database.execute(f"ALTER TABLE {table} RENAME TO bound")
            database.execute(f"CREATE TABLE {table} AS SELECT * FROM bound")

    def records(self, kind):
        """File, number of the line from 0, and content of every such record of a journal."""
        return [
            (file, number, record)
            for file in self.journals
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines())
            if (record := json.loads(line))["record"] == kind
        ]

    def rewrite(self, file, number, record):
        """Change a line of a journal; None removes it."""
        lines = file.read_text(encoding="utf-8").splitlines()
        lines[number : number + 1] = [] if record is None else [json.dumps(record)]
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def reseal(self):
        """Chain the audit log anew, as somebody would who can write it: what is spoilt is then not the chain."""
        with closing(sqlite3.connect(self.database)) as database, database:
            previous, last = verdict.GENESIS, 0
            events = database.execute("SELECT rowid, node, line FROM audit_events ORDER BY sequence").fetchall()
            database.execute("DELETE FROM audit_heads")
            for rowid, _, line in events:
                last += 1
                content = json.loads(line) | {"sequence": last, "previous_hash": previous}
                text = verdict.canonical(content)
                previous = hashlib.sha256(text.encode()).hexdigest()
                statement = "UPDATE audit_events SET sequence = ?, line = ?, hash = ? WHERE rowid = ?"
                database.execute(statement, (-last, text, previous, rowid))
            database.execute("UPDATE audit_events SET sequence = -sequence")
            database.execute("INSERT INTO audit_heads VALUES (?, ?, ?)", (events[0][1], last, previous))


@pytest.fixture(scope="module")
def good(grounds, tmp_path_factory):
    """A run of a server that was killed once."""
    directory = tmp_path_factory.mktemp("run")
    rng = Random(7030)
    with grounds(directory) as ground:
        site = sites.sqlite(ground, {})
        with Crowd(site, directory / "good") as crowd:
            crowd.make_tokens(rng, 10)
            crowd.begin()
            wait_until(partial(crowd.has_received, 30), timeout=60, what="certificates")
            crowd.kill("the server", partial(site.kills["the server"], rng))
            wait_until(partial(crowd.has_received, crowd.received + 10), timeout=60, what="certificates again")
            crowd.end()
            site.wait_until_well()
        (server,) = site.servers
        server.stop()
    shutil.copy(server.deployment.database, directory / "good" / "kipuka.db")
    return Run(directory / "good")


def test_a_good_run_has_no_findings(good):
    assert good.findings() == []
    assert len(good.rows("SELECT 1 FROM certificates")) > 40
    assert any(record["status"] is None for _, _, record in good.records("result"))


# --- ways to spoil it: each gives the rule that finds it, and a word of the place ---


def of_clients(run, choose):
    """A successful result and the row of its certificate; the enrolment was by token, and its request was sent once: no other explains it."""
    requests = {intent["attempt"]: intent["csr"] for _, _, intent in run.records("intent")}
    times = Counter(requests.values())
    results = [
        (file, number, record)
        for file, number, record in run.records("result")
        if record["status"] == 200 and file.name.startswith("otp-") and times[requests[record["attempt"]]] == 1
    ]
    file, number, record = choose(results)
    fingerprint = verdict.fingerprint_of(base64.b64decode(record["certificate"]))
    ((enrolment, token),) = run.rows("SELECT id, claim_ref FROM enrolments WHERE certificate = ?", fingerprint)
    return file, number, record, fingerprint, enrolment, token


def certificate_is_removed(run, choose):
    file, _, _, fingerprint, enrolment, token = of_clients(run, choose)
    run.unbind("enrolments")
    run.execute(
        ("DELETE FROM enrolments WHERE id = ?", enrolment),
        ("DELETE FROM certificates WHERE fingerprint = ?", fingerprint),
        ("UPDATE otp_tokens SET used = used - 1 WHERE id = ?", token),
    )
    return "not_recorded", file.name


def certificate_is_recorded_twice(run, choose):
    *_, fingerprint, _, _ = of_clients(run, choose)
    run.unbind("certificates")
    run.execute(("INSERT INTO certificates SELECT * FROM certificates WHERE fingerprint = ?", fingerprint))
    with closing(sqlite3.connect(run.database)) as database, database:
        other = database.execute("SELECT max(rowid) FROM certificates").fetchone()[0]
        database.execute("UPDATE certificates SET fingerprint = ? WHERE rowid = ?", (f"{0:064}", other))
    return "serial_twice", "0" * 64


def serial_is_given_again(run, choose):
    """The row is another certificate's by its number."""
    *_, fingerprint, _, _ = of_clients(run, choose)
    run.unbind("certificates")
    run.execute(("UPDATE certificates SET serial = '7' WHERE fingerprint = ?", fingerprint))
    return "serial", fingerprint


def token_is_used_once_more(run, choose):
    """A second certificate for a spent token, with everything that belongs to it."""
    spent = run.rows(
        "SELECT e.id, e.claim_ref FROM enrolments e JOIN otp_tokens t ON e.claim_ref = t.id "
        "WHERE t.used = t.max_uses AND e.certificate IS NOT NULL"
    )
    _, token = choose(spent)
    *_, enrolment, other = of_clients(run, choose)
    if other == token:
        run.execute(("UPDATE otp_tokens SET max_uses = max_uses - 1, used = used - 1 WHERE id = ?", token))
    else:
        run.execute(("UPDATE enrolments SET claim_ref = ? WHERE id = ?", token, enrolment))
    return "token_uses", token


def use_is_given_back_though_issued(run, choose):
    *_, token = of_clients(run, choose)
    run.execute(("UPDATE otp_tokens SET used = used - 1 WHERE id = ?", token))
    return "token_uses", token


def use_is_spent_without_certificate(run, choose):
    (token,) = choose(run.rows("SELECT id FROM otp_tokens WHERE used < max_uses"))
    run.execute(("UPDATE otp_tokens SET used = used + 1 WHERE id = ?", token))
    return "token_uses", token


def use_stays_held(run, choose):
    (token,) = choose(run.rows("SELECT id FROM otp_tokens WHERE used < max_uses"))
    run.execute(("UPDATE otp_tokens SET held = held + 1 WHERE id = ?", token))
    return "token_held", token


def reservation_is_left_behind(run, choose):
    *_, enrolment, token = of_clients(run, choose)
    run.unbind("enrolments")
    run.execute(
        ("UPDATE enrolments SET state = 'reserved', certificate = NULL WHERE id = ?", enrolment),
        ("UPDATE otp_tokens SET used = used - 1, held = held + 1 WHERE id = ?", token),
    )
    return "left_behind", enrolment


def client_did_not_get_it(run, choose):
    """The answer was lost without any kill that could have lost it."""
    file, number, record, _, enrolment, _ = of_clients(run, choose)
    for kill_file, kill_number, kill in run.records("kill"):
        run.rewrite(kill_file, kill_number, kill | {"began": 0, "ended": 0})
    run.rewrite(file, number, record | {"status": None, "certificate": None})
    return "lost", enrolment


def client_was_refused_what_was_issued(run, choose, *, of_database=False):
    """The answer was a 503, in flight at the kill of something else than a database across a network."""
    file, number, record, _, enrolment, _ = of_clients(run, choose)
    for kill_file, kill_number, kill in run.records("kill"):
        times = {"began": 0, "ended": max(kill["ended"], record["at"])}
        run.rewrite(kill_file, kill_number, kill | times | {"of_database": of_database})
    run.rewrite(file, number, record | {"status": 503, "certificate": None})
    return "lost", enrolment


def certificate_of_another_client(run, choose):
    file, number, record, *_ = of_clients(run, choose)
    others = [one for one in run.records("result") if one[2]["status"] == 200 and one[2] != record]
    run.rewrite(file, number, record | {"certificate": choose(others)[2]["certificate"]})
    return "another_request", file.name


def nobody_asked(run, choose):
    """Every attempt at the request is taken out of the journals."""
    _, _, record, _, enrolment, _ = of_clients(run, choose)
    (asked,) = [one["csr"] for _, _, one in run.records("intent") if one["attempt"] == record["attempt"]]
    attempts = {one["attempt"] for _, _, one in run.records("intent") if one["csr"] == asked}
    for kind in ("intent", "result"):
        for file, number, one in reversed(run.records(kind)):
            if one["attempt"] in attempts:
                run.rewrite(file, number, None)
    return "not_asked_for", enrolment


def event_is_removed(run, choose):
    """The chain is made whole again, so that only the certificate misses it."""
    *_, fingerprint, _, _ = of_clients(run, choose)
    run.execute(
        ("DELETE FROM audit_events WHERE event = 'certificate_issued' AND line LIKE ?", f"%{fingerprint}%"),
    )
    run.reseal()
    return "issued_event", fingerprint


def event_is_doubled(run, choose):
    *_, fingerprint, _, _ = of_clients(run, choose)
    run.unbind("audit_events")
    run.execute(
        (
            (
                "INSERT INTO audit_events SELECT node, 1000000, time, event, hash, line FROM audit_events "
                "WHERE event = 'certificate_issued' AND line LIKE ?"
            ),
            f"%{fingerprint}%",
        )
    )
    run.reseal()
    return "issued_event", fingerprint


def event_of_no_certificate(run, choose):
    (line,) = choose(run.rows("SELECT line FROM audit_events WHERE event = 'certificate_issued'"))
    data = json.loads(line)["data"]
    changed = line.replace(data["fingerprint"], f"{1:064}")
    run.execute(("UPDATE audit_events SET line = ? WHERE line = ?", changed, line))
    run.reseal()
    return "not_recorded", "audit event"


def event_is_changed(run, choose):
    sequence, line = choose(run.rows("SELECT sequence, line FROM audit_events"))
    changed = line.replace('"outcome":"success"', '"outcome":"failure"') if '"success"' in line else f"{line[:-1]} }}"
    run.execute(("UPDATE audit_events SET line = ? WHERE sequence = ?", changed, sequence))
    return "audit_hash", f"/{sequence}"


def event_in_the_middle_is_missing(run, choose):
    ((last,),) = run.rows("SELECT max(sequence) FROM audit_events")
    (sequence,) = choose(run.rows("SELECT sequence FROM audit_events WHERE sequence < ?", last))
    run.execute(("DELETE FROM audit_events WHERE sequence = ?", sequence))
    return "audit_gap", f"/{sequence + 1}"


def events_at_the_end_are_missing(run, choose):
    ((last,),) = run.rows("SELECT max(sequence) FROM audit_events")
    (sequence,) = choose(run.rows("SELECT sequence FROM audit_events WHERE sequence > ?", last - 20))
    run.execute(("DELETE FROM audit_events WHERE sequence >= ?", sequence))
    return "audit_head", "audit head"


def line_is_written_otherwise(run, choose):
    """The same content and a hash that fits, but not the one form in which it is hashed."""
    sequence, line = choose(run.rows("SELECT sequence, line FROM audit_events"))
    text = json.dumps(json.loads(line))
    own = hashlib.sha256(text.encode()).hexdigest()
    run.execute(("UPDATE audit_events SET line = ?, hash = ? WHERE sequence = ?", text, own, sequence))
    return "audit_form", f"/{sequence}"


def journal_is_torn(run, choose):
    file = choose(run.journals)
    with file.open("a", encoding="utf-8") as journal:
        journal.write('{"record": "resu')
    return "journal", file.name


WAYS = [
    certificate_is_removed,
    certificate_is_recorded_twice,
    serial_is_given_again,
    token_is_used_once_more,
    use_is_given_back_though_issued,
    use_is_spent_without_certificate,
    use_stays_held,
    reservation_is_left_behind,
    client_did_not_get_it,
    client_was_refused_what_was_issued,
    certificate_of_another_client,
    nobody_asked,
    event_is_removed,
    event_is_doubled,
    event_of_no_certificate,
    event_is_changed,
    event_in_the_middle_is_missing,
    events_at_the_end_are_missing,
    line_is_written_otherwise,
    journal_is_torn,
]


@pytest.mark.parametrize("spoil", WAYS, ids=lambda way: way.__name__.replace("_", " "))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_was_spoilt_is_found_and_the_place_is_named(good, tmp_path, spoil, data):
    """Whichever certificate, token, event or client it befalls."""
    run = good.copy(tmp_path / "spoilt")
    rule, place = spoil(run, lambda among: data.draw(st.sampled_from(sorted(among, key=str))))
    findings = run.findings()
    assert any(finding.rule == rule and place in finding.place for finding in findings), findings


def test_a_use_may_be_held_while_the_server_is_at_work(good, tmp_path):
    run = good.copy(tmp_path / "running")
    use_stays_held(run, lambda among: among[0])
    ((token,),) = run.rows("SELECT id FROM otp_tokens WHERE held = 1")
    *_, enrolment, spent = of_clients(run, lambda among: among[0])
    run.unbind("enrolments")
    with closing(sqlite3.connect(run.database)) as database, database:
        database.execute("INSERT INTO enrolments SELECT * FROM enrolments WHERE id = ?", (enrolment,))
        rowid = database.execute("SELECT max(rowid) FROM enrolments").fetchone()[0]
        values = {"id": "under way", "state": "reserved", "certificate": None, "claim_ref": token, "csr": b"new"}
        changes = ", ".join(f"{column} = ?" for column in values)
        database.execute(f"UPDATE enrolments SET {changes} WHERE rowid = ?", (*values.values(), rowid))
    assert spent != token
    assert run.findings(settled=False) == []
    assert [finding.rule for finding in run.findings()] == ["left_behind"]


def test_what_a_killed_database_had_committed_may_have_been_answered_503(good, tmp_path):
    run = good.copy(tmp_path / "database")
    rule, place = client_was_refused_what_was_issued(run, lambda among: among[0], of_database=True)
    assert run.findings() == []
    for file, number, kill in run.records("kill"):
        run.rewrite(file, number, kill | {"began": 0, "ended": 0})
    # With no kill to explain it, what the kill itself left without an answer is lost as well.
    lost = {finding.place: finding.rule for finding in run.findings()}
    assert [found for where, found in lost.items() if place in where] == [rule]
    assert set(lost.values()) == {"lost"}


def test_within_the_replay_window_an_answer_that_was_lost_is_a_finding(good, tmp_path):
    """With the window off the same run is good: the attempt was in flight at the kill."""
    run = good.copy(tmp_path / "window")
    file, number, record, _, enrolment, _ = of_clients(run, lambda among: among[0])
    for kill_file, kill_number, kill in run.records("kill"):
        run.rewrite(kill_file, kill_number, kill | {"began": 0, "ended": max(kill["ended"], record["at"])})
    run.rewrite(file, number, record | {"status": None, "certificate": None})
    assert run.findings() == []
    places = [finding.place for finding in run.findings(replay_window=600) if finding.rule == "lost"]
    assert f"enrolment {enrolment}" in places


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_canonical_json_of_its_own_agrees_with_the_servers_library(value):
    """RFC 8785, by two implementations."""
    assert verdict.canonical(value).encode() == rfc8785.dumps(value)

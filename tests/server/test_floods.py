"""RULES H4: a flood of failed requests costs a bounded number of rows, is told exactly, and hides nobody else's events."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter

import pytest

from kipuka.testing.client import basic, bearer, encode_body
from kipuka.testing.pki import make_csr, make_root
from kipuka.testing.server import wait_until

pytestmark = pytest.mark.server

ENROLL = "/.well-known/est/simpleenroll"
PKCS10 = {"Content-Type": "application/pkcs10"}
BODY = encode_body(make_csr().der, "one-line")
THRESHOLD = 20


@pytest.fixture
def shipped(kipuka_servers):
    """A server as `kipuka init` configures it, in one worker, whose first window has just begun."""
    return kipuka_servers({"server": {"workers": 1}}, as_shipped=True)


def send(client, count, request):
    """So many requests over a few connections; the statuses, counted."""
    statuses = Counter()
    connection = client.connect()
    for number in range(count):
        answer = request(connection, number)
        statuses[answer.status] += 1
        if answer.header("Connection") == "close":
            connection.close()
            connection = client.connect()
    connection.close()
    return statuses


def wrong_token(connection, number):
    headers = PKCS10 | {"Authorization": basic(f"{number:020d}")}
    return connection.request("POST", ENROLL, headers=headers, body=BODY)


def wrong_bearer(connection, _number):
    return connection.request("GET", "/admin/otp", headers={"Authorization": bearer("x" * 43)})


def no_resource(connection, number):
    return connection.request("GET", f"/{number}")


def failures(server, event, address):
    """The failures of one address that are rows of their own, and what the sums say: both by reason."""
    rows = Counter(record["data"]["reason"] for record in server.audit(event) if record["client_address"] == address)
    sums = Counter()
    for record in server.audit("failures_summed"):
        data = record["data"]
        if (data["failure"], data["address"]) == (event, address):
            sums[data["reason"]] += data["count"]
    return rows, sums


def issued_events(server, answer):
    request_id = answer.header("X-Request-Id")
    return [record["event"] for record in server.audit() if record["request_id"] == request_id]


def test_a_flood_of_wrong_tokens_is_a_few_rows_and_an_exact_sum_and_others_are_served_and_told(shipped):
    flooder, good = shipped.client().calling_from("127.0.2.1"), shipped.client().calling_from("127.0.2.2")
    token = shipped.make_token(max_uses=5)
    answers = []
    statuses = Counter()
    for _ in range(5):
        statuses += send(flooder, 100, wrong_token)
        answers.append(good.enroll(make_csr(), token=token.value))
    assert statuses == {401: 5, 429: 495}
    assert [answer.status for answer in answers] == [200] * 5
    before_the_stop = Counter(record["event"] for record in shipped.audit())
    shipped.stop()
    rows, sums = failures(shipped, "authentication_failed", "127.0.2.1")
    assert rows + sums == {"unknown_token": 5, "locked_out": 495}
    assert rows["unknown_token"] == 5
    # Should a window have ended meanwhile, there are two of them.
    assert THRESHOLD <= rows["locked_out"] <= 2 * THRESHOLD
    assert before_the_stop["authentication_failed"] <= 5 + 2 * THRESHOLD
    summed = shipped.audit("failures_summed")
    assert 1 <= len(summed) <= 2
    for record in summed:
        assert (record["data"]["method"], record["data"]["kind"]) == ("otp", "locked")
        assert record["data"]["first_at"] < record["data"]["last_at"] <= record["time"]
    assert len(shipped.audit("locked_out")) == 1
    for answer in answers:
        assert issued_events(shipped, answer) == [
            "authentication_succeeded",
            "certificate_requested",
            "otp_used",
            "certificate_issued",
        ]
    assert [record["event"] for record in shipped.audit()[-3:]] == [
        "failures_summed",  # told before the end
        "server_stopped",
        "audit_head_signed",
    ]
    shipped.deployment.kipuka("audit", "verify")


def test_bearer_tokens_certificates_and_wrong_paths_have_counts_of_their_own(shipped):
    stranger = make_root("Somebody else").issue_client("stranger")
    certified = shipped.client(stranger).calling_from("127.0.3.2")

    def certificate_alone(connection, _number):
        return connection.request("POST", ENROLL, headers=PKCS10, body=BODY)

    assert send(shipped.client().calling_from("127.0.3.1"), 60, wrong_bearer) == {401: 5, 429: 55}
    assert send(certified, 50, certificate_alone) == {401: 50}
    assert send(shipped.client().calling_from("127.0.3.3"), 40, no_resource) == {404: 40}
    assert send(shipped.client().calling_from("127.0.3.4"), THRESHOLD, no_resource) == {404: THRESHOLD}
    shipped.stop()
    rows, sums = failures(shipped, "admin_denied", "127.0.3.1")
    assert rows + sums == {"invalid_bearer_token": 5, "locked_out": 55}
    assert THRESHOLD <= rows["locked_out"] <= 2 * THRESHOLD
    rows, sums = failures(shipped, "authentication_failed", "127.0.3.2")
    assert list((rows + sums).values()) == [50]
    assert THRESHOLD <= rows.total() <= 2 * THRESHOLD
    rows, sums = failures(shipped, "request_rejected", "127.0.3.3")
    assert list((rows + sums).values()) == [40]
    assert THRESHOLD <= rows.total() <= 2 * THRESHOLD
    rows, sums = failures(shipped, "request_rejected", "127.0.3.4")
    assert (rows.total(), sums.total()) == (THRESHOLD, 0)


def test_an_address_that_is_locked_out_costs_no_row_at_all_once_it_is_summed(shipped):
    """It is looked up, and nothing is written: neither an event nor another failure."""
    flooder = shipped.client().calling_from("127.0.4.1")
    send(flooder, 5 + 1 + THRESHOLD, wrong_token)
    shipped.wait_for_audit("audit_head_signed")  # the first one; the next is far away

    def contents():
        with contextlib.closing(sqlite3.connect(shipped.deployment.database)) as database:
            return [
                database.execute(f"SELECT {what} FROM {table}").fetchall()
                for what, table in (("*", "lockouts"), ("*", "lockout_failures"), ("count(*)", "audit_events"))
            ]

    before = contents()
    assert send(flooder, 100, wrong_token) == {429: 100}
    assert contents() == before


def test_a_reload_tells_the_sums_and_begins_anew_with_the_new_threshold(kipuka_servers):
    server = kipuka_servers({"server": {"workers": 1}, "audit": {"flood_threshold": 3}}, as_shipped=True)
    client = server.client().calling_from("127.0.5.1")
    send(client, 30, no_resource)
    after = server.last_sequence
    server.deployment.configure({"audit": {"flood_threshold": 7}})
    server.reload()
    server.wait_for_audit("configuration_loaded", after=after, timeout=60)
    told = server.wait_for_audit("failures_summed", timeout=60)
    assert (told["data"]["address"], told["data"]["count"]) == ("127.0.5.1", 27)
    send(client, 30, no_resource)
    wait_until(lambda: len(server.audit("request_rejected")) == 3 + 7, what="the new rows")
    server.stop()
    assert [record["data"]["count"] for record in server.audit("failures_summed")] == [27, 23]
    assert len(server.audit("request_rejected")) == 3 + 7


def test_whoever_is_known_is_audited_whole_whatever_fails(kipuka_servers):
    """A recognised client's bad certificate beside its good token, and an administrator's mistakes."""
    server = kipuka_servers({"server": {"workers": 1}, "audit": {"flood_threshold": 1}}, as_shipped=True)
    stranger = make_root("Somebody else").issue_client("stranger")
    client = server.client(stranger).calling_from("127.0.6.1")
    token = server.make_token(max_uses=5)
    answers = [client.enroll(make_csr(), token=token.value) for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 5
    assert [server.admin("POST", "/admin/otp", {"nonsense": 1}).status for _ in range(5)] == [400] * 5
    server.stop()
    for answer in answers:
        assert "authentication_failed" in issued_events(server, answer)
    denied = [record for record in server.audit("admin_denied") if record["identity"]]
    assert [record["data"]["status"] for record in denied] == [400] * 5
    assert server.audit("failures_summed") == []

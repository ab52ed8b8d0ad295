"""What is this sink's own: signatures, keys, time-outs, TLS and redirects, over real HTTP."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from kipuka_audit_webhook.message import IDEMPOTENCY_KEY, SIGNATURE, TIMESTAMP, body_of, headers_of, verify
from kipuka_audit_webhook.plugin import kipuka_audit_sinks
from kipuka_audit_webhook.sink import NotTaken, WebhookSettings, check_webhook
from pydantic import ValidationError
from receiver import SECRET, Receiver

from kipuka.api import ReportsHealth
from kipuka.testing.harness import open_audit_sink
from kipuka.testing.pki import make_csr, make_root
from kipuka.testing.records import make_records
from kipuka.testing.server import wait_until

(KIND,) = kipuka_audit_sinks()
NOW = datetime(2030, 6, 1, tzinfo=UTC)


@pytest.fixture
def receiver():
    with Receiver() as running:
        yield running


def write(directory, section, *batches):
    """What each `write` raised, or None."""

    async def main():
        async with open_audit_sink(KIND, {"secret": SECRET, **section}, directory=directory) as opened:
            ends = [(await asyncio.gather(opened.sink.write(one), return_exceptions=True))[0] for one in batches]
            assert isinstance(opened.sink, ReportsHealth)
            return ends, await opened.sink.health()

    return asyncio.run(main())


# -- the request -------------------------------------------------------------------------------------------------------


def signed(records, *, secret=SECRET, now=NOW):
    body = body_of(records)
    return dict(headers_of(records, body, secret=secret, now=now)), body


def test_what_was_signed_just_now_is_believed():
    headers, body = signed(make_records(3))
    assert verify(headers, body, secret=SECRET, now=NOW + timedelta(minutes=4))


@pytest.mark.parametrize("name", [IDEMPOTENCY_KEY, SIGNATURE, TIMESTAMP])
@pytest.mark.parametrize("how", ["missing", "changed", "odd"])
def test_a_field_that_was_touched_is_not(name, how):
    headers, body = signed(make_records(3))
    changed = {"missing": {}, "changed": {name: headers[name][:-1] + "0x"}, "odd": {name: "\udc80é²"}}[how]
    rest = {key: value for key, value in headers.items() if key != name}
    assert not verify({**rest, **changed}, body, secret=SECRET, now=NOW)


def test_another_body_or_secret_or_hour_is_not():
    headers, body = signed(make_records(3))
    assert not verify(headers, body + b"\n", secret=SECRET, now=NOW)
    assert not verify(headers, body, secret=SECRET[:-1], now=NOW)
    for late in (timedelta(minutes=6), -timedelta(minutes=6)):
        assert not verify(headers, body, secret=SECRET, now=NOW + late)


def test_the_same_batch_has_the_same_key_and_no_other_has_it():
    records = make_records(6)
    keys = [
        signed(part)[0][IDEMPOTENCY_KEY] for part in (records[:3], records[3:], records[:2], make_records(3, node="b"))
    ]
    assert len(set(keys)) == 4
    again, _ = signed(records[:3], now=NOW + timedelta(hours=1))
    assert again[IDEMPOTENCY_KEY] == keys[0]


# -- deliveries --------------------------------------------------------------------------------------------------------


def test_batches_are_requests_of_their_own_and_come_again_under_the_same_keys(receiver, tmp_path):
    records = make_records(25)
    ends, health = write(tmp_path, {"url": receiver.url, "batch": 10}, records, records)
    assert (ends, health) == ([None, None], None)
    assert [body.count(b"\n") for _, body in receiver.requests] == [10, 10, 5] * 2
    assert len(receiver.batches) == 3
    assert receiver.lines() == [record.to_json() for record in records]


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 429, 500, 503])
def test_every_answer_but_2xx_means_not_taken(receiver, tmp_path, status):
    receiver.status, receiver.location = status, "http://127.0.0.1:9/elsewhere"
    (end,), health = write(tmp_path, {"url": receiver.url}, make_records(1))
    assert isinstance(end, NotTaken)
    assert health == f"the web hook took nothing: it answered {status}" == str(end)
    assert len(receiver.requests) == 1  # nothing was followed


def test_a_receiver_that_hangs_is_given_up_and_gets_everything_again(receiver, tmp_path):
    """It had taken the events when the answer was given up, so they come twice under one key: at least once."""
    records = make_records(3)

    async def main():
        section = {"url": receiver.url, "secret": SECRET, "timeout": 0.2}
        async with open_audit_sink(KIND, section, directory=tmp_path) as opened:
            receiver.may_answer.clear()
            with pytest.raises(NotTaken, match="TimeoutError"):
                await opened.sink.write(records)
            receiver.may_answer.set()
            await opened.sink.write(records)

    asyncio.run(main())
    assert len(receiver.requests) == 2
    assert receiver.lines() == [record.to_json() for record in records]


@pytest.mark.parametrize(("host", "trusted"), [("127.0.0.1", True), ("127.0.0.1", False), ("elsewhere.example", True)])
def test_over_tls_the_receiver_must_be_who_it_should_be(tmp_path, host, trusted):
    root = make_root("Receivers")
    certificate, key = root.issue_server(host).write(tmp_path, "receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    (tmp_path / "anchors.pem").write_bytes((root if trusted else make_root("Others")).pem)
    with Receiver(context) as receiver:
        section = {"url": receiver.url, "anchors": "anchors.pem"}
        (end,), _ = write(tmp_path, section, make_records(1))
        if trusted and host == "127.0.0.1":
            assert end is None
            assert len(receiver.lines()) == 1
        else:
            assert "SSLCertVerificationError" in str(end)
            assert not receiver.requests


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ftp://siem.example/"},
        {"url": "https://"},
        {"url": "https://user:word@siem.example/"},
        {"url": "https://siem.example:port/"},
        {"url": "https://siem.example/a\r\nX: y"},
        {"url": "https://siem.example/ a"},
        {"secret": "short"},
        {"batch": 0},
        {"batch": 501},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValidationError):
        WebhookSettings.model_validate({"url": "https://siem.example/", "secret": SECRET, **changes})


@pytest.mark.parametrize(
    ("url", "found"),
    [("https://siem.example", []), ("http://127.0.0.1:8080/", ["warning"]), ("http://siem.example", ["error"])],
)
def test_check_refuses_the_clear_but_to_this_machine(url, found):
    settings = WebhookSettings.model_validate({"url": url, "secret": SECRET})
    assert [finding.severity for finding in check_webhook(settings)] == found


def test_check_reads_the_anchors(tmp_path):
    settings = WebhookSettings.model_validate(
        {"url": "https://siem.example", "secret": SECRET, "anchors": "none.pem"}, context={"base": tmp_path}
    )
    (finding,) = check_webhook(settings)
    assert (finding.severity, finding.key) == ("error", "anchors")


# -- in a server -------------------------------------------------------------------------------------------------------


def test_a_receiver_that_was_away_gets_all_of_an_enrolment(kipuka_servers, receiver):
    """Guarantee 7: fed from the store, at least once, in order; the enrolment does not wait for it."""
    receiver.stop()
    sinks = [
        {"type": "file", "path": "audit.jsonl"},
        {"type": "webhook", "url": receiver.url, "secret": SECRET},
    ]
    server = kipuka_servers({"audit": {"sink": sinks}})
    answer = server.client().enroll(make_csr(common_name="device-1"), token=server.make_token("device-1").value)
    assert answer.status == 200, answer.text
    server.wait_for_audit("certificate_issued")
    receiver.start()
    file = server.deployment.audit_file
    wait_until(lambda: '"certificate_issued"' in "".join(receiver.lines()), timeout=60, what="the events")
    received = list(dict.fromkeys(receiver.lines()))
    wait_until(lambda: file.read_text("utf-8").splitlines()[: len(received)] == received, what="the same in the file")
    copy = server.deployment.directory / "received.jsonl"
    copy.write_text("".join(f"{line}\n" for line in received), "utf-8")
    assert "intact" in server.deployment.kipuka("audit", "verify", "--file", str(copy)).stdout

"""SIGHUP: a good configuration takes effect without a failed request, a bad one changes nothing and says why."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
import time
from functools import partial

import pytest
from cryptography import x509
from h2.errors import ErrorCodes

from kipuka.testing.client import TLSAlert, basic, est_path
from kipuka.testing.http2 import HTTP2Peer
from kipuka.testing.pki import make_csr, make_root
from kipuka.testing.server import wait_until
from kipuka.testing.sink_file import read_records

from .load import CACERTS, Load

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

STRANGERS = make_root("Strangers Root")
STRANGER = STRANGERS.issue_client("stranger")


@pytest.fixture(scope="module")
def server(kipuka_servers):
    """Two workers, and profiles that let one key have many certificates."""
    server = kipuka_servers(
        {
            "server": {"workers": 2},
            "profile": [{"name": "default", "unique_keys": False}],
            "audit": {"sink": [{"type": "file", "path": "audit.jsonl"}]},
        }
    )
    server.wait_for_workers(2)
    return server


@pytest.fixture
def settings(server):
    """Puts the configuration and the files it names back as they were."""
    deployment = server.deployment
    paths = [*(deployment.directory / name for name in (ANCHORS, CERT, KEY)), deployment.config_file]
    before = {path: path.read_bytes() for path in paths}
    yield deployment
    for path, content in before.items():
        path.write_bytes(content)
    good_reload(server)


ANCHORS, CERT, KEY = "client-anchors.pem", "tls/server.pem", "tls/server.key"


def good_reload(server):
    """SIGHUP; the event that tells of it. The file is made one that no earlier reload can have read, by a comment."""
    file = server.deployment.config_file
    content = file.read_bytes().partition(b"\n# reload ")[0] + f"\n# reload {time.monotonic_ns()}\n".encode()
    file.write_bytes(content)
    server.reload()
    sha256 = hashlib.sha256(content).hexdigest()
    return server.wait_for_audit("configuration_loaded", timeout=60, sha256=sha256)


def refused_reload(server):
    """SIGHUP; what the event says that tells of it. Does without the configuration, which may be broken."""
    file = server.deployment.directory / "audit.jsonl"
    before = len(refusals(file))  # each is waited for: none is on its way
    server.reload()
    record = wait_until(lambda: refusals(file)[before:], timeout=60, what="the refusal")[0]
    assert record["outcome"] == "failure"
    return "\n".join(record["data"]["problems"])


def refusals(file):
    return [record for record in read_records(file) if record["event"] == "configuration_refused"]


def give_new_certificate(deployment):
    """A new certificate for the server, of the CA that its clients trust; its serial number."""
    credential = deployment.authority().issue_server("localhost", "127.0.0.1")
    (deployment.directory / CERT).write_bytes(credential.chain_pem)
    (deployment.directory / KEY).write_bytes(credential.key_pem())
    return credential.certificate.serial_number


def trust(deployment, *more):
    """Client anchors: the issuing CA and these."""
    own = deployment.authority().pem
    (deployment.directory / ANCHORS).write_bytes(b"".join([own, *(credential.pem for credential in more)]))


def served_serial(server):
    with server.client().connect() as connection:
        return connection.server_certificate.serial_number


def enrol(connection, name="stranger", operation="simpleenroll"):
    body = base64.b64encode(make_csr(common_name=name).der)
    return connection.request("POST", est_path(operation), headers={"Content-Type": "application/pkcs10"}, body=body)


SOAK_SECONDS = float(os.environ.get("KIPUKA_RELOAD_SECONDS", "60"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "every"),
    [
        pytest.param(12.0, 2.0, id="short"),
        pytest.param(SOAK_SECONDS, 5.0, id="long", marks=pytest.mark.soak),
    ],
)
def test_no_request_fails_while_certificate_and_anchors_change(server, settings, seconds, every):
    """Item 1: new certificate served, removed anchors out, on old connections too; not one failed request of the others."""
    token = server.make_token("loader", max_uses=1000000)
    device = server.enrol("loaded")
    end = time.monotonic() + seconds
    rounds = 0
    with Load(server, device, token) as load:
        while time.monotonic() < end or rounds < seconds / every / 3:
            began = time.monotonic()
            rounds += 1
            welcome = rounds % 2 == 1
            before = server.client(STRANGER).connect()  # handshake under the anchors of before
            before.request("GET", CACERTS)
            serial = give_new_certificate(settings)
            trust(settings, *([STRANGERS] if welcome else []))
            good_reload(server)
            expected = 200 if welcome else 401
            assert enrol(before).status == expected
            for _ in range(4):  # both workers
                with server.client(STRANGER).connect() as now:
                    assert now.server_certificate.serial_number == serial
                    assert enrol(now).status == expected
            before.close()
            time.sleep(max(0.0, every - (time.monotonic() - began)))
    assert load.failures() == []
    kinds = {asked.kind for asked in load.asked}
    assert kinds == {"fresh cacerts", "fresh enrolment", "kept cacerts", "kept renewal"}
    server.deployment.kipuka("audit", "verify")
    assert server.workers() == server.wait_for_workers(2)


def without_key(deployment):
    (deployment.directory / KEY).unlink()


def with_the_key_of_another(deployment):
    (deployment.directory / KEY).write_bytes(make_root("Other").key_pem())


def with_no_toml(deployment):
    deployment.config_file.write_text("[server\nlisten = 1\n", encoding="utf-8")


def with_no_file(deployment):
    deployment.config_file.unlink()


def changed(changes):
    def change(deployment):
        deployment.configure(changes)

    return change


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        pytest.param(with_no_toml, "it is not TOML", id="no TOML"),
        pytest.param(with_no_file, "there is no such file", id="no file"),
        pytest.param(changed({"est": {"base_pat": "/x"}}), "base_path", id="a mistyped key"),
        pytest.param(changed({"est": {"default_ca": "nobody"}}), "nobody", id="a CA that is not there"),
        pytest.param(changed({"kerberos": {"keytab": "x"}}), "no installed plugin", id="a section of nobody"),
        pytest.param(
            changed({"otp": None}), "the set of plugins has changed (otp is no longer used)", id="a plugin less"
        ),
        pytest.param(
            changed({"audit": {"sink": [{"type": "stdout"}]}}),
            "the set of plugins has changed (stdout would be new, file is no longer used)",
            id="another plugin",
        ),
        pytest.param(without_key, "there is no file", id="no key"),
        pytest.param(with_the_key_of_another, "is not the key of the certificate", id="the key of another"),
        pytest.param(changed({"otp": {"hash_algorithm": "hunter2"}}), "hash_algorithm", id="a wrong value"),
    ],
)
def test_a_broken_configuration_changes_nothing_and_says_why(server, settings, breaks, says):
    """Item 1. The problems are in log and audit, without the values that were written."""
    serial = served_serial(server)
    workers = server.workers()
    written = settings.config_file.read_bytes()
    give_new_certificate(settings)
    breaks(settings)
    problems = refused_reload(server)
    settings.config_file.write_bytes(written)  # for the test's own sake: it asks there for the port
    assert says in problems
    assert "hunter2" not in problems
    assert "configuration_refused" in server.stderr
    assert served_serial(server) == serial
    assert server.workers() == workers
    assert enrolled_by_token(server)


def enrolled_by_token(server):
    token = server.make_token("after")
    return server.client().enroll(make_csr(common_name="after"), token=token.value).status == 200


def test_a_refusal_tells_wrong_values_plugins_and_missing_files_at_once(server, settings):
    written = settings.config_file.read_bytes()
    without_key(settings)
    settings.configure({"est": {"base64_lines": "sometimes"}, "kerberos": {"keytab": "x"}})
    problems = refused_reload(server).splitlines()
    settings.config_file.write_bytes(written)
    file = settings.config_file
    assert [problem.removeprefix(f"{file}: ").partition(":")[0] for problem in problems] == [
        "est.base64_lines",
        "plugin kerberos, find",
        "tls.key",
    ]
    assert f"there is no file {settings.directory / KEY}" in problems[2]
    assert enrolled_by_token(server)


def test_a_refusal_for_other_plugins_tells_the_rest_too(server, settings):
    written = settings.config_file.read_bytes()
    without_key(settings)
    settings.configure({"otp": None, "est": {"base64_lines": "sometimes"}})
    problems = refused_reload(server).splitlines()
    settings.config_file.write_bytes(written)
    assert len(problems) == 3
    assert "est.base64_lines" in problems[0]
    assert "the set of plugins has changed (otp is no longer used); restart the server" in problems[1]
    assert "tls.key" in problems[2]


def test_after_a_refusal_the_next_good_configuration_takes_effect(server, settings):
    deployment = settings
    serial = give_new_certificate(deployment)
    content = deployment.config_file.read_bytes()
    deployment.config_file.write_bytes(content + b"\n[nonsense")
    refused_reload(server)
    deployment.config_file.write_bytes(content)
    record = good_reload(server)
    assert record["data"]["restart_needed"] == []
    assert served_serial(server) == serial


def test_what_needs_a_restart_is_said_and_the_rest_takes_effect(server, settings):
    """[server] and [db] are what a process is made with."""
    workers = server.workers()
    serial = give_new_certificate(settings)
    settings.configure({"server": {"workers": 3, "max_body_size": 2048}, "est": {"base64_lines": "never"}})
    record = good_reload(server)
    assert record["data"]["restart_needed"] == ["server.workers", "server.max_body_size"]
    assert served_serial(server) == serial
    assert server.workers() == workers
    assert server.client().cacerts().body.strip().count(b"\n") == 0


def test_the_admin_interface_does_not_move_to_the_est_listener_on_its_way_to_another(kipuka_servers):
    """A new admin_listen waits for the restart, and so does the [admin] that was meant for it alone."""
    template = kipuka_servers(start=False)
    admin = template.deployment.settings["admin"]
    template.deployment.configure({"admin": None})
    with template as server:
        assert server.admin("GET", "/admin/certificates").status == 404
        server.deployment.configure({"admin": admin, "server": {"admin_listen": "127.0.0.1:1"}})
        record = good_reload(server)
        assert set(record["data"]["restart_needed"]) == {"server.admin_listen", "admin"}
        assert server.admin("GET", "/admin/certificates").status == 404


def test_a_removed_anchor_is_out_on_a_connection_that_was_open(server, settings):
    """RULES B2: the path verdict is the connection's, but only for that generation of the anchors."""
    trust(settings, STRANGERS)
    good_reload(server)
    with server.client(STRANGER).connect() as connection:
        assert enrol(connection).status == 200
        trust(settings)
        good_reload(server)
        answer = enrol(connection)
        assert (answer.status, answer.text) == (401, "certificate signed by unknown authority")
        assert answer.header("Connection") == "close"
        assert connection.is_closed()


def test_an_open_connection_without_the_certificate_that_is_now_required_is_refused(server, settings):
    """RULES A2: what a handshake of today would insist on, on a connection of yesterday."""
    stranger, nobody, idle = (server.client(one).connect() for one in (STRANGER, None, None))
    member = server.client(server.enrol("member")).connect()
    for connection in (stranger, nobody, member):
        assert connection.request("GET", CACERTS).status == 200
    settings.configure({"tls": {"client_auth": {"mode": "required"}}})
    after = server.last_sequence
    server.reload()
    server.wait_for_audit("configuration_loaded", after=after, timeout=60)
    with member:
        assert member.request("GET", CACERTS).status == 200
    for connection, text in (
        (nobody, "client certificate required"),
        (idle, "client certificate required"),
        (stranger, "certificate signed by unknown authority"),
    ):
        with connection:
            answer = connection.request("GET", CACERTS)
            assert (answer.status, answer.text) == (403, text)
            assert connection.is_closed()
    with pytest.raises(TLSAlert), server.client().connect() as connection:
        connection.request("GET", CACERTS)


def test_a_rotated_audit_file_is_followed_and_no_event_is_lost_or_out_of_order(kipuka_servers):
    """Item 1: the outbox before has ended when the next one begins."""
    server = kipuka_servers({"server": {"workers": 2}, "profile": [{"name": "default", "unique_keys": False}]})
    file = server.deployment.audit_file
    away = file.with_name("audit.jsonl.1")
    token = server.make_token("rotated", max_uses=1000000)
    first = server.last_sequence
    with Load(server, server.enrol("rotating"), token) as load:
        for number in range(2):
            seen = len(load.asked)
            wait_until(lambda least=seen + 20: len(load.asked) > least, what="some load")
            if number == 0:
                file.rename(away)
            server.reload()
            wait_until(file.exists, what="a new file")
            wait_until(
                lambda n=number: len([r for r in read_records(file) if r["event"] == "configuration_loaded"]) > n,
                timeout=60,
                what="the reload",
            )
    assert load.failures() == []
    sequences = [record["sequence"] for record in (*read_records(away), *read_records(file))]  # events may still come
    assert sequences == list(range(1, len(sequences) + 1))
    assert first < sequences[-1]
    assert all("\n" not in line for line in away.read_text().splitlines())


def told_of_reload(server, after):
    """What came of a reload after that event, or None."""
    ends = {"configuration_loaded", "configuration_refused"}
    return next((one for one in server.audit() if one["sequence"] > after and one["event"] in ends), None)


@pytest.mark.crash
def test_a_worker_that_dies_while_it_opens_the_configuration_is_a_refusal(server, settings):
    """Two gates passed and the third not: the worker that was ready goes on as before, and so does the replacement."""
    serial = served_serial(server)
    give_new_certificate(settings)
    pause, outcome = 1.5, None
    while outcome is None or outcome["event"] == "configuration_loaded":  # it was killed before it was its turn
        victim = server.wait_for_workers(2)[1]
        os.kill(victim, signal.SIGSTOP)
        after = server.last_sequence
        server.reload()
        time.sleep(pause)  # the other one has opened it by then; where it has not, the test shows less
        os.kill(victim, signal.SIGKILL)
        outcome = wait_until(partial(told_of_reload, server, after), timeout=90, what="the end of the reload")
        server.wait_for_workers(2, without=[victim])
        pause *= 2
    assert "died while it opened the configuration" in outcome["data"]["problems"][0]
    # The replacement was born of the old configuration, but reads the files that it names as they are now.
    assert served_serial(server) in {serial, good_reload(server) and served_serial(server)}


def test_two_signals_in_a_row_end_with_what_the_file_says_last(server, settings):
    """A signal that comes while a reload is under way is not lost."""
    give_new_certificate(settings)
    server.reload()
    serial = give_new_certificate(settings)
    server.reload()
    wait_until(lambda: {served_serial(server) for _ in range(4)} == {serial}, timeout=60, what="the last certificate")


def test_a_server_of_one_worker_reloads_as_well(kipuka_servers):
    server = kipuka_servers({"server": {"workers": 1}})
    serial = give_new_certificate(server.deployment)
    with server.client().connect() as connection:
        connection.request("GET", CACERTS)
        good_reload(server)
        answer = connection.request("GET", CACERTS)
        assert (answer.status, answer.header("Connection")) == (200, "close")
    assert served_serial(server) == serial
    assert isinstance(
        x509.load_pem_x509_certificate((server.deployment.directory / CERT).read_bytes()), x509.Certificate
    )


async def test_after_a_reload_http2_connections_end_with_what_they_began(kipuka_servers):
    """A stream that was open is answered, the first new one too, and then comes GOAWAY: the next connection sees the new certificate."""
    server = kipuka_servers({"server": {"workers": 2, "http2": True}})
    token = await asyncio.to_thread(server.make_token)
    busy, idle = await HTTP2Peer.ready(server.port), await HTTP2Peer.ready(server.port)
    body = base64.b64encode(make_csr(common_name=token.client_id).der)
    fields = [("content-type", "application/pkcs10"), ("authorization", basic(token.value))]
    begun = await busy.request(est_path("simpleenroll"), "POST", body[:100], fields, end=False)
    assert (await idle.get(CACERTS)).status == 200
    serial = give_new_certificate(server.deployment)
    await asyncio.to_thread(good_reload, server)
    assert (await busy.get(CACERTS)).status == 200
    assert (await busy.get(CACERTS)).reset == ErrorCodes.REFUSED_STREAM
    await busy.upload(begun, body[100:])
    assert (await busy.response(begun)).status == 200
    assert (await idle.get(CACERTS)).status == 200
    for peer in (busy, idle):
        await peer.rest()
        assert peer.goaway == ErrorCodes.NO_ERROR
        assert peer.peer.closed_cleanly
        await peer.peer.close()
    assert await asyncio.to_thread(served_serial, server) == serial

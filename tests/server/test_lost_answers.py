"""A lost answer is asked for again: the same request gets the same certificate, and nothing else does (guarantee 3, RULES D4)."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.client import basic, bearer, encode_body, est_path
from kipuka.testing.clock import FakeClock
from kipuka.testing.inprocess import STEPS, InProcessServer
from kipuka.testing.pki import Credential, make_csr, make_key, make_root
from kipuka.testing.server import wait_until

from .load import connections_by_worker, rows

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

INVALID = (401, "invalid OTP token")
WINDOW = 600
ON = {
    "est": {"replay_window": WINDOW, "label": [{"name": "lab"}, {"name": "strict", "replay_window": 0}]},
    "server": {"workers": 2},
}


@pytest.fixture(scope="module")
def server(kipuka_servers):
    server = kipuka_servers(ON)
    server.wait_for_workers(2)
    return server


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def refused(answer):
    return (answer.status, answer.text)


def fingerprint(answer):
    return answer.certificate.fingerprint(hashes.SHA256()).hex()


def issued_for(server, token):
    """The fingerprints of all certificates that this token's client ever got."""
    listed = server.admin("GET", f"/admin/certificates?subject=CN%3D{token.client_id}")
    return [found["id"] for found in json.loads(listed.body)["certificates"]]


def uses(server, token):
    view = server.view_token(token)
    return view["used"], view["held"]


def send(connection, csr, token):
    headers = {"Content-Type": "application/pkcs10", "Authorization": basic(token)}
    target = est_path("simpleenroll")
    connection.send(connection.format_request("POST", target, headers=headers, body=encode_body(csr.der, "64-lf")))


def persistently(ask):
    """What a device does: asks again while it is told to come back."""
    answers = []

    def answered():
        answers.append(ask())
        return answers[-1].status != 503

    wait_until(answered, what="another answer than 503")
    return answers[-1]


# -- the answer is lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["sent", "read", "answered"])
@pytest.mark.parametrize("leave", ["abort", "close"])
def test_a_device_that_lost_the_answer_gets_it_with_the_same_request(server, client, moment, leave):
    """Guarantee 3: the connection breaks after the request was sent, was read, or was answered; the token is spent once."""
    token = server.make_token(f"lost-{moment}-{leave}")
    csr = make_csr(common_name=token.client_id)
    with client.connect() as connection:
        send(connection, csr, token.value)
        if moment == "answered":
            connection.receive()
        elif moment == "read":
            server.wait_for_audit("certificate_issued", subject=f"CN={token.client_id}")
        connection.abort() if leave == "abort" else connection.close()
    answer = persistently(lambda: client.enroll(csr, token=token.value))
    assert answer.status == 200, answer.text
    assert [fingerprint(answer)] == issued_for(server, token)
    assert uses(server, token) == (1, 0)


@pytest.mark.parametrize("step", STEPS)
def test_at_whatever_step_the_client_leaves_the_next_request_ends_with_its_one_certificate(stepwise, step):
    """Guarantee 3, at every step of the way."""
    name = f"left-at-{step.replace('_', '-')}"
    token = stepwise.make_token(name)
    csr = make_csr(common_name=name)
    gate = stepwise.stop_at(step)
    with stepwise.client().connect() as connection:
        send(connection, csr, token)
        gate.wait()
        connection.abort()
        gate.open()
    answer = persistently(lambda: stepwise.client().enroll(csr, token=token))
    assert answer.status == 200, answer.text
    stepwise.come_to_rest()
    assert stepwise.certificates_of(name) == [fingerprint(answer)]


def test_while_the_first_request_is_under_way_the_second_is_told_to_come_back(stepwise):
    """RULES C4: 503 with Retry-After 1, which is no failure; afterwards both have one certificate."""
    token = stepwise.make_token("impatient")
    csr = make_csr(common_name="impatient")
    gate = stepwise.stop_at("sign")
    answers = []
    first = threading.Thread(target=lambda: answers.append(stepwise.client().enroll(csr, token=token)))
    first.start()
    gate.wait()
    early = stepwise.client().enroll(csr, token=token)
    assert (early.status, early.header("Retry-After")) == (503, "1")
    gate.open()
    first.join(30)
    assert fingerprint(stepwise.client().enroll(csr, token=token)) == fingerprint(answers[0])


def test_a_retry_that_was_overtaken_by_its_first_request_gets_that_ones_certificate(stepwise):
    """The token was good when the retry was judged, and spent when it was to be held: it is still a retry, not a failure."""
    token = stepwise.make_token("overtaken")
    csr = make_csr(common_name="overtaken")
    gate = stepwise.stop_at("reserve")
    answers = []
    retry = threading.Thread(target=lambda: answers.append(stepwise.client().enroll(csr, token=token)))
    retry.start()
    gate.wait()
    first = stepwise.client().enroll(csr, token=token)
    gate.open()
    retry.join(30)
    assert first.status == 200
    assert fingerprint(answers[0]) == fingerprint(first)


def test_the_retry_may_come_to_another_worker(server, client):
    """One store: whichever worker issued it, every worker gives it again."""
    found = connections_by_worker(server, count=1)
    with found[0].pop() as one, found[1].pop() as other:
        for number, (first, second) in enumerate([(one, other), (other, one)]):
            token = server.make_token(f"wandering-{number}")
            csr = make_csr(common_name=token.client_id)
            answers = [client.enroll(csr, token=token.value, connection=worker) for worker in (first, second)]
            assert fingerprint(answers[0]) == fingerprint(answers[1])
            assert uses(server, token) == (1, 0)


def test_a_retry_is_answered_as_the_request_was(server, client):
    """The same body, octet for octet, and the same fields."""
    token = server.make_token("alike")
    csr = make_csr(common_name="alike")
    first, again = (client.enroll(csr, token=token.value) for _ in range(2))
    assert again.body == first.body
    assert again.header("Content-Type") == first.header("Content-Type")


def test_a_retry_after_a_restart_gets_the_certificate_too(kipuka_servers):
    """What was issued is in the database, not in a process."""
    server = kipuka_servers({"est": {"replay_window": WINDOW}})
    token = server.make_token("patient")
    csr = make_csr(common_name="patient")
    first = server.client().enroll(csr, token=token.value)
    server.kill()
    server.start()
    assert fingerprint(server.client().enroll(csr, token=token.value)) == fingerprint(first)


# -- it is the same request, or it is not ------------------------------------------------------------------------------


def test_with_another_name_another_key_or_another_label_it_is_another_request(server, client):
    """RULES D4: then the token is spent, and that is a failure."""
    names = ["DNS:a.example", "DNS:b.example"]
    token = server.make_token("varied", san=names)
    key = make_key()
    csr = make_csr(common_name="varied", key=key, dns=("a.example",))
    first = client.enroll(csr, token=token.value)
    assert first.status == 200
    others = {
        "another name": client.enroll(make_csr(common_name="varied", key=key, dns=("b.example",)), token=token.value),
        "a name more": client.enroll(
            make_csr(common_name="varied", key=key, dns=("a.example", "b.example")), token=token.value
        ),
        "another subject": client.enroll(make_csr(common_name="other", key=key, dns=("a.example",)), token=token.value),
        "another key": client.enroll(make_csr(common_name="varied", dns=("a.example",)), token=token.value),
        "another label": client.enroll(csr, label="lab", token=token.value),
    }
    assert {what: refused(answer) for what, answer in others.items()} == dict.fromkeys(others, INVALID)
    assert fingerprint(client.enroll(csr, token=token.value)) == fingerprint(first)
    assert issued_for(server, token) == [fingerprint(first)]


def test_another_token_of_the_same_client_gets_a_certificate_of_its_own(server, client):
    """RULES D4: the token is part of what makes requests the same."""
    csr = make_csr(common_name="twice")
    tokens = [server.make_token("twice") for _ in range(2)]
    answers = [client.enroll(csr, token=token.value) for token in tokens]
    assert fingerprint(answers[0]) != fingerprint(answers[1])
    assert [uses(server, token) for token in tokens] == [(1, 0), (1, 0)]


def test_a_wrong_token_gets_no_certificate_with_anybodys_request(server, client):
    """RULES D1: who comes with a request that was overheard still needs the token."""
    token = server.make_token("overheard")
    csr = make_csr(common_name="overheard")
    assert client.enroll(csr, token=token.value).status == 200
    last = "a" if token.value[-1] != "a" else "b"
    for wrong in (token.value[:-1] + last, token.value[::-1], "0" * 20):
        assert refused(client.enroll(csr, token=wrong)) == INVALID
    assert client.enroll(csr).status == 401


def test_the_proof_of_possession_is_made_anew(server, client):
    """RFC 7030, 3.4: the request's signature is verified with every retry."""
    token = server.make_token("proving")
    key = make_key()
    assert client.enroll(make_csr(common_name="proving", key=key), token=token.value).status == 200
    forged = make_csr(common_name="proving", key=key, break_signature=True)
    assert client.enroll(forged, token=token.value).status == 400
    failed = server.wait_for_audit("certificate_refused", reason="proof_of_possession_failed")
    assert failed["identity"] == "otp:proving"


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_channel_binding_is_that_of_the_retrys_own_connection(server, version):
    """RULES D4, G1: challenge attributes make no other request, and each is verified where it comes."""
    token = server.make_token(f"bound-{version[-1]}")
    key = make_key()
    client = server.client(tls_version=version)

    def bound(binding, connection):
        csr = make_csr(common_name="bound", key=key, challenge_password=binding)
        return client.enroll(csr, token=token.value, connection=connection)

    with client.connect() as connection:
        stale = connection.channel_binding
        first = bound(stale, connection)
    with client.connect() as connection:
        assert bound(stale, connection).status == 400
    with client.connect() as connection:
        again = bound(connection.channel_binding, connection)
    unbound = client.enroll(make_csr(common_name="bound", key=key), token=token.value)
    assert fingerprint(again) == fingerprint(unbound) == fingerprint(first)
    replayed = server.wait_for_audit("certificate_replayed", fingerprint=fingerprint(first))
    assert replayed["data"]["channel_binding"] == ("tls-unique" if version == "TLSv1.2" else "tls-exporter")


# -- tokens with several uses ------------------------------------------------------------------------------------------


def test_of_a_token_with_several_uses_the_same_request_takes_one(server, client):
    """RULES D4: within the window the same request is a retry, not a second use; another one is a use."""
    token = server.make_token("batch", max_uses=3)
    requests = [make_csr(common_name="batch") for _ in range(3)]
    first = [fingerprint(client.enroll(csr, token=token.value)) for csr in requests for _ in range(3)]
    assert len(set(first)) == 3
    assert uses(server, token) == (3, 0)
    assert refused(client.enroll(make_csr(common_name="batch"), token=token.value)) == INVALID


@pytest.mark.parametrize("max_uses", [1, 3])
def test_twenty_times_the_same_request_at_once_is_one_certificate_and_one_use(server, max_uses):
    """Guarantees 2 and 3, over two workers: all are answered with the one certificate, some after they were told to come back."""
    token = server.make_token(f"eager-{max_uses}", max_uses=max_uses)
    csr = make_csr(common_name=token.client_id)
    barrier = threading.Barrier(20)
    found = []

    def ask():
        barrier.wait(30)
        found.append(persistently(lambda: server.client().enroll(csr, token=token.value)))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in found] == [200] * 20
    assert {fingerprint(answer) for answer in found} == set(issued_for(server, token))
    assert len(issued_for(server, token)) == 1
    assert uses(server, token) == (1, 0)


# -- client certificates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
def test_a_client_certificate_asks_for_its_lost_answer_too(server, operation):
    """RULES D4: the same certificate with the same request gets the same answer; with another key it renews again."""
    device = server.enrol(f"renewing-by-{operation}")
    client = server.client(device)
    csr = make_csr(device.subject)
    first, again = (client.enroll(csr, operation=operation) for _ in range(2))
    assert (first.status, again.status) == (200, 200), first.text
    assert fingerprint(again) == fingerprint(first)
    other = client.enroll(make_csr(device.subject), operation=operation)
    assert fingerprint(other) != fingerprint(first)
    both = {client.enroll(csr, operation=one).status for one in ("simpleenroll", "simplereenroll")}
    assert both == {200}


def test_another_operation_label_or_certificate_is_another_request(server):
    """RULES D4, by client certificate: each of these is answered with a certificate of its own."""
    device = server.enrol("moving")
    sibling = server.deployment.authority().issue_client(device.subject)
    csr = make_csr(device.subject)
    answers = [
        server.client(device).enroll(csr),
        server.client(device).reenroll(csr),
        server.client(device).enroll(csr, label="lab"),
        server.client(sibling).enroll(csr),
    ]
    assert [answer.status for answer in answers] == [200] * 4
    assert len({fingerprint(answer) for answer in answers}) == 4


def test_ten_renewals_at_once_with_one_request_are_one_certificate(server):
    """Nothing is held for a client certificate: who comes second is found out in the transaction that records."""
    device = server.enrol("hasty")
    csr = make_csr(device.subject)
    barrier = threading.Barrier(10)
    found = []

    def ask():
        with server.client(device).connect() as connection:
            barrier.wait(30)
            found.append(server.client().reenroll(csr, connection=connection))

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in found] == [200] * 10
    assert len({fingerprint(answer) for answer in found}) == 1
    assert (
        len(rows(server, "SELECT 1 FROM certificates WHERE subject = 'CN=hasty'")) == 2
    )  # the device's first, and this


def test_two_renewals_that_sign_at_the_same_time_are_one_certificate(stepwise):
    """The later one's signature is forgotten, and it answers with what the earlier one recorded."""
    device = stepwise.enrol("neck-and-neck")
    csr = make_csr(device.subject)
    gate = stepwise.stop_at("record")
    answers = []
    late = threading.Thread(target=lambda: answers.append(stepwise.client(device).reenroll(csr)))
    late.start()
    gate.wait()
    early = stepwise.client(device).reenroll(csr)
    gate.open()
    late.join(30)
    assert fingerprint(answers[0]) == fingerprint(early)
    assert stepwise.certificates_of("neck-and-neck") == [fingerprint(early)]


def test_two_uses_that_sign_at_the_same_time_are_one_use(stepwise):
    """Guarantee 2: of a token with several uses the one that was held in vain is given back."""
    token = stepwise.make_token("neck-and-neck-by-token", max_uses=3)
    csr = make_csr(common_name="x")
    gate = stepwise.stop_at("record")
    answers = []
    late = threading.Thread(target=lambda: answers.append(stepwise.client().enroll(csr, token=token)))
    late.start()
    gate.wait()
    early = stepwise.client().enroll(csr, token=token)
    gate.open()
    late.join(30)
    assert fingerprint(answers[0]) == fingerprint(early)
    assert stepwise.uses_of("neck-and-neck-by-token") == (1, 0)


def test_a_revoked_client_certificate_asks_for_nothing(server):
    """RULES B2: it is judged anew with every request."""
    device = server.enrol("stolen")
    csr = make_csr(device.subject)
    assert server.client(device).reenroll(csr).status == 200
    server.admin("POST", f"/admin/certificates/{fingerprint_of(device)}/revoke", {"reason": "superseded"})
    answer = server.client(device).reenroll(csr)
    assert refused(answer) == (403, "client certificate revoked")


def test_a_client_certificate_that_is_revoked_while_its_retry_is_under_way_gets_nothing(stepwise):
    """RULES B2: looked at once more in the transaction that writes the retry down."""
    token, key = stepwise.make_token("too-late"), make_key()
    first = stepwise.client().enroll(make_csr(common_name="too-late", key=key), token=token)
    device = Credential(key=key, der=first.certificate.public_bytes(Encoding.DER))
    csr = make_csr(device.subject)
    assert stepwise.client(device).reenroll(csr).status == 200
    gate = stepwise.stop_at("record")
    answers = []
    retry = threading.Thread(target=lambda: answers.append(stepwise.client(device).reenroll(csr)))
    retry.start()
    gate.wait()
    path = f"/admin/certificates/{fingerprint(first)}/revoke"
    assert stepwise.admin("POST", path, {"reason": "superseded"}).status == 200
    gate.open()
    retry.join(30)
    assert refused(answers[0]) == (403, "client certificate revoked")


def fingerprint_of(credential):
    return credential.certificate.fingerprint(hashes.SHA256()).hex()


# -- where it ends -----------------------------------------------------------------------------------------------------


def test_a_revoked_certificate_is_not_given_again(server, client):
    """RULES D4: the token is spent then, as without a window."""
    token = server.make_token("withdrawn")
    csr = make_csr(common_name="withdrawn")
    first = client.enroll(csr, token=token.value)
    revoked = server.admin("POST", f"/admin/certificates/{fingerprint(first)}/revoke", {"reason": "superseded"})
    assert revoked.status == 200
    assert refused(client.enroll(csr, token=token.value)) == INVALID
    assert issued_for(server, token) == [fingerprint(first)]


def test_a_revoked_token_asks_for_nothing(server, client):
    """RULES D4: revoking a token ends all that can be done with it."""
    token = server.make_token("recalled")
    csr = make_csr(common_name="recalled")
    assert client.enroll(csr, token=token.value).status == 200
    assert server.admin("DELETE", f"/admin/otp/{token.id}").status == 204
    assert refused(client.enroll(csr, token=token.value)) == INVALID


def test_without_a_window_a_token_is_good_once_and_a_renewal_is_a_renewal(server, client):
    """The chapter: single use. `replay_window = 0`, here of a label; it is what stands where nothing is written."""
    token = server.make_token("plain", label="strict")
    csr = make_csr(common_name="plain")
    assert client.enroll(csr, label="strict", token=token.value).status == 200
    assert refused(client.enroll(csr, label="strict", token=token.value)) == INVALID
    device = server.enrol("plain-device", label="strict")
    renewal = make_csr(device.subject)
    renewed = [server.client(device).reenroll(renewal, label="strict") for _ in range(2)]
    assert len({fingerprint(answer) for answer in renewed}) == 2
    assert rows(server, "SELECT 1 FROM enrolments WHERE label = 'strict' AND replay_sha256 IS NOT NULL") == []


def test_it_is_off_unless_it_is_written(kipuka_servers):
    """The default."""
    server = kipuka_servers()
    token = server.make_token()
    csr = make_csr()
    assert server.client().enroll(csr, token=token.value).status == 200
    assert refused(server.client().enroll(csr, token=token.value)) == INVALID


def test_a_window_that_is_opened_later_gives_nothing_again_that_was_issued_before(kipuka_servers):
    """What was issued under single use stays so; the next certificate can be asked for again, without a restart."""
    server = kipuka_servers()
    token = server.make_token("early", max_uses=1)
    csr = make_csr(common_name="early")
    assert server.client().enroll(csr, token=token.value).status == 200
    server.deployment.configure({"est": {"replay_window": WINDOW}})
    before = server.last_sequence
    server.reload()
    server.wait_for_audit("configuration_loaded", after=before)
    wait_until(lambda: _is_given_again(server), what="the window of the new configuration")
    assert refused(server.client().enroll(csr, token=token.value)) == INVALID


def _is_given_again(server):
    token = server.make_token("later")
    csr = make_csr(common_name="later")
    return {server.client().enroll(csr, token=token.value).status for _ in range(2)} == {200}


@pytest.fixture(scope="module")
def stepwise(kipuka_template, tmp_path_factory):
    deployment = kipuka_template.copy(tmp_path_factory.mktemp("stepwise") / "kipuka")
    deployment.configure({"otp": {"hash_algorithm": "sha256-hmac", "max_failures": 10000}, "est": ON["est"]})
    with InProcess(deployment) as server:
        yield server


class InProcess(InProcessServer):
    """The server that can be stopped at a step, and what its administrator asks."""

    def admin(self, method, path, body=None):
        headers = {"Authorization": bearer(self.deployment.admin_token), "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        return self.client().request(method, path, headers=headers, body=content)

    def make_token(self, name, **more):
        answer = self.admin("POST", "/admin/otp", {"client_id": name, **more})
        assert answer.status == 201, answer.text
        return json.loads(answer.body)["token"]

    def enrol(self, name):
        return self.deployment.authority().issue_client(name)

    def uses_of(self, name):
        (found,) = json.loads(self.admin("GET", f"/admin/otp?client_id={name}").body)["tokens"]
        return found["used"], found["held"]

    def certificates_of(self, name):
        listed = json.loads(self.admin("GET", f"/admin/certificates?subject=CN%3D{name}").body)["certificates"]
        return [found["id"] for found in listed if found["subject"] == f"CN={name}"]


@pytest.fixture
def timed(kipuka_template, tmp_path):
    """A server whose clock stands still, with certificates of 1200 seconds."""
    deployment = kipuka_template.copy(tmp_path / "kipuka")
    deployment.configure(
        {
            "otp": {"hash_algorithm": "sha256-hmac", "max_failures": 10000},
            "est": {"replay_window": WINDOW, "label": [{"name": "long", "replay_window": 5000}]},
            "profile": [{"name": "default", "validity_days": 1200 / 86400}],
        }
    )
    clock = FakeClock()
    with InProcess(deployment, clock=clock) as server:
        server.clock = clock
        yield server
    shutil.rmtree(deployment.directory)


@pytest.mark.parametrize(
    ("label", "last", "why"),
    [(None, WINDOW, "the window is over"), ("long", 1200, "the certificate has expired")],
    ids=["the window", "the certificate"],
)
def test_it_ends_with_the_window_or_with_the_certificate(timed, label, last, why):
    """RULES D4: counted from the issuing, by the server's clock; never longer than the certificate is valid."""
    more = {} if label is None else {"label": label}
    token = timed.make_token("timed", **more)
    csr = make_csr(common_name="timed")
    client = timed.client()
    first = client.enroll(csr, label=label, token=token)
    timed.clock.advance(last - 1)
    assert fingerprint(client.enroll(csr, label=label, token=token)) == fingerprint(first)
    timed.clock.advance(1)
    assert refused(client.enroll(csr, label=label, token=token)) == INVALID, why


def test_it_ends_when_the_token_expires(timed):
    """RULES D2, D4: past `expires_at` a token does nothing any more."""
    until = (timed.clock() + timedelta(seconds=60)).replace(microsecond=0)
    token = timed.make_token("brief", expires_at=until.isoformat().replace("+00:00", "Z"))
    csr = make_csr(common_name="brief")
    first = timed.client().enroll(csr, token=token)
    timed.clock.advance(30)
    assert fingerprint(timed.client().enroll(csr, token=token)) == fingerprint(first)
    timed.clock.advance(31)
    assert refused(timed.client().enroll(csr, token=token)) == INVALID


def test_after_the_window_a_request_is_new_and_can_be_lost_in_its_turn(timed):
    """A token with several uses: the same request is a second use then, and its answer the one that is given again."""
    token = timed.make_token("returning", max_uses=2)
    csr = make_csr(common_name="returning")
    first = fingerprint(timed.client().enroll(csr, token=token))
    timed.clock.advance(WINDOW)
    second = [fingerprint(timed.client().enroll(csr, token=token)) for _ in range(2)]
    assert second[0] == second[1] != first
    assert timed.uses_of("returning") == (2, 0)


# -- failures and the audit log ----------------------------------------------------------------------------------------


def test_a_retry_is_no_failure_and_a_spent_token_with_another_request_is(kipuka_servers):
    """RULES C4: retries never lock; the failure that exceeds locks, and then nothing is given again either."""
    server = kipuka_servers({"est": {"replay_window": WINDOW}, "otp": {"max_failures": 2}})
    token = server.make_token("counted")
    csr = make_csr(common_name="counted")
    client = server.client()
    assert [client.enroll(csr, token=token.value).status for _ in range(8)] == [200] * 8
    failures = [client.enroll(make_csr(common_name="counted"), token=token.value).status for _ in range(3)]
    assert failures == [401, 401, 429]
    assert client.enroll(csr, token=token.value).status == 429


def test_the_audit_log_tells_a_retry_from_an_issue(server, client):
    """One certificate_issued and one otp_used; each retry is a certificate_replayed that names the enrolment it repeats."""
    token = server.make_token("told")
    csr = make_csr(common_name="told")
    before = server.last_sequence
    first = client.enroll(csr, token=token.value)
    client.enroll(csr, token=token.value)
    replayed = server.wait_for_audit("certificate_replayed", after=before)
    issued = server.wait_for_audit("certificate_issued", after=before)
    assert replayed["outcome"] == "success"
    assert replayed["identity"] == issued["identity"] == "otp:told"
    assert replayed["data"]["first"] == issued["data"]["enrolment"]
    for member in ("fingerprint", "serial", "ca", "subject", "operation", "label", "method"):
        assert replayed["data"][member] == issued["data"][member]
    assert replayed["data"]["enrolment"] != issued["data"]["enrolment"]
    assert fingerprint(first) == replayed["data"]["fingerprint"]
    told = [record["event"] for record in server.audit() if record["sequence"] > before]
    assert (told.count("certificate_issued"), told.count("otp_used"), told.count("authentication_failed")) == (1, 1, 0)
    asked = server.wait_for_audit("certificate_requested", enrolment=replayed["data"]["enrolment"])
    assert asked["request_id"] == replayed["request_id"]
    server.deployment.kipuka("audit", "verify")


def test_a_failed_retry_that_was_none_is_told_as_a_spent_token(server, client):
    """The auditor sees which token it was; the client does not hear more than that it is invalid."""
    token = server.make_token("guessing")
    assert client.enroll(make_csr(common_name="guessing"), token=token.value).status == 200
    before = server.last_sequence
    assert refused(client.enroll(make_csr(common_name="guessing"), token=token.value)) == INVALID
    failed = server.wait_for_audit("authentication_failed", after=before)
    assert failed["data"]["reason"] == "token_spent"
    assert failed["data"]["subject_name"] == "guessing"
    assert not [record for record in server.audit("certificate_replayed") if record["sequence"] > before]


def test_whose_certificates_are_foreign_get_their_answer_again_too(kipuka_servers):
    """RULES B5: a certificate of another CA that may enrol here is as good a credential."""
    partner = make_root("Partner")
    server = kipuka_servers({"est": {"replay_window": WINDOW}}, start=False)
    (server.deployment.directory / "client-anchors.pem").write_bytes(partner.pem)
    server.start()
    device = partner.issue_client("partner-device")
    csr = make_csr(device.subject)
    first, again = (server.client(device).enroll(csr) for _ in range(2))
    assert first.status == 200, first.text
    assert fingerprint(again) == fingerprint(first)

"""Two nodes with two workers each, on one PostgreSQL: what one has recorded holds on the other with the next request."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from kipuka.testing import der
from kipuka.testing.client import basic, encode_body, est_path
from kipuka.testing.pki import Attribute, common_name, make_csr, make_key
from kipuka.testing.server import wait_until

from .cluster import Cluster
from .generated_keys import leaks, opened, public
from .load import use_in_parallel

pytestmark = [pytest.mark.server, pytest.mark.needs("postgres")]


LABELS = {
    "est": {
        "label": [
            {"name": "again", "replay_window": 600},
            {"name": "other", "replay_window": 600},
            {"name": "renaming", "profile": "renaming"},
        ]
    },
    "profile": [{"name": "default"}, {"name": "renaming", "change_subject_name": True}],
}


@pytest.fixture(scope="module")
def cluster(kipuka_postgresql, tmp_path_factory, kipuka_examine):
    with Cluster(kipuka_postgresql, tmp_path_factory.mktemp("cluster"), LABELS, examine=kipuka_examine) as cluster:
        yield cluster


def fingerprint(certificate):
    return certificate.fingerprint(hashes.SHA256()).hex()


def enrol(node, token, *, name=None):
    return node.client().enroll(make_csr(common_name=name or token.client_id), token=token.value)


def test_what_one_node_issued_the_other_knows_and_renews(cluster):
    device = cluster.alpha.enrol("printer-1")
    assert cluster.beta.recorded(device.certificate)["subject"] == "CN=printer-1"
    renewed = cluster.beta.client(device).reenroll(make_csr(device.subject))
    assert renewed.status == 200, renewed.text
    assert cluster.alpha.recorded(renewed.certificate) is not None


def test_a_certificate_revoked_on_one_node_is_refused_on_the_other_with_the_next_request(cluster):
    """Item 5: on a connection that was open, and good, before."""
    device = cluster.alpha.enrol("printer-2")
    with cluster.beta.client(device).connect() as connection:
        client = cluster.beta.client(device)
        good = client.reenroll(make_csr(device.subject), connection=connection)
        assert good.status == 200, good.text
        done = cluster.alpha.admin(
            "POST", f"/admin/certificates/{fingerprint(device.certificate)}/revoke", {"reason": "superseded"}
        )
        assert done.status == 200, done.text
        refused = client.reenroll(make_csr(device.subject), connection=connection)
    assert (refused.status, refused.text.strip()) == (403, "client certificate revoked")


def test_a_token_used_on_one_node_is_spent_on_the_other(cluster):
    token = cluster.alpha.make_token("printer-3")
    assert enrol(cluster.alpha, token).status == 200
    assert enrol(cluster.beta, token).status == 401
    assert cluster.beta.view_token(token)["used"] == 1


def test_an_address_locked_out_by_failures_on_both_nodes_is_locked_on_both(cluster):
    """RULES C4: the failures of all workers and nodes are one count, and the one that exceeds is answered so already."""
    good = cluster.alpha.make_token("printer-4")
    csr = make_csr(common_name=good.client_id)
    clients = [node.client().calling_from("127.0.4.1") for node in cluster.nodes]
    turns = itertools.islice(itertools.cycle(clients), 6)
    assert [client.enroll(csr, token="wrong-token-of-nobody").status for client in turns] == [401] * 5 + [429]
    for client in clients:
        answer = client.enroll(csr, token=good.value)
        assert answer.status == 429
        assert int(answer.header("Retry-After")) > 0
    cluster.alpha.deployment.kipuka("lockout", "release", "127.0.4.1")
    assert clients[1].enroll(csr, token=good.value).status == 200


def test_parallel_failures_on_both_nodes_are_each_counted_once(cluster):
    """RULES C4: of twenty at once exactly as many are let through as may fail."""
    csr = make_csr(common_name="x")
    before = cluster.rows("SELECT count(*) FROM audit_events WHERE event = 'locked_out'")[0][0]

    def fail(number):
        client = cluster.nodes[number % 2].client().calling_from("127.0.4.2")
        return client.enroll(csr, token=f"wrong-token-{number}").status

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(fail, range(20)))
    assert statuses.count(401) == 5
    assert statuses.count(429) == 15
    assert cluster.rows("SELECT count(*) FROM audit_events WHERE event = 'locked_out'") == [(before + 1,)]


@pytest.mark.slow
@pytest.mark.parametrize("uses", [1, 3, 10])
def test_of_two_hundred_parallel_uses_exactly_as_many_as_allowed_get_a_certificate(cluster, uses):
    """Guarantee 2: over two nodes with two workers each."""
    token = cluster.alpha.make_token(f"crowd-{uses}", max_uses=uses)
    clients = [cluster.nodes[number % 2].client().calling_from(f"127.1.{uses}.{number + 1}") for number in range(200)]
    answers = use_in_parallel(token, clients)
    assert {answer.status for answer in answers} == {200, 401}
    issued = {fingerprint(answer.certificate) for answer in answers if answer.status == 200}
    assert len(issued) == uses
    recorded = cluster.rows("SELECT fingerprint FROM certificates WHERE subject = %s", f"CN={token.client_id}")
    assert sorted(issued) == sorted(name for (name,) in recorded)
    assert cluster.rows("SELECT used, held FROM otp_tokens WHERE id = %s", token.id) == [(uses, 0)]
    events = "SELECT count(*) FROM audit_events WHERE event = 'certificate_issued' AND line LIKE %s"
    assert cluster.rows(events, f'%CN={token.client_id}"%') == [(uses,)]
    cluster.verify()


def test_one_key_for_two_names_at_once_is_certified_for_one(cluster):
    """RULES F5: each node alone would find nobody who has the key."""
    for turn in range(5):
        tokens = [node.make_token(f"twin-{turn}-{number}") for number, node in enumerate(cluster.nodes)]
        first = make_csr(common_name=tokens[0].client_id)
        second = make_csr(common_name=tokens[1].client_id, key=first.key)
        start = threading.Barrier(2)

        def ask(node, csr, token, start=start):
            with node.client().connect() as connection:
                start.wait(20)
                return node.client().enroll(csr, token=token.value, connection=connection).status

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(ask, cluster.nodes, (first, second), tokens))
        assert sorted(outcomes) == [200, 400]


def test_a_certificate_that_the_linter_faults_fails_the_cluster_that_has_it_in_its_record(
    kipuka_postgresql, tmp_path, kipuka_examine
):
    """RFC 5280, 4.2.2.1: authority information access is never critical."""
    cluster = Cluster(kipuka_postgresql, tmp_path, {"server": {"workers": 1}}, examine=kipuka_examine)
    where = x509.AccessDescription(
        x509.AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://ocsp.example")
    )
    access = x509.AuthorityInformationAccess([where])
    critical = x509.Extension(access.oid, True, access)
    bad = cluster.alpha.deployment.authority("main").issue("printer-9", extensions=(critical,)).der
    with pytest.raises(AssertionError, match="pkilint says"), cluster:
        cluster.beta.enrol("printer-9")
        cluster.rows("UPDATE certificates SET der = %s", bad)


# -- an approved change of names ---------------------------------------------------------------------------------------


def approve(cluster, device, subject):
    body = {"subject": subject, "until": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    answer = cluster.alpha.admin("POST", f"/admin/certificates/{fingerprint(device.certificate)}/name-change", body)
    assert answer.status == 200, answer.text


def rename_on_both(cluster, device, name, start):
    """The device asks both nodes for the approved name, each with a key of its own."""
    subject = common_name(name).public_bytes()
    asked = Attribute(oid="1.3.6.1.5.5.7.7.36", values=(der.sequence(subject),))

    def ask(node):
        csr, client = make_csr(device.subject, attributes=(asked,)), node.client(device)
        with client.connect() as connection:
            start.wait(20)
            return client.reenroll(csr, label="renaming", connection=connection)

    pool = ThreadPoolExecutor(2)
    return [pool.submit(ask, node) for node in cluster.nodes]


def issued_to(cluster, name):
    return [
        number for (number,) in cluster.rows("SELECT fingerprint FROM certificates WHERE subject = %s", f"CN={name}")
    ]


def test_an_approval_that_both_nodes_use_in_the_same_transactional_moment_is_good_once(cluster):
    """RULES F3: both have found it, both have signed, and both are about to record; one has it, and the other hears that it is used."""
    device = cluster.alpha.enrol("named-0", label="renaming")
    approve(cluster, device, "CN=named-1")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s AND query LIKE 'DELETE FROM name_changes%%'"
    name = cluster.postgresql.name
    with cluster.postgresql.transaction() as connection:
        connection.execute("SELECT * FROM name_changes FOR UPDATE")
        answers = rename_on_both(cluster, device, "named-1", threading.Barrier(2))
        wait_until(lambda: cluster.rows(waiting, name) == [(2,)], what="both nodes at the approval")
    heard = sorted((answer.result(30) for answer in answers), key=lambda answer: answer.status)
    assert [answer.status for answer in heard] == [200, 403]
    assert heard[1].text.strip() == "the change of names was approved once, and is used"
    assert issued_to(cluster, "named-1") == [fingerprint(heard[0].certificate)]
    assert cluster.rows("SELECT * FROM name_changes") == []
    cluster.verify()


def test_an_approval_that_is_asked_for_at_both_nodes_at_once_is_good_once(cluster):
    """RULES F3: however the two fall; who comes after the other is told what it may not have."""
    why = {"the change of names was approved once, and is used"}
    for turn in range(10):
        name = f"renamed-{turn}"
        device = cluster.alpha.enrol(f"first-{turn}", label="renaming")
        approve(cluster, device, f"CN={name}")
        why.add(f"the subject CN={name} is not permitted for CN=first-{turn} (rule names)")
        answers = [answer.result(30) for answer in rename_on_both(cluster, device, name, threading.Barrier(2))]
        issued = [fingerprint(answer.certificate) for answer in answers if answer.status == 200]
        refused = [(answer.status, answer.text.strip() in why) for answer in answers if answer.status != 200]
        assert (len(issued), refused) == (1, [(403, True)]), [answer.text for answer in answers]
        assert issued_to(cluster, name) == issued
    cluster.verify()


def test_an_approval_of_one_node_is_withdrawn_at_the_other_and_deleted_when_it_has_ended(cluster):
    """RULES F3: PostgreSQL as SQLite."""
    device, late = (cluster.alpha.enrol(name, label="renaming") for name in ("kept", "late"))
    for one in (device, late):
        approve(cluster, one, "CN=other")
    answers = [
        cluster.beta.admin("DELETE", f"/admin/certificates/{fingerprint(device.certificate)}/name-change").status
        for _ in range(2)
    ]
    assert answers == [204, 404]
    assert cluster.rows("SELECT certificate FROM name_changes") == [(fingerprint(late.certificate),)]
    answers = [answer.result(30) for answer in rename_on_both(cluster, device, "other", threading.Barrier(2))]
    assert [answer.status for answer in answers] == [403, 403]
    cluster.rows("UPDATE name_changes SET until = '2020-01-01T00:00:00.000000Z'")
    wait_until(lambda: not cluster.rows("SELECT * FROM name_changes"), timeout=60, what="the end of what has ended")
    cluster.verify()


# -- a lost answer -----------------------------------------------------------------------------------------------------


def again(node, csr, token, label="again", address="127.0.0.1"):
    """What a device does at the other node: asks again while it is told to come back."""
    while True:
        answer = node.client().calling_from(address).enroll(csr, label=label, token=token.value)
        if answer.status != 503:
            return answer


def lose(node, csr, token, moment):
    """Send the request, and leave: at once, or when it was answered and nobody has read it."""
    headers = {"Content-Type": "application/pkcs10", "Authorization": basic(token.value)}
    target = est_path("simpleenroll", label="again")
    with node.client().connect() as connection:
        body = encode_body(csr.der, "64-lf")
        connection.send(connection.format_request("POST", target, headers=headers, body=body))
        if moment == "recorded":
            node.wait_for_audit("certificate_issued", subject=f"CN={token.client_id}")
        connection.abort()


@pytest.mark.parametrize("moment", ["sent", "recorded"])
def test_the_answer_that_one_node_lost_the_other_gives(cluster, moment):
    """Guarantee 3, RULES D4: one certificate and one use, whichever node is asked again."""
    for first, second in (cluster.nodes, cluster.nodes[::-1]):
        token = cluster.alpha.make_token(f"lost-{moment}-{first.port}", label="again")
        csr = make_csr(common_name=token.client_id)
        lose(first, csr, token, moment)
        answer = again(second, csr, token)
        assert answer.status == 200, answer.text
        recorded = cluster.rows("SELECT fingerprint FROM certificates WHERE subject = %s", f"CN={token.client_id}")
        assert recorded == [(fingerprint(answer.certificate),)]
        assert cluster.rows("SELECT used, held FROM otp_tokens WHERE id = %s", token.id) == [(1, 0)]
        if moment == "recorded":
            second.wait_for_audit("certificate_replayed", fingerprint=fingerprint(answer.certificate))
    cluster.verify()


def test_two_retries_at_once_on_two_nodes_are_one_certificate(cluster):
    """RULES D4: with the first request still under way or not, and with uses left or not."""
    for turn in range(6):
        token = cluster.alpha.make_token(f"hasty-{turn}", label="again", max_uses=1 + turn % 2)
        csr = make_csr(common_name=token.client_id)
        lose(cluster.nodes[turn % 2], csr, token, "sent")
        start = threading.Barrier(2)

        def ask(node, csr=csr, token=token, start=start):
            start.wait(20)
            return again(node, csr, token)

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(ask, cluster.nodes))
        assert [answer.status for answer in answers] == [200, 200]
        recorded = cluster.rows("SELECT fingerprint FROM certificates WHERE subject = %s", f"CN={token.client_id}")
        assert {fingerprint(answer.certificate) for answer in answers} == {name for (name,) in recorded}
        assert len(recorded) == 1
        # whose answer was lost may be the last to end, and gives its use back only then
        uses = partial(cluster.rows, "SELECT used, held FROM otp_tokens WHERE id = %s", token.id)
        wait_until(lambda uses=uses: uses() == [(1, 0)], what="one use, and none held")


def test_another_request_gets_nothing_from_the_other_node(cluster):
    """RULES D4: another key, another name, another label."""
    token = cluster.alpha.make_token("sly", label="again")
    key = make_key()
    csr = make_csr(common_name="sly", key=key)
    assert again(cluster.alpha, csr, token).status == 200
    others = (
        (make_csr(common_name="sly"), "again"),
        (make_csr(common_name="sly", key=key, dns=["sly.example"]), "again"),
        (csr, "other"),
        (csr, None),
    )
    for other, label in others:
        answer = again(cluster.beta, other, token, label, address="127.0.4.3")
        assert (answer.status, answer.text.strip()) == (401, "invalid OTP token"), label


# -- a private key that was made for a lost answer -----------------------------------------------------------------------

IN_USE = (503, "the OTP token is in use by another request", "1")
OVERTAKEN = (503, "the certificate that this request led to is no longer to be had, try again", "1")


def ask_for_key(node, csr, token, start):
    """What a device hears that asks for a key, and asks again as long as it is told to come back: the refusals, and the answer."""
    client, refusals = node.client(), []
    with client.connect() as connection:
        start.wait(20)
        while True:
            answer = client.enroll(
                csr, operation="serverkeygen", label="again", token=token.value, connection=connection
            )
            if answer.status != 503:
                return refusals, answer
            refusals.append((answer.status, answer.text.strip(), answer.header("Retry-After")))


def keys_made_at_once(cluster, token, *, times=1):
    """The same request at both nodes in the same moment, so many times: the refusals, and key, key and certificate of each answer."""
    csr = make_csr(common_name=token.client_id)
    refusals, found = [], []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(times):
            start = threading.Barrier(2)
            for heard, answer in pool.map(partial(ask_for_key, csr=csr, token=token, start=start), cluster.nodes):
                refusals += heard
                found.append(opened(answer))
    return refusals, found


@pytest.mark.parametrize("uses", [1, 2])
def test_one_request_for_a_key_at_both_nodes_at_once_leaves_one_good_certificate_for_one_use(cluster, uses):
    """RULES D4, J1: no key is kept, so that each answer has a certificate of its own key, and the one before is revoked for it."""
    refusals = []
    for turn in range(8):
        token = cluster.alpha.make_token(f"keyless-{uses}-{turn}", label="again", max_uses=uses)
        heard, found = keys_made_at_once(cluster, token, times=1 + turn % 2)
        refusals += heard
        for _, key, certificate in found:
            assert public(key.public_key()) == public(certificate.public_key())
            assert certificate.subject.rfc4514_string() == f"CN={token.client_id}"
        recorded = cluster.rows(
            "SELECT fingerprint, state, revocation_reason FROM certificates WHERE subject = %s", f"CN={token.client_id}"
        )
        assert sorted(name for name, _, _ in recorded) == sorted(
            fingerprint(certificate) for _, _, certificate in found
        )
        states = sorted((state, reason) for _, state, reason in recorded)
        assert states == [("revoked", "superseded")] * (len(found) - 1) + [("valid", None)]
        assert cluster.rows("SELECT used, held FROM otp_tokens WHERE id = %s", token.id) == [(1, 0)]
    assert set(refusals) <= {IN_USE, OVERTAKEN}, "who loses is told to come back, and why"
    assert uses == 1 or IN_USE not in refusals, "there was a second use"
    cluster.verify()


def test_of_keys_that_two_nodes_made_at_once_none_is_left_anywhere(cluster, kipuka_postgresql):
    """RULES J1: not in the tables nor in the files of PostgreSQL, which have what was deleted too, nor in those of the nodes."""
    found = []
    for turn in range(2):
        found += keys_made_at_once(cluster, cluster.alpha.make_token(f"forgotten-{turn}", label="again"))[1]
    cluster.rows("CHECKPOINT")
    folders = [kipuka_postgresql.socket_folder, *(node.deployment.directory.parent for node in cluster.nodes)]
    files = {file for folder in folders for file in folder.rglob("*") if file.is_file()}
    places = {str(file): file.read_bytes() for file in files}
    held = [certificate.serial_number.to_bytes(20).lstrip(b"\0") for _, _, certificate in found]
    for serial in held:
        assert any(serial in content for content in places.values()), "what is recorded is found by such a search"
    assert leaks([(octets, key) for octets, key, _ in found], places) == []


# -- a request that waits at the CA ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waiting(kipuka_postgresql, tmp_path_factory, site, kipuka_examine):
    """Two nodes, each in one process, whose remote CA promises to decide: it does so by what is in a file."""
    changes = {
        "server": {"workers": 1},
        "ca": [
            {"id": "forge", "backend": "smithy"},
            {"id": "far", "backend": "faraway", "behave_file": "behave"},
        ],
        "est": {"default_ca": "forge", "label": [{"name": "far", "ca": "far"}]},
    }
    folder = tmp_path_factory.mktemp("waiting")
    environ = site("badge_and_smithy")
    with Cluster(kipuka_postgresql, folder, changes, examine=kipuka_examine, environ=environ) as cluster:
        yield cluster


def test_what_waits_at_the_ca_by_one_node_waits_on_the_other_too(waiting):
    """RFC 7030, 4.2.3: the same request is the same order on every node, and its use is held there as well."""
    for node in waiting.nodes:
        (node.deployment.directory / "behave").write_text("pending")
    token = waiting.alpha.make_token("patient", label="far")
    csr = make_csr(common_name="patient")
    for node in (*waiting.nodes, *waiting.nodes):
        answer = node.client().enroll(csr, label="far", token=token.value)
        assert (answer.status, answer.header("Retry-After"), answer.body) == (202, "7", b"")
    other = waiting.beta.client().enroll(make_csr(common_name="patient"), label="far", token=token.value)
    assert (other.status, other.text.strip()) == (503, "the OTP token is in use by another request")
    assert waiting.rows("SELECT node, state FROM enrolments WHERE claim_ref = %s", token.id) == [("alpha", "pending")]
    for node in waiting.nodes:
        (node.deployment.directory / "behave").write_text("sign")
    issued = waiting.alpha.client().enroll(csr, label="far", token=token.value)
    assert issued.status == 200, issued.text
    assert waiting.beta.recorded(issued.certificate) is not None
    spent = waiting.beta.client().enroll(csr, label="far", token=token.value)
    assert (spent.status, spent.text.strip()) == (401, "invalid OTP token")
    waiting.verify()


# -- under load --------------------------------------------------------------------------------------------------------


class Steady:
    """Clients on both nodes that enrol without end, each with a token of its own."""

    def __init__(self, cluster, tokens):
        self._cluster = cluster
        self._tokens = iter(tokens)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.received = []
        self.tried = []
        self.statuses = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(6)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def _run(self, number):
        client = self._cluster.nodes[number % 2].client().calling_from(f"127.2.0.{number + 1}")
        while not self._over.is_set():
            with self._lock:
                token = next(self._tokens, None)
                if token is None:
                    return
                self.tried.append(token)
            csr = make_csr(common_name=token.client_id)
            for _ in range(10):
                answer = client.enroll(csr, token=token.value)
                self.statuses.append(answer.status)
                if answer.status == 200:
                    self.received.append((token, answer.certificate))
                if answer.status != 503:
                    break  # 401: it was spent by an answer that could not be given
                assert int(answer.header("Retry-After")) > 0
                time.sleep(0.2)


def account_for(cluster, load):
    """Guarantees 1 and 2, by what clients hold and what the database says."""
    for token, certificate in load.received:
        ((subject,),) = cluster.rows(
            "SELECT subject FROM certificates WHERE fingerprint = %s", fingerprint(certificate)
        )
        assert subject == f"CN={token.client_id}"
    for token in load.tried:
        count = "SELECT count(*) FROM certificates WHERE subject = %s"
        ((issued,),) = cluster.rows(count, f"CN={token.client_id}")
        ((used,),) = cluster.rows("SELECT used FROM otp_tokens WHERE id = %s", token.id)
        assert issued == used <= 1, token
    cluster.verify()


@pytest.mark.crash
@pytest.mark.slow
def test_postgresql_killed_under_load_is_503_and_comes_back_by_itself(cluster, kipuka_postgresql):
    """Guarantees 1 and 2, and no restart of kipuka."""
    tokens = [cluster.alpha.make_token(f"load-{number}") for number in range(500)]
    with Steady(cluster, tokens) as load:
        for _ in range(2):
            wait_until(partial(_has, load, len(load.received) + 15), timeout=60, what="some certificates")
            kipuka_postgresql.kill()
            unavailable = load.statuses.count(503)
            wait_until(
                partial(_has_answered, load, 503, unavailable + 6), timeout=60, what="answers without a database"
            )
            kipuka_postgresql.start()
        wait_until(partial(_has, load, len(load.received) + 15), timeout=60, what="certificates again")
    assert set(load.statuses) <= {200, 503, 401}
    assert load.statuses.count(401) <= 2 * 6  # at most what was in flight
    account_for(cluster, load)
    for node in cluster.nodes:
        assert node.enrol(f"afterwards-{node.port}").certificate is not None


@pytest.mark.crash
def test_writers_whose_backends_are_terminated_under_load_lose_nothing(cluster):
    """A lost connection is a new one and the same work again: no client notices, unless it was the COMMIT and it is unknown."""
    tokens = [cluster.alpha.make_token(f"cut-{number}") for number in range(500)]
    with Steady(cluster, tokens) as load:
        for _ in range(8):
            enough = len(load.received) + 8
            wait_until(partial(_has, load, enough), timeout=60, what="some certificates")
            cluster.postgresql.terminate_backends("kipuka % writer")
    assert load.statuses.count(503) <= 8  # those cut while they connected
    account_for(cluster, load)


def _has(load, count):
    return len(load.received) >= count


def _has_answered(load, status, count):
    return load.statuses.count(status) >= count


def test_a_second_server_of_a_name_is_refused_also_on_another_machine(cluster, tmp_path):
    copy = cluster.alpha.deployment.copy(tmp_path / "copy")
    done = copy.kipuka("serve", "-c", str(copy.config_file), expect=4)
    assert "another kipuka server with [server] node = 'alpha' works on the PostgreSQL database" in done.stderr
    assert cluster.alpha.client().cacerts().status == 200
    assert enrol(cluster.alpha, cluster.alpha.make_token("after-the-second")).status == 200


def test_a_server_that_was_followed_answers_503_and_issues_nothing(cluster):
    """The database lost sight of it, as when its machine was cut off: another one has taken its name."""
    token = cluster.beta.make_token("late", max_uses=2)
    cluster.rows("UPDATE nodes SET run = 'another' WHERE name = 'alpha'")
    cluster.rows("DELETE FROM writers WHERE node = 'alpha'")
    before = cluster.rows("SELECT sequence FROM audit_heads WHERE node = 'alpha'")
    for _ in range(4):
        answer = enrol(cluster.alpha, token)
        assert answer.status == 503
    assert cluster.rows("SELECT sequence FROM audit_heads WHERE node = 'alpha'") == before
    assert "node_lost" in cluster.alpha.stderr
    assert enrol(cluster.beta, token).status == 200
    cluster.alpha.restart()
    assert enrol(cluster.alpha, token).status == 200


def test_what_a_killed_node_held_is_given_back(cluster):
    """A node that is started again settles at once what its earlier run has left."""
    token = cluster.beta.make_token("orphan")
    cluster.alpha.kill()
    boot = "0" * 16
    cluster.rows(
        "INSERT INTO enrolments (id, state, operation, method, identity_name, claim_plugin, claim_ref, ca, profile,"
        " request_sha256, csr, node, process, lease_until, created_at) VALUES (%s, 'reserved', 'simpleenroll', 'otp',"
        " 'orphan', 'otp', %s, 'main', 'default', '00', '', 'alpha', %s, '2999-01-01T00:00:00.000000Z',"
        " '2026-01-01T00:00:00.000000Z')",
        "orphan",
        token.id,
        f"{boot}/0/0",
    )
    cluster.rows("UPDATE otp_tokens SET held = 1 WHERE id = %s", token.id)
    assert enrol(cluster.beta, token).status == 503
    cluster.alpha.start()
    assert enrol(cluster.beta, token).status == 200
    assert cluster.rows("SELECT state FROM enrolments WHERE id = 'orphan'") == [("failed",)]


def test_a_living_node_gives_back_what_a_dead_one_held_when_its_lease_is_over(cluster):
    for node in cluster.nodes:
        node.wait_for_workers(2)  # one that starts would look by itself
    token = cluster.beta.make_token("heirless")
    cluster.rows(
        "INSERT INTO enrolments (id, state, operation, method, identity_name, claim_plugin, claim_ref, ca, profile,"
        " request_sha256, csr, node, process, lease_until, created_at) VALUES ('heirless', 'reserved', 'simpleenroll', 'otp',"
        " 'heirless', 'otp', %s, 'main', 'default', '00', '', 'gamma', 'ff/0/0', '2020-01-01T00:00:00.000000Z',"
        " '2020-01-01T00:00:00.000000Z')",
        token.id,
    )
    cluster.rows("UPDATE otp_tokens SET held = 1 WHERE id = %s", token.id)
    wait_until(lambda: cluster.beta.view_token(token)["held"] == 0, timeout=60, what="recovery by another node")
    assert enrol(cluster.beta, token).status == 200

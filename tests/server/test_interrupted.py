"""A client that leaves, and a fault, before and after each named step of an enrolment: the token is still good or a
certificate is recorded, never neither (DESIGN, the way of one request; guarantees 1 and 2)."""

from __future__ import annotations

import json
import threading

import pytest

from kipuka.api.errors import BackendUnavailable
from kipuka.testing.client import basic, bearer, encode_body
from kipuka.testing.inprocess import STEPS, InProcessServer
from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until

pytestmark = pytest.mark.server

ENROLL = "/.well-known/est/simpleenroll"


@pytest.fixture(scope="module")
def server(kipuka_template, tmp_path_factory):
    deployment = kipuka_template.copy(tmp_path_factory.mktemp("interrupted") / "kipuka")
    deployment.configure({"otp": {"hash_algorithm": "sha256-hmac", "max_failures": 10000}})
    with InProcessServer(deployment) as server:
        yield server


def admin(server, method, path, body=None):
    headers = {"Authorization": bearer(server.deployment.admin_token), "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    return server.client().request(method, path, headers=headers, body=content)


def make_token(server, name):
    answer = admin(server, "POST", "/admin/otp", {"client_id": name})
    assert answer.status == 201, answer.text
    return json.loads(answer.body)["token"], answer.header("Location")


def uses(server, location):
    view = json.loads(admin(server, "GET", location).body)
    return view["used"], view["held"]


def certificates_of(server, name):
    found = json.loads(admin(server, "GET", f"/admin/certificates?subject=CN%3D{name}").body)
    return found["certificates"]


def settled(server, location):
    """Wait until no use is held any more, and say whether the token was spent."""
    wait_until(lambda: uses(server, location)[1] == 0, what="the end of the enrolment")
    return uses(server, location)[0] == 1


def send(server, connection, token, csr):
    headers = {"Content-Type": "application/pkcs10", "Authorization": basic(token)}
    body = encode_body(csr.der, "64-lf")
    connection.send(connection.format_request("POST", ENROLL, headers=headers, body=body))


@pytest.mark.parametrize("leave", ["abort", "close"])
@pytest.mark.parametrize("step", STEPS)
def test_a_client_that_leaves_at_a_step_loses_nothing(server, step, leave):
    """The client is gone while the server stands before the step, which is after the step before it."""
    name = f"left-at-{step.replace('_', '-')}-by-{leave}"
    token, location = make_token(server, name)
    gate = server.stop_at(step)
    with server.client().connect() as connection:
        send(server, connection, token, make_csr(common_name=name))
        gate.wait()
        connection.abort() if leave == "abort" else connection.close()
        gate.open()
    server.come_to_rest()
    if STEPS.index(step) > STEPS.index("reserve"):
        # From the reservation on the enrolment is not the client's any more: it comes to its end.
        wait_until(lambda: certificates_of(server, name), what="the certificate")
    spent = settled(server, location)
    recorded = certificates_of(server, name)
    assert spent == (len(recorded) == 1)
    if not spent:
        again = server.client().enroll(make_csr(common_name=name), token=token)
        assert again.status == 200, again.text


def test_a_client_that_leaves_after_the_answer_was_begun_has_spent_its_token(server):
    """After the last step: the certificate is in the record, though the client never read it."""
    token, location = make_token(server, "left-at-the-end")
    with server.client().connect() as connection:
        send(server, connection, token, make_csr())
        connection.receive()
        connection.abort()
    assert settled(server, location)
    assert len(certificates_of(server, "left-at-the-end")) == 1


def test_the_steps_come_in_the_order_of_the_page(server):
    """docs/explanation/enrolment-cycle.md: one direction, no way back."""
    token, _ = make_token(server, "in-order")
    server.steps.clear()
    assert server.client().enroll(make_csr(), token=token).status == 200
    assert tuple(server.steps) == STEPS


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["expected", "unexpected"])
def test_a_fault_at_a_step_spends_nothing_that_is_not_recorded(server, step, fault):
    """RULES C2: a reservation is given back on every fault after it."""
    name = f"{fault}-fault-at-{step.replace('_', '-')}"
    token, location = make_token(server, name)
    gate = server.stop_at(step)
    answers = []

    def enrol():
        answers.append(server.client().enroll(make_csr(common_name=name), token=token))

    client = threading.Thread(target=enrol)
    client.start()
    gate.wait()
    gate.fail(BackendUnavailable("not now") if fault == "expected" else RuntimeError("nobody expected this"))
    client.join(30)
    (answer,) = answers
    assert answer.status == (503 if fault == "expected" else 500)
    assert "nobody expected this" not in answer.text
    spent = settled(server, location)
    assert spent == (len(certificates_of(server, name)) == 1)
    assert spent == (step == "answer")
    if not spent:
        assert server.client().enroll(make_csr(common_name=name), token=token).status == 200


def test_stopping_waits_for_an_enrolment_whose_client_has_left(kipuka_template, tmp_path):
    """DESIGN: the task is tracked, and shutdown waits for it."""
    deployment = kipuka_template.copy(tmp_path / "kipuka")
    deployment.configure({"otp": {"hash_algorithm": "sha256-hmac"}})
    with InProcessServer(deployment) as server:
        token, _ = make_token(server, "late")
        gate = server.stop_at("sign")
        with server.client().connect() as connection:
            send(server, connection, token, make_csr())
            gate.wait()
            connection.abort()
        # leaving the block stops the server while the enrolment stands before its signature; the exit opens the gate
    shown = deployment.kipuka("cert", "list", "--json")
    assert "CN=late" in shown.stdout
    deployment.kipuka("audit", "verify")

"""Who is let in: the modes of `[tls.client_auth]` and `[admin.tls]`, the listeners, what is asked for and what is presented.

One table over real TLS. What each cell must be is worked out by `expected`, which is written from the rules and the
authentication chapter, in their words and order, and knows nothing of the server's code.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.client import basic, bearer, encode_body, est_path
from kipuka.testing.inprocess import InProcessServer
from kipuka.testing.pki import Credential, make_csr, make_root
from kipuka.testing.server import free_port

pytestmark = pytest.mark.server

EST_MODES = ("required", "optional", "required_for_reenroll", "none")
ADMIN_MODES = ("required", "optional", "none")
ENDPOINTS = ("cacerts", "simpleenroll", "simplereenroll", "otp")
CREDENTIALS = {
    # name: certificate, Authorization
    "nothing": (None, None),
    "token": (None, "token"),
    "bearer": (None, "bearer"),
    "EST certificate": ("est", None),
    "admin certificate": ("admin", None),
    "foreign certificate": ("foreign", None),
    "EST certificate + bearer": ("est", "bearer"),
    "admin certificate + token": ("admin", "token"),
    # beyond the pairs that tell the purposes apart: what mode = "required" of [admin.tls] asks for
    "admin certificate + bearer": ("admin", "bearer"),
}

UNKNOWN = "certificate signed by unknown authority"
REQUIRED = "client certificate required"
BOTH_REQUIRED = (
    'client certificate required: [admin.tls] mode = "required" asks for a certificate and a bearer token, '
    'mode = "optional" for either'
)


@dataclass(frozen=True)
class Answer:
    """How a request must end: with a status, a text (None: it is no error), and one challenge or none.

    Status 0: the handshake fails, no byte of HTTP arrives.
    """

    status: int
    text: str | None = None
    challenge: str | None = None


HANDSHAKE_FAILS = Answer(0)


@dataclass(frozen=True)
class Modes:
    """How a server is configured, with one-time passwords and bearer tokens on."""

    est: str
    admin: str
    own_listener: bool

    def __str__(self):
        return f"{self.est}, admin {self.admin}, {'two listeners' if self.own_listener else 'one listener'}"


def expected(modes, endpoint, certificate, proof):
    """The rules."""
    est_is_served = not modes.own_listener or endpoint != "otp"
    admin_is_served = not modes.own_listener or endpoint == "otp"

    # A1: a listener asks for a certificate if EST or admin on it may use one; what nobody asks for is not presented
    useful = set()
    if est_is_served and modes.est != "none":
        useful.add("est")
    if admin_is_served and modes.admin != "none":
        useful.add("admin")
    if not useful:
        certificate = None

    # A2: in EST's mode required the handshake fails without one that an anchor served there signed; so it does in the
    # admin mode required, where the listener is admin's own
    demanded = modes.est == "required" if est_is_served else modes.admin == "required"
    if demanded and certificate not in useful:
        return HANDSHAKE_FAILS
    match endpoint:
        case "cacerts":  # the endpoint table: public
            return Answer(200)
        case "otp":
            return expected_of_admin(modes.admin, certificate, proof)
        case _:
            return expected_of_est(modes.est, endpoint, certificate, proof)


def expected_of_est(mode, endpoint, certificate, proof):
    """A1: judged by EST's anchors alone; A5: in mode none not at all."""
    good = mode != "none" and certificate == "est"
    bad = mode != "none" and certificate in {"admin", "foreign"}
    if good:
        return Answer(200)
    if endpoint == "simplereenroll":  # the endpoint table: mTLS required; C3: 403, no challenge
        return Answer(403, UNKNOWN if bad else REQUIRED)
    if bad and mode == "required":  # A2: a 403 with its text, whatever else is presented
        return Answer(403, UNKNOWN)
    if proof == "token":  # A3: the next method may win
        return Answer(200)
    return Answer(401, UNKNOWN if bad else "", "Basic")  # C3


def expected_of_admin(mode, certificate, proof):
    """A1: judged by the admin anchors alone; E1."""
    good = mode != "none" and certificate == "admin"
    bad = mode != "none" and certificate in {"est", "foreign"}
    if mode == "required":  # a certificate, and a bearer too where bearer tokens are on
        if bad:
            return Answer(403, UNKNOWN)
        if not good:
            return Answer(403, BOTH_REQUIRED)
    if proof == "bearer" or (good and mode == "optional"):  # optional: either suffices; none: bearer only
        return Answer(201)
    if bad:
        return Answer(401, UNKNOWN, "Bearer")
    if proof == "token":
        return Answer(401, "the admin interface takes bearer tokens only", "Bearer")
    either = "client certificate or a " if mode == "optional" else ""
    return Answer(401, f"a {either}bearer token is required", "Bearer")


@dataclass(frozen=True)
class World:
    """A deployment to copy, and who comes to its server: an enrolled device, an administrator, a stranger."""

    deployment: object
    certificates: dict
    token: str


@pytest.fixture(scope="module")
def world(kipuka_template, tmp_path_factory):
    deployment = kipuka_template.copy(tmp_path_factory.mktemp("who") / "template")
    deployment.configure({"otp": {"hash_algorithm": "sha256-hmac"}})
    administrators = make_root("Administrators")
    (deployment.directory / "admin-anchors.pem").write_bytes(administrators.pem)
    made = deployment.kipuka("otp", "create", "--client-id", "device-1", "--max-uses", "1000", "--json")
    token = json.loads(made.stdout)["token"]
    request = make_csr(common_name="device-1")
    with InProcessServer(deployment) as server:
        # enrolled, not only signed: required_for_reenroll wants a certificate that this server has recorded
        issued = server.client().enroll(request, token=token).certificate
    device = Credential(key=request.key, der=issued.public_bytes(Encoding.DER))
    certificates = {
        "est": device,
        "admin": administrators.issue_client("alice"),
        "foreign": make_root("Foreign").issue_client("device-1"),
    }
    return World(deployment=deployment, certificates=certificates, token=token)


def ask(world, client, endpoint, proof):
    """The answer to one request on a connection of its own, and None where no handshake came to its end."""
    authorization = {
        None: None,
        "token": basic(world.token),
        "bearer": bearer(world.deployment.admin_token),
    }[proof]
    headers = {} if authorization is None else {"Authorization": authorization}
    # the device's own key and name: what its certificate, and a token for it, may have
    csr = make_csr(common_name="device-1", key=world.certificates["est"].key)
    try:
        if endpoint == "cacerts":
            return client.request("GET", est_path(endpoint), headers=headers)
        if endpoint == "otp":
            headers["Content-Type"] = "application/json"
            return client.request("POST", "/admin/otp", headers=headers, body=b'{"client_id": "device-2"}')
        headers["Content-Type"] = "application/pkcs10"
        return client.request("POST", est_path(endpoint), headers=headers, body=encode_body(csr.der, "64-lf"))
    except ConnectionError:
        return None


def differences(answer, wanted):
    """What of the answer is not as the rules want it."""
    if answer is None or wanted == HANDSHAKE_FAILS:
        return [] if answer is None and wanted == HANDSHAKE_FAILS else ["the handshake"]
    found = []
    if answer.status != wanted.status:
        found.append(f"status {answer.status} {answer.text[:80]}, not {wanted.status}")
    challenges = [value.split()[0] for value in answer.all("WWW-Authenticate")]
    if challenges != ([] if wanted.challenge is None else [wanted.challenge]):
        found.append(f"challenges {challenges}, not {wanted.challenge}")
    if wanted.text is not None and text_of(answer) != wanted.text:
        found.append(f"text {text_of(answer)!r}, not {wanted.text!r}")
    return found


def text_of(answer):
    """The sentence: EST sends it as it is, the admin interface as a member of a JSON document."""
    is_json = answer.header("Content-Type") == "application/json"
    return json.loads(answer.body)["detail"] if is_json else answer.text


ALL_MODES = [Modes(*modes) for modes in itertools.product(EST_MODES, ADMIN_MODES, (False, True))]


@pytest.mark.parametrize("modes", ALL_MODES, ids=str)
def test_everybody_is_let_in_or_turned_away_as_the_rules_say(world, tmp_path, modes):
    """RULES A1 to A5, C3 and E1: admin and EST anchors never stand in for each other."""
    deployment = world.deployment.copy(tmp_path / "kipuka")
    admin_port = free_port() if modes.own_listener else deployment.port
    deployment.configure(
        {
            "server": {"admin_listen": f"127.0.0.1:{admin_port}" if modes.own_listener else None},
            "tls": {"client_auth": {"mode": modes.est}},
            "admin": {"tls": {"mode": modes.admin, "trust_anchors": "admin-anchors.pem"}},
        }
    )
    wrong = {}
    with InProcessServer(deployment) as server:
        for endpoint, (name, (certificate, proof)) in itertools.product(ENDPOINTS, CREDENTIALS.items()):
            client = server.client(world.certificates.get(certificate))
            if endpoint == "otp":
                client = replace(client, port=admin_port)
            found = differences(ask(world, client, endpoint, proof), expected(modes, endpoint, certificate, proof))
            if found:
                wrong[endpoint, name] = found
    assert wrong == {}

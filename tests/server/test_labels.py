"""Labels of one server are strangers to each other, and each says what it asks of its clients (RFC 7030, 3.2.2; RULES B5, C1, C3, D3)."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.distinguished_names import format_dn
from kipuka.testing.pki import Credential, common_name, make_csr, make_root

pytestmark = pytest.mark.server

MAKER = make_root("Maker")
PLACES = (None, "red", "blue")
"""The path without a label, and two labels: each with a CA, anchors and a profile of its own."""

UNKNOWN = "certificate signed by unknown authority"
NO_TOKEN = "invalid OTP token"
REQUIRED = "client certificate required"


@pytest.fixture(scope="module")
def server(kipuka_servers):
    server = kipuka_servers(start=False)
    deployment = server.deployment
    (main,) = deployment.settings["ca"]
    cas, anchors = [main], {None: deployment.directory / "client-anchors.pem"}
    for name in ("red", "blue"):
        deployment.kipuka("ca", "create", f"{name}-ca", "--id", name, "--common-name", f"{name} CA")
        files = {
            key: f"{name}-ca/{file}"
            for key, file in (("cert", "issuing.pem"), ("key", "issuing.key"), ("chain", "root.pem"))
        }
        cas.append({"id": name, "backend": "local", **files})
        anchors[name] = deployment.directory / files["cert"]
    (deployment.directory / "red-and-blue.pem").write_bytes(anchors["red"].read_bytes() + anchors["blue"].read_bytes())
    (deployment.directory / "maker.pem").write_bytes(MAKER.pem + anchors["blue"].read_bytes())
    own = [
        {"name": name, "ca": name, "profile": name, "client_anchors": f"{name}-ca/issuing.pem"}
        for name in ("red", "blue")
    ]
    blue = {"ca": "blue", "profile": "blue"}
    maker = {**blue, "client_anchors": "maker.pem"}
    others = [
        {"name": "twin", "ca": "red", "profile": "red", "client_anchors": "red-ca/issuing.pem"},
        {"name": "open", **blue, "client_anchors": "red-and-blue.pem"},
        {"name": "closed", **blue, "client_anchors": "red-and-blue.pem", "foreign_clients": ["CN=maker-*", "dns:*.maker"]},
        {"name": "both", **maker, "require": [["mtls", "otp"]], "foreign_clients": ["CN=serial-*"]},
        {"name": "both-by-token", **maker, "require": [["otp", "mtls"]]},
        {"name": "narrow", **blue, "operations": ["cacerts", "simpleenroll"]},
    ]  # fmt: skip
    deployment.configure(
        {
            "ca": cas,
            "profile": [{"name": "default"}] + [{"name": name, "san_domains": [f"{name}.example"]} for name in ("red", "blue")],
            "est": {"default_ca": main["id"], "label": own + others},
        }
    )  # fmt: skip
    return server.start()


@pytest.fixture(scope="module")
def devices(server):
    """A client of each place, with the certificate it got there."""
    return {place: server.enrol(f"device-{place}", label=place) for place in PLACES}


def ask(server, operation, label, *, device=None, token=None):
    """Ask at a label with a certificate or a token, for whatever name the credential has."""
    subject = common_name("whoever") if device is None else device.subject
    answer = server.client(device).enroll(
        make_csr(subject), operation=operation, label=label, token=None if token is None else token.value
    )
    return answer.status, answer.text.strip() if answer.status != 200 else ""


# --- Isolation


@pytest.mark.parametrize("label", PLACES)
@pytest.mark.parametrize("home", PLACES)
@pytest.mark.parametrize(
    "case",
    [
        ("token", "simpleenroll", (401, NO_TOKEN)),
        ("token", "simplereenroll", (403, REQUIRED)),
        ("certificate", "simpleenroll", (401, UNKNOWN)),
        ("certificate", "simplereenroll", (403, UNKNOWN)),
    ],
)
def test_what_is_good_at_one_label_is_nothing_at_another(server, devices, case, home, label):
    """RULES B5, D3: every kind of credential of every place, at every place, in every operation."""
    (credential, operation, refused), given = case, {}
    if credential == "token":
        given["token"] = server.make_token("guest", **({} if home is None else {"label": home}))
    else:
        given["device"] = devices[home]
    at_home = home == label and (credential, operation) != ("token", "simplereenroll")
    assert ask(server, operation, label, **given) == ((200, "") if at_home else refused)
    if credential == "token":
        assert server.view_token(given["token"])["used"] == int(at_home)


@pytest.mark.parametrize("label", PLACES)
def test_each_label_hands_out_its_own_ca_and_certificates_of_it(server, devices, label):
    (issuing, _root) = sorted(server.client().cacerts(label).certificates(), key=lambda it: it.subject == it.issuer)
    for other, device in devices.items():
        assert (device.certificate.issuer == issuing.subject) is (other == label)
    devices[label].certificate.verify_directly_issued_by(issuing)
    assert server.recorded(devices[label].certificate)["label"] == label


@pytest.mark.parametrize("label", PLACES)
@pytest.mark.parametrize("domain", ["red", "blue"])
def test_each_label_grants_names_by_its_own_profile(server, label, domain):
    token = server.make_token("host", **({} if label is None else {"label": label}))
    answer = server.client().enroll(make_csr(dns=(f"host.{domain}.example",)), label=label, token=token.value)
    assert answer.status == (200 if domain == label else 403), answer.text
    if domain != label:
        assert answer.text.strip() == f"DNS:host.{domain}.example is not permitted for host (rule names)"


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("twin", "client certificate was enrolled at the label red, re-enrol it there"),
        ("open", "client certificate was not issued by the CA of this label, which is CN=blue CA"),
        ("closed", "client certificate is of another CA, and not one of those that may enrol here"),
    ],
)
def test_a_certificate_that_a_label_trusts_is_renewed_at_home_only(server, devices, label, text):
    """RULES B5: the same anchors, and even the same CA, make no label stand in for another."""
    assert ask(server, "simplereenroll", label, device=devices["red"]) == (403, text)


def test_a_certificate_of_another_ca_enrols_where_the_anchors_let_it_in(server, devices):
    answer = server.client(devices["red"]).enroll(make_csr(), label="open")
    assert answer.status == 200, answer.text
    assert (format_dn(answer.certificate.subject), format_dn(answer.certificate.issuer)) == (
        "CN=device-red",
        "CN=blue CA",
    )


def test_a_certificate_of_another_ca_enrols_only_where_a_pattern_fits_it(server, devices):
    """RULES B5: by subject or alternative name; those of the label's own CA need none; a token may stand in."""
    red = server.deployment.authority("red")
    foreign = "client certificate is of another CA, and not one of those that may enrol here"
    assert ask(server, "simpleenroll", "closed", device=devices["red"]) == (403, foreign)
    assert ask(server, "simpleenroll", "closed", device=red.issue_client("maker-7")) == (200, "")
    assert ask(server, "simpleenroll", "closed", device=red.issue_client("x", dns=("a.maker",))) == (200, "")
    assert ask(server, "simpleenroll", "closed", device=red.issue_client("x-maker-7")) == (403, foreign)
    assert ask(server, "simpleenroll", "closed", device=server.enrol("own", label="closed")) == (200, "")
    token = server.make_token(label="closed")
    assert ask(server, "simpleenroll", "closed", device=devices["red"], token=token) == (200, "")


# --- Several methods together


BOTH = ("both", "both-by-token")


@pytest.mark.parametrize(("label", "name"), [("both", "CN=serial-1"), ("both-by-token", "CN=printer-7")])
def test_a_certificate_and_a_token_together_give_one_certificate(server, label, name):
    """The first of the set names the client; the other is in the audit log; the token is spent, in the same transaction."""
    device, token = MAKER.issue_client("serial-1"), server.make_token("printer-7", label=label)
    after = server.last_sequence
    answer = server.client(device).enroll(make_csr(), label=label, token=token.value)
    assert answer.status == 200, answer.text
    assert format_dn(answer.certificate.subject) == name
    assert server.view_token(token)["used"] == 1
    (method, name), also = ("mtls", "CN=serial-1"), ["otp:printer-7"]
    if label != "both":
        (method, name), also = ("otp", "printer-7"), ["mtls:CN=serial-1"]
    server.wait_for_audit(
        "authentication_succeeded", after=after, label=label, method=method, subject_name=name, also=also
    )
    assert ask(server, "simpleenroll", label, device=device, token=token) == (401, NO_TOKEN)


@pytest.mark.parametrize("label", BOTH)
def test_one_half_is_not_enough_and_nothing_is_spent(server, label):
    """RULES C3: 401 with a challenge where a token would help, 403 without one where the certificate is missing or bad."""
    device, stranger = MAKER.issue_client("serial-1"), make_root("Maker").issue_client("serial-1")
    token = server.make_token(label=label)
    alone = server.client(device).enroll(make_csr(), label=label)
    assert (alone.status, alone.text.strip()) == (
        401,
        "the client certificate alone is not enough here: otp is needed too",
    )
    assert alone.all("WWW-Authenticate")[0].startswith("Basic")
    for given, text in (
        ({}, REQUIRED),
        ({"token": token}, REQUIRED),
        ({"token": token, "device": stranger}, UNKNOWN),
    ):
        assert ask(server, "simpleenroll", label, **given) == (403, text)
    assert server.view_token(token)["used"] == 0


def test_a_wrong_half_is_refused_as_it_would_be_alone(server):
    """RULES C3, C4."""
    device = MAKER.issue_client("serial-1")
    wrong = server.client(device).enroll(make_csr(), label="both", token="Z" * 20)
    assert (wrong.status, wrong.text.strip(), bool(wrong.all("WWW-Authenticate"))) == (401, NO_TOKEN, True)
    elsewhere = server.make_token(label="red")
    assert ask(server, "simpleenroll", "both", device=device, token=elsewhere) == (401, NO_TOKEN)
    token = server.make_token(label="both")
    unlisted = MAKER.issue_client("other-1")
    assert ask(server, "simpleenroll", "both", device=unlisted, token=token)[0] == 403
    assert server.view_token(token)["used"] == 0


def test_a_refused_request_gives_the_use_back_that_was_held_with_the_certificate(server):
    device, token = MAKER.issue_client("serial-2"), server.make_token(label="both")
    refused = server.client(device).enroll(make_csr(dns=("a.example",)), label="both", token=token.value)
    assert (refused.status, refused.text.strip()) == (
        403,
        "DNS:a.example is not permitted for CN=serial-2 (rule names)",
    )
    assert server.view_token(token)["used"] == 0
    assert ask(server, "simpleenroll", "both", device=device, token=token) == (200, "")


def test_a_renewal_needs_the_certificate_only(server):
    """RFC 7030, 4.2.2: what proves a renewal is the certificate that is renewed."""
    token, first = server.make_token(label="both"), MAKER.issue_client("serial-4")
    csr = make_csr()
    certificate = server.client(first).enroll(csr, label="both", token=token.value).certificate
    device = Credential(key=csr.key, der=certificate.public_bytes(Encoding.DER))
    assert ask(server, "simplereenroll", "both", device=device) == (200, "")


# --- Operations


@pytest.mark.parametrize("operation", ["csrattrs", "simplereenroll"])
def test_an_operation_that_is_off_is_not_there(server, devices, operation):
    """404 before anything else is looked at, whoever asks, and with the other paths as ever."""
    for label, off in (("narrow", True), ("blue", False)):
        if operation == "csrattrs":
            answer = server.client().csrattrs(label)
        else:
            answer = server.client(devices["blue"]).reenroll(make_csr(devices["blue"].subject), label=label)
        assert (answer.status == 404) is off, answer.text
        if off:
            assert answer.text.strip() == f"{operation} is off at this path"
    assert server.client().cacerts("narrow").status == 200

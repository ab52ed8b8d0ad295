"""What a handshake makes of client certificates in each mode; who is good is decided later, and elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import SSL, crypto

from kipuka.testing.peer import Peer, client_context
from kipuka.testing.pki import CLIENT_AUTH, SERVER_AUTH, Credential, make_root

from .tls_seam_peers import CLIENT_CA, CLIENT_ROOT, SERVER_ROOT, STRANGER_ROOT, Running, running

VERSIONS = ["1.2", "1.3"]
NOW = datetime.now(UTC)
PAST = {"not_before": NOW - timedelta(days=3), "not_after": NOW - timedelta(days=1)}
FUTURE = {"not_before": NOW + timedelta(days=1), "not_after": NOW + timedelta(days=3)}


async def ask(server: Running, version: str, credential: Credential | None) -> bytes:
    """All that a client gets for one request, whatever happens; alerts are raised."""
    peer = await Peer.connect(server.port, client_context(version, credential=credential))
    await peer.handshake()
    await peer.request(headers="connection: close\r\n")
    return await peer.rest()


async def everything(peer: Peer, *, more: int = 0) -> None:
    """Handshake, request, octets that nobody asked for, and whatever comes back."""
    await peer.handshake()
    await peer.request()
    for _ in range(more):
        await peer.send(bytes(16384))
        await asyncio.sleep(0.005)
    await peer.rest()


def constrained() -> Credential:
    return CLIENT_ROOT.issue_ca("Constrained CA", permitted_dns=("allowed.example",)).issue_client(
        dns=("other.example",)
    )


def too_long() -> Credential:
    return CLIENT_ROOT.issue_ca("Short", path_length=0).issue_ca("Below").issue_client()


def deep() -> Credential:
    issuer = CLIENT_ROOT
    for level in range(9):
        issuer = issuer.issue_ca(f"Level {level}")
    return issuer.issue_client()


GOOD: list[tuple[str, Callable[[], Credential]]] = [
    ("good", CLIENT_CA.issue_client),
    ("signed by the root", CLIENT_ROOT.issue_client),
    ("ed25519", lambda: CLIENT_CA.issue_client(key="ed25519")),
    ("rsa2048", lambda: CLIENT_CA.issue_client(key="rsa2048")),
    ("p521", lambda: CLIENT_CA.issue_client(key="p521")),
]

# Shortcomings that must let the handshake finish in every mode: the application has a text for each.
SHORTCOMINGS: list[tuple[str, Callable[[], Credential]]] = [
    ("expired", lambda: CLIENT_CA.issue_client(**PAST)),
    ("not yet valid", lambda: CLIENT_CA.issue_client(**FUTURE)),
    ("for servers only", lambda: CLIENT_CA.issue("s", extended_key_usage=(SERVER_AUTH,))),
    ("without digitalSignature", lambda: CLIENT_CA.issue("k", key_usage=("key_agreement",))),
    ("a CA", lambda: CLIENT_CA.issue("ca", ca=True, extended_key_usage=(CLIENT_AUTH,))),
    ("RSA-1024", lambda: CLIENT_CA.issue_client(key="rsa1024")),
    ("SHA-1", lambda: CLIENT_CA.issue_client(signature="sha1")),
    ("MD5", lambda: CLIENT_ROOT.issue_ca(key="rsa2048").issue_client(signature="md5")),
    ("expired issuer", lambda: CLIENT_ROOT.issue_ca("Old", **PAST).issue_client()),
    ("issuer for servers only", lambda: CLIENT_ROOT.issue_ca("S", extended_key_usage=(SERVER_AUTH,)).issue_client()),
    ("issuer RSA-1024", lambda: CLIENT_ROOT.issue_ca("Weak", key="rsa1024").issue_client()),
    ("issuer that is no CA", lambda: CLIENT_CA.issue("no ca", key_usage=None).issue_client()),
    ("path length", too_long),
    ("name constraint", constrained),
    ("depth 9", deep),
    ("version 6", lambda: CLIENT_CA.issue("v6", version=5)),
]

# What none of the anchors signed: `require` refuses it in the handshake, `ask` does not.
UNSIGNED: list[tuple[str, Callable[[], Credential]]] = [
    ("stranger", STRANGER_ROOT.issue_client),
    ("self-signed", lambda: make_root("device-1", ca=False)),
    ("self-signed in the anchor's name", lambda: make_root(CLIENT_ROOT.subject.rfc4514_string()[3:], ca=False)),
    ("bad signature", lambda: CLIENT_CA.issue_client(break_signature=True)),
    (
        "stranger in the anchor's name",
        lambda: make_root(CLIENT_ROOT.subject.rfc4514_string()[3:]).issue_client(),
    ),
    ("missing intermediate", lambda: without_issuer(CLIENT_ROOT.issue_ca("Nobody knows it").issue_client())),
]


def without_issuer(credential: Credential) -> Credential:
    return Credential(key=credential.key, der=credential.der)


def cases(table: list[tuple[str, Callable[[], Credential]]]) -> list[object]:
    return [pytest.param(make, id=name) for name, make in table]


@pytest.mark.parametrize("make", cases([*GOOD, *SHORTCOMINGS]))
@pytest.mark.parametrize("version", VERSIONS)
async def test_required_lets_finish_whatever_an_anchor_signed(version: str, make: Callable[[], Credential]) -> None:
    """RULES A2: every shortcoming but "not signed by an anchor" is answered by the application."""
    credential = make()
    async with running(mode="require") as server:
        assert (await ask(server, version, credential)).startswith(b"HTTP/1.1 200")
        presented = server.app.connections[0].presented
        if presented.leaf is None:
            assert presented.error
        else:
            assert presented.leaf == credential.certificate
            assert presented.error is None
        assert list(presented.chain) == [above.certificate for above in credential.chain]
        assert server.failures == []


@pytest.mark.parametrize("make", cases(UNSIGNED))
@pytest.mark.parametrize("version", VERSIONS)
async def test_required_refuses_what_no_anchor_signed(version: str, make: Callable[[], Credential]) -> None:
    """RULES A2: the handshake fails; no octet of an HTTP response arrives."""
    credential = make()
    async with running(mode="require") as server:
        # In TLS 1.3 the client's own handshake is over before the server has seen the certificate.
        peer = await Peer.connect(server.port, client_context(version, credential=credential))
        with pytest.raises(SSL.Error, match=r"unknown ca|decrypt error"):
            await everything(peer)
        assert peer.buffer == b""
        assert server.app.connections == []
        assert (await server.failure()).reason == "unknown_authority"


@pytest.mark.parametrize("version", VERSIONS)
async def test_required_refuses_a_client_without_a_certificate(version: str) -> None:
    """RULES A2."""
    async with running(mode="require") as server:
        peer = await Peer.connect(server.port, client_context(version))
        with pytest.raises(SSL.Error, match=r"certificate required|handshake failure"):
            await everything(peer)
        assert peer.buffer == b""
        assert server.app.connections == []
        assert (await server.failure()).reason == "certificate_required"


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_alert_reaches_a_client_that_goes_on_sending(version: str) -> None:
    """A socket that is closed with octets unread resets the connection, and the alert is lost."""
    async with running(mode="require") as server:
        peer = await Peer.connect(server.port, client_context(version, credential=STRANGER_ROOT.issue_client()))
        with pytest.raises(SSL.Error, match="unknown ca"):
            await everything(peer, more=20)
        assert not peer.reset


@pytest.mark.parametrize("version", VERSIONS)
async def test_required_takes_an_issuing_ca_alone_as_anchor(version: str) -> None:
    """RULES B1: PARTIAL_CHAIN, with and without the issuer in what the client sends."""
    async with running(mode="require", anchors=[CLIENT_CA]) as server:
        credential = CLIENT_CA.issue_client()
        for sent in (credential, without_issuer(credential)):
            assert (await ask(server, version, sent)).startswith(b"HTTP/1.1 200")


async def test_required_takes_any_of_several_anchors_and_no_other() -> None:
    """RULES A2, and the server's own issuer is not an anchor unless it is given as one."""
    async with running(mode="require", anchors=[CLIENT_ROOT, STRANGER_ROOT]) as server:
        for credential in (CLIENT_CA.issue_client(), STRANGER_ROOT.issue_client()):
            assert (await ask(server, "1.3", credential)).startswith(b"HTTP/1.1 200")
        with pytest.raises(SSL.Error):
            await ask(server, "1.3", SERVER_ROOT.issue_client())


async def test_required_without_anchors_refuses_everybody() -> None:
    """RULES A5: anchors are never implied."""
    async with running(mode="require", anchors=[]) as server:
        with pytest.raises(SSL.Error):
            await ask(server, "1.3", CLIENT_CA.issue_client())


@pytest.mark.parametrize("make", cases([*GOOD, *SHORTCOMINGS, *UNSIGNED]))
@pytest.mark.parametrize("version", VERSIONS)
async def test_asked_for_any_certificate_lets_the_handshake_finish(
    version: str, make: Callable[[], Credential]
) -> None:
    """RULES A3: a bad certificate is a denied credential, not a dead connection; two requests prove that it lives."""
    credential = make()
    async with running(mode="ask") as server:
        peer = await Peer.ready(server.port, client_context(version, credential=credential))
        assert (await peer.get())[0] == 200
        assert (await peer.get())[0] == 200
        presented = server.app.connections[0].presented
        assert presented is not None
        assert (presented.leaf is None) == (presented.error is not None)
        assert server.failures == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_asked_for_no_certificate_will_do(version: str) -> None:
    """RULES A3."""
    async with running(mode="ask") as server:
        assert (await ask(server, version, None)).startswith(b"HTTP/1.1 200")
        assert server.app.connections[0].presented is None


async def test_a_certificate_that_cannot_be_parsed_is_presented_with_its_error() -> None:
    async with running(mode="ask") as server:
        await ask(server, "1.3", CLIENT_CA.issue("odd", version=5))
        presented = server.app.connections[0].presented
        assert presented.leaf is None
        assert "5" in presented.error
        assert list(presented.chain) == [CLIENT_CA.certificate]


async def test_an_issuer_that_cannot_be_parsed_is_left_out() -> None:
    odd = CLIENT_ROOT.issue("Odd CA", ca=True, version=5, key_usage=("key_cert_sign",))
    leaf = CLIENT_CA.issue_client()
    context = client_context("1.3", credential=without_issuer(leaf))
    with pytest.warns(DeprecationWarning, match="pyOpenSSL X509"):
        context.add_extra_chain_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, odd.der))
    context.add_extra_chain_cert(CLIENT_CA.certificate)
    async with running(mode="ask") as server:
        peer = await Peer.ready(server.port, context)
        assert (await peer.get())[0] == 200
        presented = server.app.connections[0].presented
        assert presented.leaf == leaf.certificate
        assert list(presented.chain) == [CLIENT_CA.certificate]


@pytest.mark.parametrize("mode", ["ask", "require"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_client_hears_the_names_of_the_anchors(version: str, mode: str) -> None:
    async with running(mode=mode, anchors=[CLIENT_ROOT, STRANGER_ROOT]) as server:
        peer = await Peer.connect(server.port, client_context(version, credential=CLIENT_CA.issue_client()))
        await peer.handshake()
        names = [name.get_components() for name in peer.tls.get_client_ca_list()]
        assert names == [[(b"CN", b"Client Root")], [(b"CN", b"Stranger Root")]]


@pytest.mark.parametrize("version", VERSIONS)
async def test_without_client_certificates_none_is_asked_for(version: str) -> None:
    """RULES A5."""
    async with running(mode="none") as server:
        assert (await ask(server, version, CLIENT_CA.issue_client())).startswith(b"HTTP/1.1 200")
        assert server.app.connections[0].presented is None


async def test_curl_and_openssl_see_the_refusal_and_no_response(tmp_path: Path) -> None:
    """RULES A2, with clients that we did not write."""
    root = tmp_path / "root.pem"
    root.write_bytes(SERVER_ROOT.pem)
    certificate, key = STRANGER_ROOT.issue_client().write(tmp_path, "stranger")
    good, good_key = CLIENT_CA.issue_client().write(tmp_path, "good")
    async with running(mode="require") as server:
        url = f"https://localhost:{server.port}/"

        async def curl(*arguments: object) -> tuple[int, bytes, bytes]:
            process = await asyncio.create_subprocess_exec(
                "curl", "-sS", "-i", "--cacert", str(root), *map(str, arguments), url,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, err = await process.communicate()
            return process.returncode or 0, out, err

        for version in (("--tlsv1.3",), ("--tls-max", "1.2")):
            code, out, err = await curl(*version, "--cert", certificate, "--key", key)
            assert (code != 0, out) == (True, b"")
            assert b"alert unknown ca" in err
            code, out, err = await curl(*version)
            assert (code != 0, out) == (True, b"")
            code, out, err = await curl(*version, "--cert", good, "--key", good_key)
            assert out.startswith(b"HTTP/1.1 200"), err
        process = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-cert", str(certificate), "-key", str(key),
            "-CAfile", str(root), "-quiet", "-ign_eof",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert out == b""
        assert b"unknown ca" in err
        assert {failure.reason for failure in server.failures} == {"unknown_authority", "certificate_required"}


def test_the_table_has_what_it_says() -> None:
    """The shortcomings are there, and cryptography reads all but the odd one."""
    for name, make in SHORTCOMINGS:
        if name == "version 6":
            with pytest.raises((ValueError, x509.InvalidVersion)):
                _ = make().certificate
        else:
            assert make().certificate

"""The context a server is given, and the words for what goes wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

from kipuka.api.errors import StartupError
from kipuka.http.connections import Connections
from kipuka.http.proxy_protocol import Proxies
from kipuka.http.tls import (
    TLSMaterial,
    TLSProtocol,
    TLSTimeouts,
    TLSWriter,
    build_context,
    failure_reason,
    tls_server_end_point,
)
from kipuka.testing.pki import Credential, KeyKind, make_root

ROOT = make_root()


def material(directory: Path, credential: Credential, **changes: object) -> TLSMaterial:
    certificate, key = credential.write(directory, "server")
    return TLSMaterial(**{"certificate": certificate, "key": key} | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind", ["rsa2048", "rsa4096", "p256", "p384", "p521", "ed25519", "mldsa44", "mldsa65", "mldsa87"]
)
def test_a_context_takes_every_usual_key(tmp_path: Path, kind: str) -> None:
    assert build_context(material(tmp_path, ROOT.issue_server(key=kind)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["p256", "mldsa65"])
def test_a_key_may_be_encrypted(tmp_path: Path, kind: KeyKind) -> None:
    server = ROOT.issue_server(key=kind)
    key = tmp_path / "encrypted.key"
    key.write_bytes(server.key_pem(b"secret"))
    assert build_context(material(tmp_path, server, key=key, password=b"secret"))
    for password in (None, b"wrong"):
        with pytest.raises(StartupError, match=r"encrypted\.key") as caught:
            build_context(material(tmp_path, server, key=key, password=password))
        assert "wrong" not in str(caught.value)


def test_the_password_is_not_shown() -> None:
    """Guarantee 8: secrets stay secret."""
    shown = repr(TLSMaterial(certificate=Path("a"), key=Path("b"), password=b"secret"))
    assert "secret" not in shown


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    server = ROOT.issue_server()
    with pytest.raises(StartupError, match=r"cannot read the TLS certificate .*missing\.crt"):
        build_context(material(tmp_path, server, certificate=tmp_path / "missing.crt"))
    with pytest.raises(StartupError, match=r"cannot read the TLS key .*missing\.key"):
        build_context(material(tmp_path, server, key=tmp_path / "missing.key"))


def test_a_file_that_cannot_be_read_as_pem_is_named(tmp_path: Path) -> None:
    server = ROOT.issue_server()
    odd = tmp_path / "odd.pem"
    odd.write_bytes(b"no PEM at all")
    with pytest.raises(StartupError, match=r"odd\.pem"):
        build_context(material(tmp_path, server, certificate=odd))
    with pytest.raises(StartupError, match=r"odd\.pem"):
        build_context(material(tmp_path, server, key=odd))


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "mldsa65"])
def test_a_key_of_another_certificate_is_refused(tmp_path: Path, kind: KeyKind) -> None:
    other = tmp_path / "other.key"
    other.write_bytes(ROOT.issue_server(key=kind).key_pem())
    with pytest.raises(StartupError, match="does not belong to"):
        build_context(material(tmp_path, ROOT.issue_server(), key=other))


def test_a_server_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="ee key too small"):
        build_context(material(tmp_path, ROOT.issue_server(key="rsa1024")))


def test_only_strong_ciphers_are_offered(tmp_path: Path) -> None:
    """RULES A6: no NULL, anonymous, export or 3DES; AEAD with forward secrecy only."""
    names = SSL.Connection(build_context(material(tmp_path, ROOT.issue_server())), None).get_cipher_list()
    assert names
    for name in names:
        assert name.startswith(("TLS_AES_", "TLS_CHACHA20_", "ECDHE-")), name
        assert "GCM" in name or "CHACHA20" in name, name


@pytest.mark.parametrize(
    ("signature", "key", "algorithm"),
    [
        pytest.param("sha256", "p256", hashes.SHA256(), id="sha256"),
        pytest.param("sha384", "p256", hashes.SHA384(), id="sha384"),
        pytest.param("sha512", "rsa2048", hashes.SHA512(), id="sha512"),
        pytest.param("sha1", "rsa2048", hashes.SHA256(), id="sha1 counts as sha256"),
        pytest.param("md5", "rsa2048", hashes.SHA256(), id="md5 counts as sha256"),
    ],
)
def test_server_end_point_uses_the_hash_of_the_signature(
    signature: str, key: str, algorithm: hashes.HashAlgorithm
) -> None:
    """RFC 5929, 4.1."""
    root = make_root(key=key)  # type: ignore[arg-type]
    certificate = root.issue("localhost", signature=signature).certificate  # type: ignore[arg-type]
    assert tls_server_end_point(certificate) == certificate.fingerprint(algorithm)


@pytest.mark.parametrize("kind", ["ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87"])
def test_server_end_point_is_undefined_without_a_single_hash(kind: KeyKind) -> None:
    """RFC 5929, 4.1: what counts is the signature on the certificate, not the key in it."""
    root = make_root(key=kind)
    assert tls_server_end_point(root.issue_server().certificate) is None
    own = ROOT.issue_server(key=kind).certificate
    assert tls_server_end_point(own) == own.fingerprint(hashes.SHA256())


@pytest.mark.parametrize(
    ("texts", "word"),
    [
        (["http request"], "plain_http_request"),
        (["no shared cipher"], "no_shared_cipher"),
        (["unsupported protocol"], "no_shared_protocol_version"),
        (["peer did not return a certificate"], "certificate_required"),
        (["tlsv1 alert unknown ca"], "refused_by_client"),
        (["ssl/tls alert bad certificate"], "refused_by_client"),
        (["wrong version number"], "not_tls"),
        (["decryption failed or bad record mac"], "bad_record"),
        (["something new"], "handshake_failed"),
        (["asn1 error", "no shared cipher"], "no_shared_cipher"),
        ([], "handshake_failed"),
    ],
)
def test_a_failure_has_a_stable_word_and_the_text(texts: list[str], word: str) -> None:
    reason, detail = failure_reason(SSL.Error([("SSL routines", "", text) for text in texts]))
    assert reason == word
    assert detail == ("; ".join(texts) or "no reason given")


def test_an_alert_that_openssl_has_no_words_for_is_told_as_such() -> None:
    """strongSwan ends each connection with a fatal close_notify."""
    _, detail = failure_reason(SSL.Error([("SSL routines", "", "")]))
    assert detail == "an alert without a name, or a fatal close_notify"


def test_a_refused_client_certificate_is_an_unknown_authority() -> None:
    error = SSL.Error([("SSL routines", "", "certificate verify failed")])
    reason, detail = failure_reason(error, 20)
    assert reason == "unknown_authority"
    assert detail == "certificate verify failed (verification error 20)"


def test_other_errors_of_openssl_have_a_text_too() -> None:
    assert failure_reason(SSL.SysCallError(-1, "Unexpected EOF")) == ("handshake_failed", "-1; Unexpected EOF")
    assert failure_reason(SSL.Error()) == ("handshake_failed", "Error")


class RefusesToWrite:
    """An OpenSSL connection that has failed."""

    def sendall(self, _data: bytes) -> int:
        raise SSL.Error([("SSL routines", "", "protocol is shutdown")])


async def test_a_writer_speaks_of_broken_connections_as_streams_do(tmp_path: Path) -> None:
    """Hypercorn knows OSError and NotImplementedError, nothing of OpenSSL."""

    class Transport:
        def is_closing(self) -> bool:
            return False

    protocol = TLSProtocol(
        build_context(material(tmp_path, ROOT.issue_server())),
        listener="est",
        timeouts=TLSTimeouts(),
        on_connected=lambda _reader, _writer, _connection: None,
        on_failure=lambda _failure: None,
        connections=Connections(most=1, most_per_address=1, on_limit=lambda _limit, _address: None),
        proxies=Proxies(),
    )
    broken: Any = protocol
    broken._tls, broken._transport = RefusesToWrite(), Transport()
    writer = TLSWriter(protocol)
    with pytest.raises(ConnectionResetError, match="protocol is shutdown"):
        writer.write(b"x")
    with pytest.raises(NotImplementedError):
        writer.write_eof()
    assert not writer.can_write_eof()


async def test_a_listener_of_failures_that_fails_itself_does_not_keep_the_connection_open(tmp_path: Path) -> None:
    def fails(_failure: object) -> None:
        raise ValueError("the audit log is away")

    connections: Connections[TLSProtocol] = Connections(
        most=1, most_per_address=1, on_limit=lambda _limit, _address: None
    )
    context = build_context(material(tmp_path, ROOT.issue_server()))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: TLSProtocol(
            context,
            listener="est",
            timeouts=TLSTimeouts(handshake=0.1),
            on_connected=lambda _reader, _writer, _connection: None,
            on_failure=fails,
            connections=connections,
            proxies=Proxies(),
        ),
        "127.0.0.1",
        0,
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(8):
        assert await reader.read() == b""
    writer.close()
    assert len(connections) == 0
    server.close()
    await server.wait_closed()

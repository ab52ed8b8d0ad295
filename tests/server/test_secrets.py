"""Guarantee 8: no token, key, bearer value or password in any log, error, answer, database row or process list."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kipuka.testing.client import basic
from kipuka.testing.measure import family
from kipuka.testing.pki import make_csr

pytestmark = pytest.mark.server


class Search:
    """Collects secrets, and then looks for each in every form that it might have leaked in."""

    def __init__(self):
        self.secrets = {}

    def add(self, name, value):
        octets = value.encode() if isinstance(value, str) else value
        self.secrets[name] = octets
        return value

    def forms(self):
        for name, octets in self.secrets.items():
            yield name, octets
            yield f"{name} in base64", base64.b64encode(octets)
            yield f"{name} in hex", octets.hex().encode()
        for name, octets in self.secrets.items():
            yield f"{name} as Basic", base64.b64encode(b":" + octets)

    def within(self, places):
        return [
            f"{form} in {place}"
            for place, content in places.items()
            for form, octets in self.forms()
            if len(octets) >= 8 and octets in content
        ]


def test_the_search_finds_what_is_there():
    """A search that finds nothing has to be able to find something."""
    search = Search()
    search.add("token", "abcdefghijklmnop")
    assert search.within({"log": b"...abcdefghijklmnop..."}) == ["token in log"]
    assert search.within({"log": base64.b64encode(b":abcdefghijklmnop")})
    assert search.within({"log": b"nothing here"}) == []


def test_no_secret_is_left_anywhere(kipuka_servers):
    """The whole life of a server at its most talkative, and then a search for every secret it was given or made."""
    server = kipuka_servers({"log": {"level": "debug", "format": "json"}})
    deployment, client = server.deployment, server.client()
    search, answers = Search(), []

    search.add("bearer token", deployment.admin_token)
    made = deployment.kipuka("admin", "token", "create", "--description", "another")
    another = max(made.stdout.split(), key=len)
    assert len(another) >= 40
    search.add("second bearer token", another)
    for hash_number in range(2):
        search.add(f"token {hash_number}", server.make_token(f"device-{hash_number}", max_uses=3).value)
    by_shell = deployment.kipuka("otp", "create", "--client-id", "by-shell").stdout
    search.add("token of the shell", next(word for word in by_shell.split() if len(word) == 20 and word.isalnum()))
    wrong = search.add("wrong token", secrets.token_hex(10))
    search.add("wrong bearer token", secrets.token_hex(16))
    search.add("password as user name", secrets.token_hex(10))
    search.add("odd scheme's value", secrets.token_hex(10))
    for path in (deployment.directory / "otp.key", *deployment.directory.rglob("*.key")):
        content = path.read_bytes()
        if content.startswith(b"-----"):
            key = load_pem_private_key(content, None)
            signs_the_log = isinstance(key, Ed25519PrivateKey)
            raw = key.private_bytes_raw() if signs_the_log else key.private_numbers().private_value.to_bytes(32, "big")
            search.add(path.name, raw)
            search.add(f"{path.name} as PEM", content.splitlines()[1])
        else:
            search.add(path.name, content)

    token = search.secrets["token 0"].decode()
    processes = [Path(f"/proc/{pid}") for pid in family(server.pid)]
    assert len(processes) > 1  # supervisor and workers
    answers.append(client.enroll(make_csr(common_name="device-0"), token=token))
    answers.append(client.enroll(make_csr(dns=("dc.example",)), token=token))
    answers.append(client.enroll(make_csr(break_signature=True), token=token))
    answers.append(client.enroll(b"garbage", token=token))
    answers.append(client.enroll(make_csr(), token=token, headers={"Authorization": basic(token)}))
    answers.append(client.enroll(make_csr(), token=token, content_type="text/plain"))
    answers.append(client.enroll(make_csr(), token=wrong))
    odd = search.secrets["odd scheme's value"].decode()
    answers.append(client.enroll(make_csr(), authorization=f"Digest {odd}"))
    answers.append(client.enroll(make_csr(), authorization=odd))
    answers.append(client.enroll(make_csr(), authorization=basic("", search.secrets["password as user name"].decode())))
    answers.append(server.admin("GET", "/admin/otp", token=search.secrets["wrong bearer token"].decode()))
    answers.append(server.admin("GET", "/admin/otp"))
    answers.append(server.admin("GET", "/admin/otp", token=another))
    answers.append(server.admin("POST", "/admin/otp", {"client_id": "", "subject": "broken"}))
    answers.append(server.admin("GET", "/admin/certificates"))
    with client.connect() as connection:
        binding = search.add("channel binding", connection.channel_binding)
        csr = make_csr(common_name="device-1", challenge_password=binding)
        linked = client.enroll(csr, token=search.secrets["token 1"].decode(), connection=connection)
        assert linked.status == 200
    password = search.add("challenge password", secrets.token_hex(9))
    csr = make_csr(common_name="device-1", challenge_password=password)
    assert client.enroll(csr, token=search.secrets["token 1"].decode()).status == 200

    places = {
        "the command lines": b"".join(process.joinpath("cmdline").read_bytes() for process in processes),
        "the environments": b"".join(process.joinpath("environ").read_bytes() for process in processes),
        "the names of processes": b"".join(process.joinpath("comm").read_bytes() for process in processes),
        "kipuka otp list": deployment.kipuka("otp", "list").stdout.encode(),
        "kipuka cert list": deployment.kipuka("cert", "list").stdout.encode(),
        "kipuka plugins": deployment.kipuka("plugins").stdout.encode(),
        "kipuka check": deployment.kipuka("check").stdout.encode(),
        "kipuka audit tail": deployment.kipuka("audit", "tail").stdout.encode(),
    }
    server.stop()
    places |= {"standard output": server.stdout.encode(), "standard error": server.stderr.encode()}
    for path in deployment.directory.glob("*"):
        if path.is_file() and path.name not in {"otp.key", "audit.key", "admin.token"}:
            places[path.name] = path.read_bytes()
    for number, answer in enumerate(answers):
        places[f"answer {number}"] = answer.head + answer.body
    assert {"kipuka.db", "audit.jsonl", "kipuka.toml"} <= set(places)
    assert search.within(places) == []


def test_a_secret_in_the_configuration_is_not_shown_by_a_mistake_beside_it(kipuka_servers):
    """RULES K6: a start that fails names the key and not its value."""
    passphrase = secrets.token_hex(12)
    server = kipuka_servers(
        {"tls": {"key_password": passphrase, "surprise": 1}, "otp": {"token_length": 3}}, start=False
    )
    for arguments in (["check"], ["serve"], ["plugins"]):
        done = server.deployment.kipuka(*arguments, expect=None)
        assert passphrase not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_secret_files_are_private(kipuka_template):
    """`kipuka init`: safe permissions from the first moment."""
    directory = kipuka_template.directory
    for path in (directory / "admin.token", directory / "otp.key", directory / "kipuka.db", *directory.rglob("*.key")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_audit_log_speaks_of_tokens_by_their_id(kipuka_server):
    """An event never carries a secret; `token` is an id."""
    token = kipuka_server.make_token("by-id")
    assert kipuka_server.client().enroll(make_csr(), token=token.value).status == 200
    used = kipuka_server.wait_for_audit("otp_used", token=token.id)
    assert used["data"]["client_id"] == "by-id"
    assert token.value not in json.dumps(kipuka_server.audit())

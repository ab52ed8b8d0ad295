"""A real MIT KDC on the loopback, and tickets from it.

In the room: `KDC` (two realms that trust each other, in a directory of their own, on high ports), `Tickets` (a credential
cache), and the tokens a client makes of one. Not in the room: the server (`kipuka.testing`).

Nothing here looks anything up in DNS, and Debian's own Kerberos services are neither used nor needed.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import gssapi
from gssapi.raw import ChannelBindings

from kipuka.testing.server import free_port, wait_until

REALM = "EXAMPLE.COM"
PARTNER = "PARTNER.COM"
"""Another realm, whose users get tickets for services of the first."""

KERBEROS = gssapi.OID.from_int_seq("1.2.840.113554.1.2.2")
SPNEGO = gssapi.OID.from_int_seq("1.3.6.1.5.5.2")
PASSWORD = "correct-horse"

_CONFIGURATION = """
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
    udp_preference_limit = 1
    forwardable = true
    clockskew = {clockskew}
[realms]
    {realm} = {{
        kdc = localhost:{port}
    }}
    {partner} = {{
        kdc = localhost:{partner_port}
    }}
[domain_realm]
    localhost = {realm}
    .example.com = {realm}
"""

_KDC_CONFIGURATION = """
[kdcdefaults]
    kdc_listen = ""
    kdc_tcp_listen = ""
[realms]
    {realms}
[logging]
    kdc = FILE:{directory}/kdc.log
"""

_REALM_CONFIGURATION = """{realm} = {{
        database_name = {directory}/{realm}.db
        key_stash_file = {directory}/{realm}.stash
        acl_file = {directory}/kadm5.acl
        kdc_listen = ""
        kdc_tcp_listen = 127.0.0.1:{port}
        max_life = 10h
        supported_enctypes = aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal
    }}
    """


def program(name: str) -> str:
    """Where a Kerberos program is; the KDC's are in sbin, which a user's PATH may lack."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/sbin")
    if found is None:
        msg = f"{name} is needed for these tests: make test-tools installs it"
        raise LookupError(msg)
    return found


class KDC:
    """A KDC for `REALM` and `PARTNER`. A context manager that makes both databases, serves them, and stops."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {REALM: free_port(), PARTNER: free_port()}
        self._process: subprocess.Popen[bytes] | None = None
        self._caches = 0

    def __enter__(self) -> Self:
        self.configuration()
        realms = "".join(
            _REALM_CONFIGURATION.format(realm=realm, directory=self.directory, port=port)
            for realm, port in self.ports.items()
        )
        text = _KDC_CONFIGURATION.format(realms=realms, directory=self.directory)
        (self.directory / "kdc.conf").write_text(text)
        for realm in self.ports:
            self._run("kdb5_util", "-r", realm, "create", "-s", "-P", "master")
            self.administer(f"addprinc -pw trust krbtgt/{REALM}@{PARTNER}", realm=realm)
        realm_options = [option for realm in self.ports for option in ("-r", realm)]
        with (self.directory / "krb5kdc.err").open("wb") as err:
            self._process = subprocess.Popen(
                [program("krb5kdc"), "-n", *realm_options],
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        wait_until(self._serves, what="the KDC")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def _serves(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError((self.directory / "krb5kdc.err").read_text())
        listening = Path("/proc/net/tcp").read_text(encoding="ascii")
        return all(f"0100007F:{port:04X} 00000000:0000 0A" in listening for port in self.ports.values())

    def configuration(self, name: str = "krb5.conf", *, clockskew: int = 300) -> Path:
        """A client's or server's krb5.conf."""
        file = self.directory / name
        text = _CONFIGURATION.format(
            realm=REALM,
            partner=PARTNER,
            port=self.ports[REALM],
            partner_port=self.ports[PARTNER],
            clockskew=clockskew,
        )
        file.write_text(text)
        return file

    def environment(self, *, configuration: Path | None = None, cache: Path | None = None) -> dict[str, str]:
        """What a process needs to find this KDC."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KRB5")}
        own = {
            "KRB5_CONFIG": str(configuration or self.directory / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(self.directory / "kdc.conf"),
        }
        return inherited | own | ({} if cache is None else {"KRB5CCNAME": f"FILE:{cache}"})

    def administer(self, *commands: str, realm: str = REALM) -> None:
        """Run commands of kadmin.local."""
        done = self._run("kadmin.local", "-r", realm, stdin="\n".join(commands) + "\n")
        if any(mark in done.stderr for mark in ("while", "Invalid", "usage:")):
            raise RuntimeError(done.stderr)

    def keytab(self, file: Path, *principals: str) -> Path:
        """New keys for the principals, written to a keytab (their key version goes up)."""
        self.administer(*(f"ktadd -k {file} {principal}" for principal in principals))
        file.chmod(0o600)
        return file

    def kinit(self, principal: str, *, lifetime: str = "1h", password: str = PASSWORD) -> Tickets:
        """A new credential cache with a ticket-granting ticket."""
        self._caches += 1
        cache = self.directory / f"cache{self._caches}"
        self._run("kinit", "-l", lifetime, principal, cache=cache, stdin=f"{password}\n")
        return Tickets(kdc=self, cache=cache)

    def _run(
        self, name: str, *arguments: str, stdin: str | None = None, cache: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [program(name), *arguments],
            env=self.environment(cache=cache),
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done


@dataclass(frozen=True, kw_only=True, slots=True)
class Tickets:
    """A client's credential cache."""

    kdc: KDC
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        return self.kdc.environment(cache=self.cache)

    def fetch(self, service: str) -> None:
        """Get the service ticket now."""
        self.kdc._run("kvno", service, cache=self.cache)

    def shift_clock(self, seconds: int) -> None:
        """Have the cache say that the KDC's clock is that far from this machine's: the client follows it.

        The header of a cache file may tell the difference (version 4 of the format, tag 1).
        """
        content = self.cache.read_bytes()
        version, length = struct.unpack(">HH", content[:4])
        assert version == 0x0504
        header = struct.pack(">HHii", 1, 8, seconds, 0)
        self.cache.write_bytes(struct.pack(">HH", version, len(header)) + header + content[4 + length :])

    def client(
        self,
        service: str = f"HTTP/localhost@{REALM}",
        *,
        mech: gssapi.OID = SPNEGO,
        flags: Sequence[gssapi.RequirementFlag] = (gssapi.RequirementFlag.mutual_authentication,),
        bindings: bytes | None = None,
    ) -> gssapi.SecurityContext:
        """The initiator's side of an exchange. To be stepped `with tickets.active()`."""
        with self.active():
            name = gssapi.Name(service, gssapi.NameType.kerberos_principal)
            credentials = gssapi.Credentials(usage="initiate", store={"ccache": f"FILE:{self.cache}"})
            return gssapi.SecurityContext(
                name=name,
                creds=credentials,
                usage="initiate",
                mech=mech,
                flags=list(flags),
                channel_bindings=None if bindings is None else ChannelBindings(application_data=bindings),
            )

    def step(self, client: gssapi.SecurityContext, answer: bytes | None = None) -> bytes | None:
        """The client's next token."""
        with self.active():
            return client.step(answer)

    def token(self, service: str = f"HTTP/localhost@{REALM}", **more: object) -> bytes:
        """A first token for a service."""
        token = self.step(self.client(service, **more))
        assert token is not None
        return token

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Have the library in this process use this KDC's configuration."""
        before = {name: os.environ.get(name) for name in ("KRB5_CONFIG", "KRB5CCNAME")}
        os.environ["KRB5_CONFIG"] = str(self.kdc.directory / "krb5.conf")
        os.environ["KRB5CCNAME"] = f"FILE:{self.cache}"
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def negotiate(token: bytes) -> str:
    """The Authorization value that carries a token (RFC 4559, 4.2)."""
    return f"Negotiate {base64.b64encode(token).decode()}"

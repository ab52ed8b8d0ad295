"""A directory to test against: OpenLDAP's slapd in a folder of its own, with people in it and a certificate made for the occasion.

In the room: `Slapd`, which makes it, starts it, stops it and starts it again; who is in it; and `Stall`, a proxy that can be told to
swallow everything. Not in the room: kipuka.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from kipuka.testing.pki import make_root
from kipuka.testing.server import free_port, wait_until

SUFFIX = "dc=example,dc=com"
PEOPLE = f"ou=people,{SUFFIX}"
GROUP = f"cn=est,ou=groups,{SUFFIX}"
SERVICE = f"cn=kipuka,ou=services,{SUFFIX}"
ROOT = f"cn=admin,{SUFFIX}"
PASSWORD = "correct-horse-battery"
SERVICE_PASSWORD = "the-servers-own-secret"
STRANGE = 'w,e+i"r\\d;<o>=#*()'
"""A user name with every character that means something in a filter or a distinguished name."""

_CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.2.840.113556.1.4.619 NAME 'dNSHostName'
    EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.656 NAME 'userPrincipalName'
    EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
objectclass ( 1.2.840.113556.1.5.9999 NAME 'principalNames' SUP top AUXILIARY
    MAY ( dNSHostName $ userPrincipalName ) )
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile {directory}/slapd.pid
loglevel none
threads 4
TLSCACertificateFile {directory}/ca.pem
TLSCertificateFile {directory}/ldap.crt
TLSCertificateKeyFile {directory}/ldap.key
TLSVerifyClient never
database mdb
suffix "{suffix}"
rootdn "{root}"
rootpw {password}
directory {directory}/data
maxsize 16777216
dbnosync
lastmod on
index objectClass,uid eq
overlay ppolicy
ppolicy_default "cn=default,ou=policies,{suffix}"
ppolicy_use_lockout
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{service}" read by self read by anonymous none by * none
"""

_TREE = f"""
dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
o: Example

dn: ou=people,{SUFFIX}
objectClass: organizationalUnit

dn: ou=groups,{SUFFIX}
objectClass: organizationalUnit

dn: ou=services,{SUFFIX}
objectClass: organizationalUnit

dn: ou=policies,{SUFFIX}
objectClass: organizationalUnit

dn: cn=default,ou=policies,{SUFFIX}
objectClass: device
objectClass: pwdPolicy
pwdAttribute: userPassword

dn: cn=strict,ou=policies,{SUFFIX}
objectClass: device
objectClass: pwdPolicy
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: 2

dn: cn=expiring,ou=policies,{SUFFIX}
objectClass: device
objectClass: pwdPolicy
pwdAttribute: userPassword
pwdMaxAge: 1

dn: cn=graceful,ou=policies,{SUFFIX}
objectClass: device
objectClass: pwdPolicy
pwdAttribute: userPassword
pwdMaxAge: 1
pwdGraceAuthNLimit: 100

dn: cn=changing,ou=policies,{SUFFIX}
objectClass: device
objectClass: pwdPolicy
pwdAttribute: userPassword
pwdMustChange: TRUE

dn: {SERVICE}
objectClass: applicationProcess
objectClass: simpleSecurityObject
userPassword: {SERVICE_PASSWORD}

dn: {GROUP}
objectClass: groupOfNames
member: uid=alice,{PEOPLE}
member: uid=ws42,{PEOPLE}

dn: cn=posix,ou=groups,{SUFFIX}
objectClass: posixGroup
gidNumber: 1000
memberUid: bob
"""

_PERSON = """
dn: uid={escaped},{people}
objectClass: inetOrgPerson
objectClass: principalNames
uid: {uid}
cn: {cn}
sn: Of That Name
userPassword: {password}
{more}
"""


def _escaped(text: str) -> str:
    """By another way than the plugin's: every octet in hexadecimal (RFC 4514, 2.4)."""
    if text.isalnum() and text.isascii():
        return text
    return "".join(f"\\{octet:02x}" for octet in text.encode())


def person(uid: str, cn: str, *more: str) -> str:
    """An entry in LDIF."""
    return _PERSON.format(escaped=_escaped(uid), people=PEOPLE, uid=uid, cn=cn, password=PASSWORD, more="\n".join(more))


def _under(policy: str) -> str:
    return f"pwdPolicySubentry: cn={policy},ou=policies,{SUFFIX}"


_LONG_AGO = "pwdChangedTime: 20200101000000Z"
_PEOPLE = (
    person("alice", "Alice Adams", "mail: alice@example.com", "userPrincipalName: alice@example.com"),
    person("bob", "Bob, Brown+Co", "cn: Robert Brown", "mail: not a mail address"),
    person("ws42", "Workstation 42", "dNSHostName: WS42.example.com"),
    person("jürgen", "Jürgen Groß"),
    person(STRANGE, "Somebody"),
    person("locked", "Locked Out", "pwdAccountLockedTime: 000001010000Z", _under("strict")),
    person("guessed", "Often Guessed", _under("strict")),
    person("expired", "Expired Password", _LONG_AGO, _under("expiring")),
    person("graceful", "Grace Left", _LONG_AGO, _under("graceful")),
    person("reset", "Must Change", "pwdReset: TRUE", _under("changing")),
    person("twin1", "Twin", "employeeNumber: 7"),
    person("twin2", "Twin", "employeeNumber: 7"),
)


def find_slapd() -> str | None:
    """Where slapd is; a user's PATH lacks the folder of the programs that serve."""
    return shutil.which("slapd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


class Slapd:
    """A directory server on two ports of 127.0.0.1. A context manager that fills it, serves it, and stops."""

    password = PASSWORD
    service_password = SERVICE_PASSWORD

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = self.tls_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def plain(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def encrypted(self) -> str:
        return f"ldaps://127.0.0.1:{self.tls_port}"

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.pem"

    def __enter__(self) -> Self:
        found = find_slapd()
        assert found is not None
        # Under its own name a security profile of the distribution keeps it to its own folders.
        self._program = self.directory / "slapd"
        shutil.copy(found, self._program)
        root = make_root("Directory CA")
        self.ca_file.write_bytes(root.pem)
        root.issue_server("localhost", "127.0.0.1").write(self.directory, "ldap")
        (self.directory / "data").mkdir()
        self._configuration = self.directory / "slapd.conf"
        text = _CONFIGURATION.format(
            directory=self.directory, suffix=SUFFIX, root=ROOT, password=PASSWORD, service=SERVICE
        )
        self._configuration.write_text(text)
        self.load(_TREE + "".join(_PEOPLE))
        for attempt in range(3):  # a port that was free may be somebody else's by now
            self.port, self.tls_port = free_port(), free_port()
            with contextlib.suppress(RuntimeError, FileNotFoundError):
                return self.start()
            assert attempt < 2, (self.directory / "slapd.err").read_text()
        raise AssertionError

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()

    def load(self, ldif: str) -> None:
        """Put entries into the database while nobody serves it."""
        file = self.directory / "entries.ldif"
        file.write_text(ldif, encoding="utf-8")
        done = subprocess.run(
            [self._program, "-T", "add", "-f", self._configuration, "-l", file],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> Self:
        with (self.directory / "slapd.err").open("ab") as err:
            self._process = subprocess.Popen(
                [
                    *(self._program, "-d", "0", "-f", self._configuration),
                    *("-h", f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
            )
        wait_until(self._serves, what="slapd")
        return self

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        self._process = None

    def _serves(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self.directory / "slapd.err").read_text())
        return {self.port, self.tls_port} <= _listening(self._process.pid) and self._shakes_hands()

    def _shakes_hands(self) -> bool:
        """Whether TLS can be had: it listens a little before it does."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        try:
            with (
                socket.create_connection(("127.0.0.1", self.tls_port), timeout=5) as connection,
                context.wrap_socket(connection, server_hostname="localhost"),
            ):
                return True
        except OSError:
            return False

    def section(self, **changes: object) -> dict[str, object]:
        """`[ldap]` for this directory, with changes; None takes a key out."""
        whole: dict[str, object] = {
            "servers": [self.encrypted],
            "ca_file": str(self.ca_file),
            "bind_dn": SERVICE,
            "bind_password": SERVICE_PASSWORD,
            "user_base": PEOPLE,
            "max_failures": 10000,
            **changes,
        }
        return {key: value for key, value in whole.items() if value is not None}

    def modify(self, dn: str, *lines: str) -> None:
        """Change an entry, by the lines of an LDIF change record."""
        import ldap

        handle = ldap.initialize(self.plain)
        handle.simple_bind_s(ROOT, PASSWORD)
        kinds = {"add": ldap.MOD_ADD, "replace": ldap.MOD_REPLACE, "delete": ldap.MOD_DELETE}
        changes = []
        for line in lines:
            kind, attribute, *value = line.split(" ", 2)
            changes.append((kinds[kind], attribute, [value[0].encode()] if value else None))
        handle.modify_s(dn, changes)
        handle.unbind_s()


def _listening(pid: int) -> set[int]:
    """The ports on which that very process listens: somebody else's on the same port would be no directory."""
    own: set[str] = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            own.add(str(file.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}


class Stall:
    """A proxy on a port of its own that passes everything on, until it is told to swallow it: connections stay, nothing comes.

    With `after` it swallows only what has these octets in it. With `forged` it adds these octets to the server's first answer. `sent` has all that clients sent, and
    `requests` the tag of each LDAP request where nothing is encrypted (RFC 4511, 4.2 to 4.12).
    """

    def __init__(self, target: int, *, address: str = "127.0.0.1", after: bytes = b"", forged: bytes = b"") -> None:
        self._target = target
        self._listener = socket.create_server((address, 0))
        self.after = after
        self.forged = forged
        self.forgeries = 0
        self.sent: list[bytes] = []
        self.requests: list[int] = []
        self.port: int = self._listener.getsockname()[1]
        self.stalled = threading.Event()
        self.connections = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)
        self._listener.close()

    def _run(self) -> None:
        pairs: dict[socket.socket, socket.socket] = {}
        clients: set[socket.socket] = set()
        while not self._ended.is_set():
            for ready in self._ready([self._listener, *pairs]):
                if ready is self._listener:
                    near = self._listener.accept()[0]
                    far = socket.create_connection(("127.0.0.1", self._target))
                    pairs[near], pairs[far] = far, near
                    clients.add(near)
                    self.connections += 1
                elif ready in pairs and not self._pass_on(ready, pairs[ready], client=ready in clients):
                    for end in (pairs.pop(pairs[ready]), pairs.pop(ready)):
                        end.close()
        for end in pairs:
            end.close()

    def _ready(self, ends: Sequence[socket.socket]) -> Sequence[socket.socket]:
        return select.select(ends, [], [], 0.02)[0]

    def _pass_on(self, near: socket.socket, far: socket.socket, *, client: bool) -> bool:
        with contextlib.suppress(OSError):
            data = near.recv(65536)
            if data and client:
                self.sent.append(data)
                self.requests.append(_tag(data))
            if self.forged and not client and not self.forgeries:
                data += self.forged
                self.forgeries += 1
            if data and not (self.stalled.is_set() and self.after in data):
                far.sendall(data)
            return bool(data)
        return False


def _tag(message: bytes) -> int:
    """The tag of the operation in an LDAPMessage with a small message id."""
    start = 2 if message[1] < 0x80 else 2 + (message[1] & 0x7F)
    return message[start + 3] if len(message) > start + 3 else 0

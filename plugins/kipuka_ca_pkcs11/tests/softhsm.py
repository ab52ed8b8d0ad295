"""An HSM in software: SoftHSM 2, with tokens in a folder of the test's own.

In the room: making tokens, bringing keys onto them, and taking them away. Not in the room: anything of the plugin.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kipuka.testing.pki import Credential

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711-geheim"
SO_PIN = "12345678"


@dataclass(kw_only=True)
class SoftHSM:
    """Tokens under `directory`. What uses them needs `environ`."""

    directory: Path
    pin: str = PIN
    _ids: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.tokens.mkdir(parents=True)
        self.config.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n", encoding="ascii"
        )

    @property
    def tokens(self) -> Path:
        return self.directory / "tokens"

    @property
    def config(self) -> Path:
        return self.directory / "softhsm2.conf"

    @property
    def environ(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.config)}

    def util(self, *arguments: str) -> str:
        done = subprocess.run(
            ["softhsm2-util", *arguments],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def make_token(self, label: str = "kipuka") -> None:
        self.util("--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", self.pin)

    def bring(self, credential: Credential, *, label: str = "issuing", token: str = "kipuka") -> str:
        """Put the private key of a certificate onto a token; gives its id."""
        self._ids += 1
        identifier = f"{self._ids:04x}"
        file = self.directory / "key.pem"
        file.write_bytes(credential.key_pem())
        self.util("--import", str(file), "--token", token, "--label", label, "--id", identifier, "--pin", self.pin)
        file.unlink()
        return identifier

    def take_away(self) -> None:
        """The tokens are gone, for every process that has them open too."""
        self.tokens.rename(self.directory / "away")

    def bring_back(self) -> None:
        (self.directory / "away").rename(self.tokens)

    def change_pin(self, pin: str, *, token: str = "kipuka") -> None:
        """The security officer sets another PIN; in a process of its own, as another program would."""
        lines = (
            "import sys, pkcs11",
            "found = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2])",
            "found.open(rw=True, so_pin=sys.argv[3]).init_pin(sys.argv[4])",
        )
        self._python(lines, token, SO_PIN, pin)

    def wrong_tries(self, token: str = "kipuka") -> bool:
        """Whether the token says that a wrong PIN was tried since the last good login."""
        lines = (
            "import sys, pkcs11",
            "found = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2])",
            "print(bool(found.flags & pkcs11.TokenFlag.USER_PIN_COUNT_LOW))",
        )
        return self._python(lines, token).strip() == "True"

    def _python(self, lines: tuple[str, ...], *arguments: str) -> str:
        command = [sys.executable, "-c", "\n".join(lines), str(MODULE), *arguments]
        done = subprocess.run(command, env={**os.environ, **self.environ}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

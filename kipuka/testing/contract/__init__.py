"""The promises of each kind of plugin, as pytest classes to derive from.

In the house: `AuthenticatorContract` (`authenticator`), `CABackendContract` (`ca_backend`), `AuditSinkContract` (`audit_sink`), and what
all three have in common (`kind`). Not in the house: what one plugin promises beyond them; that is the deriving class's to add.

Each promise is a method that begins with `test_`, and runs with pytest alone. Where a plugin lacks what a promise is about (an
ability, a way to be out of reach) the test is skipped and says so.
"""

from __future__ import annotations

from kipuka.testing.contract.audit_sink import AuditSinkContract
from kipuka.testing.contract.authenticator import GARBAGE, AuthenticatorContract
from kipuka.testing.contract.ca_backend import CABackendContract
from kipuka.testing.contract.kind import KindContract

__all__ = ["GARBAGE", "AuditSinkContract", "AuthenticatorContract", "CABackendContract", "KindContract"]

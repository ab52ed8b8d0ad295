"""The audit log: numbered, hash-chained, and carried to sinks from the durable store.

In the house: the chain (`chain`), its verification (`verify`), delivery (`pipeline`), the published schema (`schema`), and three sinks
that are plugins like any other (`file`, `stdout`, `syslog`). Not in the house: the rows (`kipuka.store.events`) and the catalogue (`kipuka.api.events`).
"""

from __future__ import annotations

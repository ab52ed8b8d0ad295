"""The audit sink `syslog`: events as RFC 5424 messages to a collector, over UDP, TCP, TLS or a local socket.

In the house: one message (`message`), what carries it (`transport`), the keys of its item (`settings`), and the sink itself (`sink`).
A built-in that is a plugin like any other: beside each other its modules import `kipuka.api` only.
"""

from __future__ import annotations

"""The durable state of kipuka: one writer thread per process, group commit, synchronous SQLAlchemy Core.

In the house: the writer and the readers (`database`, `writer`), the dialects (`dialect`, `sqlite`, `turnstile`), the tables and
their migrations (`tables`, `schema`, `revisions`, `migrations/`), and one module of pure functions of a transaction per table
(`certificates`, `enrolments`, `events`, `lockouts`, `admin_tokens`, `jobs`). Not in the house: how events are chained and
delivered (`kipuka.audit`), and the business rules that decide what is written.
"""

from __future__ import annotations

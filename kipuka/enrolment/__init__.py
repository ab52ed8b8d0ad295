"""The enrolment: from an authenticated request to a recorded certificate.

In the room: the use case (`use_case`), its values (`attempt`), whose names are asked for (`asked`), private keys that are made here (`keys`),
its transactions (`units`) and calls of the CA (`authority`). Not in the room: HTTP, how bodies, names and paths are checked (`kipuka.est`, `kipuka.x509`), SQL
(`kipuka.store`).
"""

from kipuka.enrolment.attempt import Enrolled, EnrolmentRequest, LabelService, Postponed, Recognises
from kipuka.enrolment.authority import ask_authority
from kipuka.enrolment.keys import MakeSlowKey
from kipuka.enrolment.use_case import Checkpoint, Enrolment

__all__ = [
    "Checkpoint",
    "Enrolled",
    "Enrolment",
    "EnrolmentRequest",
    "LabelService",
    "MakeSlowKey",
    "Postponed",
    "Recognises",
    "ask_authority",
]

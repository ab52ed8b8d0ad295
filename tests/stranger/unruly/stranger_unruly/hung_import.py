"""Hangs while it is imported, as a module does that asks the network at its top level."""

import threading

KIPUKA_API = "1.0"

threading.Event().wait()

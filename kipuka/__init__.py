"""kipuka: an EST server (RFC 7030) whose authenticators, certification authorities and audit sinks are plugins."""

__version__ = "0.1.0"

"""Broken at import: a dependency is missing."""

import a_module_that_nobody_has_installed  # noqa: F401

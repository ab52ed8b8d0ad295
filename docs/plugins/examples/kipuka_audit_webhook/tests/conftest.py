"""The kit of kipuka."""

pytest_plugins = ["kipuka.testing.fixtures"]

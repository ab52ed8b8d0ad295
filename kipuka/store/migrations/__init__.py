"""The host's migrations: `env.py`, which also runs those of plugins, and the scripts in `versions/`."""

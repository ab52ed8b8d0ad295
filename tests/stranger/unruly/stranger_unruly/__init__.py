"""Plugins that load well and misbehave while they are used, as a file tells them to."""

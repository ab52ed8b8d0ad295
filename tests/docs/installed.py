"""Plugins of the pages as pip would leave them.

In the room: their modules in a folder, with what makes an entry point of one. Not in the room: running anything with them.
"""

from __future__ import annotations


def install(folder, name, modules):
    """The modules (texts by path) of the plugin that is called so; its distribution and package are `kipuka-NAME` and `kipuka_NAME`."""
    package = f"kipuka_{name}"
    info = f"{package}-0.1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: kipuka-{name.replace('_', '-')}\nVersion: 0.1.0\n"
    about = {
        f"{info}/METADATA": metadata,
        f"{info}/entry_points.txt": f"[kipuka.plugins]\n{name} = {package}.plugin\n",
    }
    for path, text in {f"{package}/__init__.py": "", **modules, **about}.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

"""Every source by name. A new one is a file in this folder and a line here."""

from __future__ import annotations

from importlib import import_module

from hepfm.core.errors import HepfmError
from hepfm.ingest.sources.base import Source

# name -> module and class; a source is imported when it is asked for, so none slows the others down.
SOURCES = {
    "jetclass": ("hepfm.ingest.sources.jetclass", "JetClassSource"),
}


def source(name: str) -> Source:
    """The source called ``name``.

    Raises:
        HepfmError: there is none; the message lists those there are.
    """
    if name not in SOURCES:
        raise HepfmError(f"no source is called '{name}'", "ingest", f"there is: {', '.join(sorted(SOURCES))}")
    module, attribute = SOURCES[name]
    return getattr(import_module(module), attribute)()

"""CMS collisions and simulation in PFNano and NanoAODv15 files (ROOT) as records of their AK8 jets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import awkward as ak
import numpy as np
import pyarrow as pa
import tyro

from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.ingest.formats import cms_selection as selection
from hepfm.ingest.formats.cms_events import Cuts, columns_of, decoded
from hepfm.ingest.formats.cms_file import EventsFile
from hepfm.ingest.formats.cms_layouts import EVENT, EVENTS, FULL_SCHEMA, JETS, LAYOUTS, Layout, is_simulation, layout_of
from hepfm.ingest.formats.particle_flow import Puppi
from hepfm.ingest.formats.windows import Decoded, OpenFiles, Windows, check_range
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import Contents
from hepfm.ingest.tally import Tally

OPEN_FILES = 8


@dataclass(frozen=True)
class Found:
    """What the files decide: their layout, and the certified luminosity blocks as they were when work began."""

    layout: Layout
    certified: selection.CertifiedRuns | None


@dataclass(frozen=True)
class CmsSource(Source):
    """Reader of PFNano of 2020, PFNano since 2021 and NanoAODv15, as TTree or RNTuple: an entry is a collision event.

    Jets are CMS's AK8 PUPPI jets (``FatJet``) with their particle-flow candidates. Impact parameters are turned from cm
    into mm and from CMS's sign into ours, null where a candidate has no track; a soft-drop mass or tau of -1 is null.
    pt, mass and soft-drop mass are CMS's, calibrated; ``pt_constituents`` is about 10% lower. NanoAODv15 has neither
    impact parameters nor PUPPI weights (its candidates are weighted already), and the charge follows from the PDG id.
    Jets without candidates are left out (NanoAODv15 has none beyond abs(eta) 2.5). ``jet_index`` is the index in
    ``FatJet``. Axis: the stored jet axis.

    An event whose index columns point outside their tables, or twice to a candidate from one jet, is a bad entry, and
    so is one whose run, luminosity block and event came before: simulated samples number their events alike, so each
    makes a corpus of its own.
    """

    selection: Literal["none", "aspenopenjets"] = "none"
    """Cuts: none; or aspenopenjets: certified runs, eight event filters, the OR of the JetHT triggers, and AK8 jets
    with pt > 300 GeV, abs(eta) < 2.5 and jetId 6 (worked out where NanoAODv15 lacks it)."""
    run_json: Path | None = None
    """Certified luminosity blocks of collision data, CMS's JSON (2016: CERN Open Data record 14220). Applied whenever
    given; aspenopenjets asks for it."""
    triggers: tuple[str, ...] = ()
    """Trigger paths of which one must have fired, with wildcards (HLT_PFJet*); default the JetHT families for
    aspenopenjets, otherwise no requirement."""
    puppi: Puppi = "apply"
    """PUPPI weights of the candidates: apply multiplies the four-vectors by them, and leaves candidates of weight 0
    out; ignore keeps all candidates as they are. The weights are kept as a column either way."""
    found: tyro.conf.Suppress[Found | None] = None

    name = "cms"
    kind = "jets"
    axis = "stored"

    @property
    def schema(self) -> pa.Schema:
        """What the files provide; before :meth:`bind` all that any layout does."""
        return FULL_SCHEMA if self.found is None else self.found.layout.schema

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return contents.has(EVENTS, *EVENT, f"{JETS}_pt") and any(
            contents.has(EVENTS, *layout.link_columns, *layout.candidate_columns) for layout in LAYOUTS
        )

    def bind(self, files: Sequence[Path]) -> CmsSource:
        """The source for files of one layout.

        Raises:
            HepfmError: no CMS file, or one without candidates; layouts or optional columns that differ; no trigger path
                or filter that the cuts ask for; collisions without ``--run-json``, simulation with it.
        """
        certified = None if self.run_json is None else selection.CertifiedRuns.load(self.run_json)
        bound = replace(self, found=None)
        with progress("opening files", len(files), "files", visible=len(files) > OPEN_FILES) as task:
            for path in files:
                events = _EVENTS.get(path)
                layout = layout_of(events.columns, path)
                if bound.found is None:
                    bound = replace(self, found=Found(layout, certified))
                elif layout != bound.found.layout:
                    told = f"provides {_told(layout)}, but {files[0]} {_told(bound.found.layout)}"
                    raise HepfmError(told, path, "ingest them as two corpora")
                bound._cuts(events)
                task.advance()
        return bound

    def settings(self) -> dict[str, Any]:
        """The certified runs by the content of their file, not by its name."""
        chosen: dict[str, Any] = {"selection": self.selection, "puppi": self.puppi}
        if self.found and self.found.certified:
            chosen["run_json"] = self.found.certified.digest
        if self.triggers:
            chosen["triggers"] = list(self.triggers)
        return chosen

    def entries(self, path: Path) -> int:
        """Number of events in a file.

        Raises:
            HepfmError: missing, empty, truncated or not a ROOT file; what :meth:`bind` raises.
        """
        return self._opened(path).events.entries

    def keys(self, path: Path) -> np.ndarray:
        """One for each event, of run, luminosity block and event number; of simulated ones also of their jets' pt.

        Simulated samples all count their events from the beginning of run 1, so the numbers alone do not tell.
        """
        events = self._opened(path).events
        columns = events.read(EVENT, 0, events.entries)
        numbers = [np.asarray(columns[name]) for name in EVENT]
        if is_simulation(events.columns):
            pt = f"{JETS}_pt"
            numbers.append(np.asarray(ak.sum(events.read([pt], 0, events.entries)[pt], axis=1)))
        return key(*numbers)

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        """Jets of events [start, stop).

        Raises:
            HepfmError: as for :meth:`entries`; the range leaves the file; an index outside its table, columns of one
                table that differ in length. Values that are not finite pass: they are the builder's to judge.
        """
        opened = self._opened(path)
        check_range(path, start, stop, opened.events.entries)
        part = opened.windows.read(start, stop)
        part.tell(tally or Tally(), start, path)
        return part.batch

    def _opened(self, path: Path) -> _Reading:
        bound = self if self.found is not None else self.bind([path])
        return _READING.get(path, bound)

    def _cuts(self, events: EventsFile) -> Cuts:
        """The cuts for a file; raises if it lacks what they need."""
        assert self.found is not None
        columns, path, certified = events.columns, events.path, self.found.certified
        aspen = self.selection == "aspenopenjets"
        simulation = is_simulation(columns)
        if simulation and certified:
            raise HepfmError("is simulation, which has no certified runs", path, "leave --run-json out")
        if aspen and not simulation and not certified:
            raise HepfmError(
                "holds collisions: --selection aspenopenjets needs --run-json",
                path,
                f"the certified runs of 2016 are at {selection.CERTIFIED}",
            )
        jet_id = f"{JETS}_jetId" in columns
        if aspen:
            selection.check_filters(columns, path)
            missing = [name for name in selection.JET_ID_COLUMNS if f"{JETS}_{name}" not in columns]
            if missing and not jet_id:
                raise HepfmError(f"has neither {JETS}_jetId nor {', '.join(missing)} to work it out from", path)
        asked = aspen or bool(self.triggers)
        return Cuts(
            certified=certified,
            filters=selection.FILTERS if aspen else (),
            triggers=selection.trigger_paths(columns, self.triggers, path) if asked else (),
            jets=aspen,
            jet_id=jet_id,
        )


def _told(layout: Layout) -> str:
    there = {"impact parameters": layout.impact, "charges": layout.charge, "PUPPI weights": layout.weight}
    has = [name for name, present in there.items() if present] + list(layout.jets)
    return f"layout {layout.name} with {', '.join(has) or 'kinematics alone'}"


class _Reading:
    """A file that fits a source, and the window of it that was decoded last."""

    def __init__(self, path: Path, source: CmsSource) -> None:
        assert source.found is not None
        self._path, self._layout, self._puppi = path, source.found.layout, source.puppi
        layout = layout_of(self.events.columns, path)
        if layout != self._layout:
            raise HepfmError(f"provides {_told(layout)}, not {_told(self._layout)}", path)
        self._cuts = source._cuts(self.events)
        if not self.events.entries:
            raise HepfmError(f"'{EVENTS}' has no entries", path, "leave the file out")
        size = self.events.window(layout.candidate_columns[0])
        self.windows = Windows(self.events.entries, size, self._decode)

    @property
    def events(self) -> EventsFile:
        """The file itself, which sources with other settings share: opening one takes a second."""
        return _EVENTS.get(self._path)

    def close(self) -> None:
        """Nothing is held open here."""

    def _decode(self, start: int, stop: int) -> Decoded:
        arrays = self.events.read(columns_of(self._layout, self._cuts), start, stop)
        return decoded(arrays, self._layout, self._cuts, self._puppi, start)


_EVENTS: OpenFiles[EventsFile] = OpenFiles(OPEN_FILES, EventsFile)
_READING: OpenFiles[_Reading] = OpenFiles(OPEN_FILES, _Reading)

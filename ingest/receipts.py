"""Receipts: what is known of a finished shard, kept until the corpus is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hepfm.core.errors import HepfmError
from hepfm.core.files import canonical_json, digest_of, read_json, write_bytes
from hepfm.ingest.shards import Block
from hepfm.ingest.summary import Summary
from hepfm.ingest.tally import Rejected


@dataclass(frozen=True)
class Receipt:
    """A finished shard: checksum, blocks, summaries of its quantities, and what became of the entries."""

    plan: str
    bytes: int
    sha256: str
    blocks: tuple[Block, ...]
    summaries: dict[str, Summary]
    cut_flow: dict[str, int]
    rejected: tuple[Rejected, ...] = ()

    @property
    def records(self) -> int:
        return sum(block.records for block in self.blocks)

    @property
    def points(self) -> int:
        return sum(block.points for block in self.blocks)

    def save(self, path: Path, within: Path) -> None:
        """Write it with a digest of itself, atomically, by a temporary file in the folder ``within``."""
        content = {
            "plan": self.plan,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "blocks": [vars(block) for block in self.blocks],
            # As pairs: the order of quantities and of cuts is part of what is written in the end.
            "summaries": [[name, vars(summary)] for name, summary in self.summaries.items()],
            "cut_flow": [[name, count] for name, count in self.cut_flow.items()],
            "rejected": [vars(entry) for entry in self.rejected],
        }
        write_bytes(path, canonical_json({**content, "digest": digest_of(content)}).encode(), within)

    @classmethod
    def load(cls, path: Path) -> Receipt | None:
        """The receipt, or None if there is none that can be trusted."""
        if not path.is_file():
            return None
        try:
            data: dict[str, Any] = read_json(path)
            stated = data.pop("digest")
            if digest_of(data) != stated:
                return None
            return cls(
                plan=data["plan"],
                bytes=data["bytes"],
                sha256=data["sha256"],
                blocks=tuple(Block(**block) for block in data["blocks"]),
                summaries={name: Summary(**summary) for name, summary in data["summaries"]},
                cut_flow=dict(data["cut_flow"]),
                rejected=tuple(Rejected(**entry) for entry in data["rejected"]),
            )
        except (HepfmError, KeyError, TypeError, ValueError, AttributeError):
            return None

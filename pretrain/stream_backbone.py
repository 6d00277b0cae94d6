"""A causal backbone over several streams: the embeddings of a step summed, a head for each stream, one for the stop.

What is predicted at one position (the first id of a point, the second of the one before, ...) is independent given all
that has been read; the delays say what that is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hepfm.core.nn.cache import Cache
from hepfm.core.nn.head import Head
from hepfm.core.nn.ragged import Layout
from hepfm.pretrain.backbone import INITIAL_STD, Backbone, BackboneConfig, build, products_of
from hepfm.pretrain.budget import BudgetEmbedding
from hepfm.pretrain.conditions import ConditionValues
from hepfm.pretrain.energy_profile import ProfileEmbedding, ProfileHead
from hepfm.pretrain.mixture import Mixture, MixtureHead, NumberEmbedding
from hepfm.pretrain.streams import Number, StreamBatch, Streams

STOP_HIDDEN, HIDDEN = 128, 256
DETERMINED = 1e-4  # between the bounds of a number: no more than rounding leaves, so it is not predicted


class Outlook(NamedTuple):
    """What comes at positions (T,).

    Attributes:
        stop: (T,) logit of there being no further point.
        ids: of each stream (T, codes), logits.
        number: mixtures of the number, if there is one; with a profile of its place between its bounds, 0 to 1.
    """

    stop: Tensor
    ids: tuple[Tensor, ...]
    number: Mixture | None


class Surprises(NamedTuple):
    """Sums of -ln p [nats], of numbers -ln density: of the stops, of each stream, of the number, of the profiles (and
    how many profiles count)."""

    stop: Tensor
    ids: tuple[Tensor, ...]
    number: Tensor | None
    profile: tuple[Tensor, Tensor] | None = None

    @property
    def total(self) -> Tensor:
        parts = [self.stop, *self.ids, *([] if self.number is None else [self.number])]
        parts += [] if self.profile is None else [self.profile[0]]
        return torch.stack([part.to(parts[0].dtype) for part in parts]).sum()


class StreamEmbedding(nn.Module):
    """The sum of the embeddings of what a step holds: each id, nothing included, and the number."""

    def __init__(self, streams: Streams, width: int) -> None:
        super().__init__()
        self.ids = nn.ModuleList(nn.Embedding(codes + 1, width) for codes in streams.codes)
        for table in self.ids:
            nn.init.normal_(table.weight, std=INITIAL_STD)  # type: ignore[arg-type]
        self.number = NumberEmbedding(width, streams.number) if streams.number else None

    def forward(self, ids: Tensor, numbers: Tensor | None) -> Tensor:
        """(T, width) of ids (T, Q) and numbers (T,)."""
        x: Tensor = sum(table(column) for table, column in zip(self.ids, ids.unbind(1), strict=True))
        if self.number is not None:
            x = x + self.number(numbers)
        return x


class StopHead(nn.Module):
    """Whether a record stops: logits (T,), or with targets (T,) of 0 and 1 the summed binary cross entropy [nats]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(width, STOP_HIDDEN), nn.Linear(STOP_HIDDEN, 1)
        for layer in (self.up, self.out):
            nn.init.normal_(layer.weight, std=INITIAL_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = self.out(F.silu(self.up(x)))[:, 0]
        if targets is None:
            return logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")


class StreamHeads(nn.Module):
    """The heads of all streams; see :class:`Outlook` and :class:`Surprises`.

    With a profile they see the features of a position beside the figures that it is told, through a layer of their own:
    what is possible hangs sharply on these, and blocks alone learn it late.
    """

    def __init__(self, streams: Streams, width: int) -> None:
        super().__init__()
        self.streams, number = streams, streams.number
        self.up = None
        if streams.profile and number:
            self.up = nn.Linear(width + streams.cells.figures, HIDDEN)
            number, width = (
                Number(f"place of {number.meaning}", low=0.0, high=1.0, components=number.components),
                HIDDEN,
            )
        self.ids = nn.ModuleList(Head(width, codes, bias=True) for codes in streams.codes)
        self.stop = StopHead(width)
        self.number = MixtureHead(width, number) if number else None

    def forward(self, x: Tensor, budget: Tensor | None = None, batch: StreamBatch | None = None) -> Outlook | Surprises:
        if self.up is not None and budget is not None:
            x = F.silu(self.up(torch.cat([x, budget.to(x.dtype)], -1)))
        if batch is None:
            number = self.number(x) if self.number else None
            return Outlook(self.stop(x), tuple(head(x) for head in self.ids), number)
        places, streams = batch.places, self.streams
        at = torch.cat([places, batch.ends])
        stops = torch.zeros(len(at), device=x.device)
        stops[len(places) :] = 1
        ids = tuple(
            head(x[places + delay], known)
            for head, delay, known in zip(self.ids, streams.delays, batch.points.unbind(1), strict=True)
        )
        number = None
        if self.number is not None and streams.number is not None:
            number = self._number(x[places + streams.number.delay], batch)
        return Surprises(self.stop(x[at], stops), ids, number)

    def _number(self, x: Tensor, batch: StreamBatch) -> Tensor:
        """Sum of -ln density [nats, per unit of the number] of the numbers of a batch, by features (N, width)."""
        assert self.number is not None
        assert batch.values is not None
        if batch.bounds is None:
            return self.number(x, batch.values)
        low, high = batch.bounds.unbind(1)
        free = high - low > DETERMINED
        room = (high - low)[free]
        return self.number(x[free], (batch.values - low)[free] / room) + room.log().sum()


class StreamBackbone(Backbone):
    """A backbone whose config names streams: steps in, the outlook on the next one out.

    What it is told of a record is added to the embedding of all of its positions.
    """

    embedding: StreamEmbedding  # type: ignore[assignment]
    heads: StreamHeads

    def __init__(self, config: BackboneConfig) -> None:
        assert config.streams is not None
        self.streams = config.streams
        super().__init__(config)
        profile, width = self.streams.profile, config.transformer.width
        self.profile = ProfileHead(width, profile, self.streams.least_energy) if profile else None
        self.profile_embedding = ProfileEmbedding(width, profile) if profile else None
        self.budget_embedding = BudgetEmbedding(width, self.streams.cells.figures) if profile else None

    def _make_embedding(self) -> None:
        self.embedding = StreamEmbedding(self.streams, self.config.transformer.width)

    def _make_head(self) -> None:
        self.heads = StreamHeads(self.streams, self.config.transformer.width)

    @property
    def head_products(self) -> int:
        return products_of(self.heads)

    def hidden_of(
        self,
        ids: Tensor,
        numbers: Tensor | None,
        layout: Layout,
        conditions: ConditionValues | None = None,
        profile: Tensor | None = None,
        budget: Tensor | None = None,
    ) -> Tensor:
        """Features (T, width) of packed steps: ids (T, Q), numbers (T,), ...; see :class:`StreamBatch`."""
        x = self.embedding(ids, numbers)
        begin = self.told_of(conditions, layout.sequences, profile)
        if begin is not None:
            counts = layout.offsets.diff()
            x = x + begin.to(x.dtype).repeat_interleave(counts, 0, output_size=layout.tokens)
        return self.transformer(self._with_budget(x, budget), layout)

    def told_of(self, conditions: ConditionValues | None, records: int, profile: Tensor | None) -> Tensor | None:
        """What is added (records, width) to all positions of a record: its conditions and profile (records, 2, L)."""
        begin = self.beginning(conditions, records)
        if self.profile_embedding is None or profile is None:
            return begin
        energies = self.profile_embedding(profile)
        return energies if begin is None else begin + energies

    def _with_budget(self, x: Tensor, budget: Tensor | None) -> Tensor:
        if self.budget_embedding is None or budget is None:
            return x
        return x + self.budget_embedding(budget).to(x.dtype)

    def surprises(self, batch: StreamBatch) -> Surprises:
        """-ln p of what a batch holds."""
        hidden = self.hidden_of(batch.ids, batch.numbers, batch.layout, batch.conditions, batch.profile, batch.budget)
        found = self.heads(hidden, batch.budget, batch)
        assert isinstance(found, Surprises)
        if self.profile is None or batch.profile is None:
            return found
        records = batch.layout.sequences
        told, scale = self._of_profile(batch.conditions, records)
        return found._replace(profile=self.profile(told, batch.profile, scale))

    def _of_profile(self, conditions: ConditionValues | None, records: int) -> tuple[Tensor, Tensor]:
        """What the profile's head is told (records, width), and the scale (records,) of its total; NaN if unknown."""
        assert self.streams.profile is not None
        device = next(self.parameters()).device
        told = self.beginning(conditions, records)
        if told is None:
            told = torch.zeros(records, self.config.transformer.width, device=device)
        name = self.streams.profile.scale
        if not name:
            return told, torch.ones(records, device=device)
        if conditions is None:
            return told, torch.full((records,), torch.nan, device=device)
        numbers = [known.name for known in self.config.conditions if known.is_number]
        return told, conditions.numbers[:, numbers.index(name)]

    def draw_profile(self, conditions: ConditionValues | None, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Energies [MeV] and numbers of hits (n, 2, L) of the layers of records, by uniform numbers (n, 1 + L, 4).

        Raises:
            ValueError: the streams have no profile.
        """
        if self.profile is None:
            raise ValueError("these streams have no profile")
        return self.profile.draw(*self._of_profile(conditions, len(uniform)), uniform, temperature)

    def outlook(self, hidden: Tensor, budget: Tensor | None = None) -> Outlook:
        """What comes at positions of these features (T, width), that were told this (T, 13 + A + B)."""
        found = self.heads(hidden, budget)
        assert isinstance(found, Outlook)
        return found

    def nothing(self, rows: int) -> tuple[Tensor, Tensor | None]:
        """The step before the first: ids (rows, Q) and numbers (rows,), nothing in all of them."""
        ids = torch.tensor(self.streams.codes).repeat(rows, 1)
        return ids, torch.full((rows,), torch.nan) if self.streams.number else None

    def step_of(
        self,
        ids: Tensor,
        numbers: Tensor | None,
        cache: Cache,
        begin: Tensor | None = None,
        budget: Tensor | None = None,
    ) -> Outlook:
        """The outlook after one more step of each row: ids (rows, Q), numbers (rows,), budget (rows, 13 + A + B).

        ``begin`` (rows, width) is what each row is told, see :meth:`told_of`.
        """
        x = self.embedding(ids, numbers)
        if begin is not None:
            x = x + begin.to(x.dtype)
        return self.outlook(self.transformer.step(self._with_budget(x, budget), cache), budget)

    def reference_inputs(self, draws: np.random.Generator, offsets: np.ndarray) -> dict[str, np.ndarray]:
        columns = [draws.integers(0, codes + 1, offsets[-1]) for codes in self.streams.codes]
        known = {"ids": np.stack(columns, axis=1)}
        if number := self.streams.number:
            drawn = draws.uniform(number.low, number.high, offsets[-1])
            known["numbers"] = np.where(draws.uniform(size=len(drawn)) < 0.1, np.nan, drawn).astype(np.float32)
        if profile := self.streams.profile:
            energies = draws.exponential(
                math.exp(profile.total_mean) / profile.parts, (len(offsets) - 1, profile.parts)
            )
            energies = np.where(draws.uniform(size=energies.shape) < 0.1, 0, energies)
            hits = np.where(energies > 0, np.ceil(draws.uniform(0, profile.most_hits, energies.shape)), 0)
            known["profile"] = np.stack([energies, hits], axis=1).astype(np.float32)
            known["budget"] = draws.uniform(-1, 1, (offsets[-1], self.streams.cells.figures)).astype(np.float32)
        return known

    def reference_outputs(
        self, known: dict[str, Tensor], lengths: np.ndarray, told: ConditionValues | None
    ) -> dict[str, Tensor]:
        layout = Layout.of(lengths).to(known["ids"].device)
        read = (known["ids"], known.get("numbers"), layout, told, known.get("profile"), known.get("budget"))
        outlook = self.outlook(self.hidden_of(*read), known.get("budget"))
        found = {"stop": outlook.stop, "logits": torch.cat(outlook.ids, -1)}
        if outlook.number is not None:
            found |= outlook.number._asdict()
        if self.profile is not None:
            begin, scale = self._of_profile(told, len(known["profile"]))
            total, records = self.profile(begin, known["profile"], scale)
            found["profile_nats"] = (total / records.clamp(min=1))[None]
        return found


def widened(backbone: Backbone, streams: Streams) -> Backbone:
    """The same backbone for numbers of another range and more hits in a layer; it computes what it did, but for
    components at the edges, and for more hits, which begin as probable as the most of before."""
    if streams == backbone.config.streams:
        return backbone
    made = build(replace(backbone.config, streams=streams)).train(backbone.training)
    known, sizes = backbone.state_dict(), made.state_dict()
    for name in (f"profile.counts.{part}" for part in ("out", "out_bias")):
        if name in known:
            more = sizes[name].shape[-1] - known[name].shape[-1]
            known[name] = torch.cat([known[name], known[name][..., -1:].expand(*known[name].shape[:-1], more)], -1)
    made.load_state_dict(known)
    return made

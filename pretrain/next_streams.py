"""Next-token prediction over several streams: how surprised is the backbone by each id and number of the next step?

The loss is the sum over a record of -ln p of all ids, -ln density of the numbers, and -ln p of going on or stopping,
divided by the points and stops (one term a point, one a stop, as for one stream): nats per point, of all that a point
is. A density is per unit of the number as the token corpus holds it (per unit of ln(energy / MeV) for showers of
``cells``), so it can be negative.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hepfm.core.engine.batches import Losses
from hepfm.core.nn.ragged import Layout
from hepfm.pretrain.backbone import products_of
from hepfm.pretrain.batches import terms
from hepfm.pretrain.objectives import Objective, Setting, network_flops
from hepfm.pretrain.stream_backbone import StreamBackbone
from hepfm.pretrain.streams import StreamBatch


class NextStreams(Objective):
    """-ln p of the next step [nats], summed over all real points."""

    reads = ("tokens",)
    backbone: StreamBackbone

    def __init__(self, backbone: StreamBackbone, setting: Setting) -> None:
        super().__init__()
        self.backbone, self.max_length = backbone, setting.max_length

    @staticmethod
    def terms(lengths: np.ndarray, setting: Setting) -> np.ndarray:
        """One for each point that is kept and one for the stop; see :func:`hepfm.pretrain.batches.terms`."""
        return terms(lengths, setting.max_length)

    def prepare(self, batch: StreamBatch) -> StreamBatch:  # type: ignore[override]
        return batch

    def whole(self, batch: StreamBatch) -> StreamBatch:  # type: ignore[override]
        return batch

    def forward(self, batch: StreamBatch) -> Losses:
        found = self.backbone.surprises(batch)
        points = torch.tensor(float(len(batch.points)), device=found.stop.device)
        parts = dict(zip(self.backbone.streams.labels, found.ids, strict=True))
        if found.number is not None:
            parts["number"] = found.number
        figures = {f"{name}_loss": torch.stack([part.detach().float(), points]) for name, part in parts.items()}
        stops = torch.tensor(float(len(batch.ends)), device=found.stop.device)
        figures["stop_loss"] = torch.stack([found.stop.detach().float(), stops])
        if found.profile is not None:
            total, records = found.profile
            figures["profile_loss"] = torch.stack([total.detach().float(), records.float()])
        return Losses(found.total, figures)

    def represent(self, whole: StreamBatch) -> tuple[Tensor, Layout]:
        return self.backbone.hidden_of(whole.ids, whole.numbers, whole.layout), whole.layout

    def flops(self, lengths: np.ndarray) -> np.ndarray:
        """Blocks and heads see all positions: more than points where streams lag behind."""
        positions = self.backbone.streams.positions(lengths, self.max_length)
        products = products_of(self.backbone.transformer) + self.backbone.head_products
        return network_flops(self.backbone.config.transformer, products, positions)

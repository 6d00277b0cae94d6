"""What a training leaves beside its weights says something of them."""

from __future__ import annotations

from hepfm.core.runs import lasting


def test_figures_of_the_last_batch_go_where_there_are_validated_ones() -> None:
    batch = {"loss": 1.0, "accuracy": 0.5, "gradient_norm": 2.0, "learning_rate": 0.1, "tokens": 9}
    validated = {"validation_loss": 2.0, "validation_accuracy": 0.4}
    assert lasting({**batch, **validated}) == {"tokens": 9, **validated}
    assert lasting(batch) == {"tokens": 9, "last_batch_loss": 1.0, "last_batch_accuracy": 0.5}

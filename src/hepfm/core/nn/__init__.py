"""Neural-network blocks that every stage shares: ragged layouts, attention, the transformer, the vocabulary head."""

"""hepfm: checked corpora, tokenizers and foundation-model pretraining for collider data."""

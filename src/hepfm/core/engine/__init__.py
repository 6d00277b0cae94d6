"""Training: one loop on DeepSpeed that tokenizers, backbones and heads share."""

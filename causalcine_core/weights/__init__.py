"""Tensors on disk: one reader of headers, one of tensors, one of our own entries; the layouts that checkpoints come in."""

"""Training data: a procedural world of multi-shot films with exact captions (see `world`)."""

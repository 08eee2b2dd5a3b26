"""Films as latents on disk, and the samples that a training step is made of."""

"""What adapts the core to ComfyUI: its MODEL, CLIP, VAE, progress and files, in both versions that are supported."""

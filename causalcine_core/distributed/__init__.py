"""Ranks that compute together: a device mesh with explicit groups, and sequence parallelism over attention heads.

Nothing here knows of films. `launch` is read before torch is imported, so this file imports nothing.
"""

"""One film on several devices."""

from .team import Team

__all__ = ["Team"]

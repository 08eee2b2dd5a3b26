"""Who makes the chunks of a film: this process, or workers that it hires. All speak one small protocol, `Executor`."""

from .executor import Executor, Job
from .local import LocalExecutor

__all__ = ["Executor", "Job", "LocalExecutor"]

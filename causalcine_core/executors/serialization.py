"""Values of this package between processes that know it by different names, as a program that has it inside a plug-in does."""

from __future__ import annotations

import io
import pickle
from typing import Any

PACKAGE = __name__.rpartition(".executors.")[0]  # here: `causalcine_core`, or where a plug-in keeps it
_NAME = PACKAGE.rpartition(".")[2]


def dumps(value: Any) -> bytes:
    return pickle.dumps(value)


def loads(data: bytes) -> Any:
    """What another process dumped, its classes of this package being ours. Only for what our own processes send."""
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        parts = module.split(".")
        if _NAME in parts:
            module = ".".join((PACKAGE, *parts[parts.index(_NAME) + 1 :]))
        return super().find_class(module, name)

"""What a node is given, checked before anything runs: a workflow of another version brings inputs and values that are none."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from comfy_api.latest import io

from ...causalcine_core import checks
from ...causalcine_core.errors import InputError


class Form(io.ComfyNode):
    """A node that refuses, in one sentence, a link into an input that it has not, and what its `check` refuses.

    ComfyUI itself checks numbers and (0.33) choices, but not for inputs that a node checks, nor what comes by a link, whose value
    is not known yet: a node checks that again when it runs.
    """

    @classmethod
    def check(cls) -> None:
        """Raise InputError where the value of a widget cannot be used. A node names as parameters, with a default, the inputs that it
        checks; of these it is given what came with the prompt as a value, numbers within their limits."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "define_schema" in cls.__dict__ and "validate_inputs" not in cls.__dict__:  # ComfyUI copies whole classes
            cls.validate_inputs = classmethod(_validation(cls))


def advanced(*inputs: io.WidgetInput) -> Iterable[io.WidgetInput]:
    """Optional inputs that the page shows where it is asked for all of a node's (0.3.64 has no parameter for it)."""
    for one in inputs:
        one.optional, one.extra_dict = True, {**one.extra_dict, "advanced": True}
    return inputs


def _validation(form: type[Form]) -> Callable[..., Coroutine[Any, Any, bool | str]]:
    """`validate_inputs` of a node, with the signature by which ComfyUI chooses what it is called with."""

    @functools.cache
    def schema() -> io.Schema:
        return form.define_schema()

    async def validate_inputs(cls: type[Form], **given: Any) -> bool | str:
        inputs = {one.id: one for one in schema().inputs}
        values = {name: value for name, value in given.items() if value is not None}
        try:
            for name in given:
                if name not in inputs:
                    kind = schema().display_name
                    raise InputError(
                        f"{name} is no input of this version's {kind}: remove its link, or put a new {kind} in this one's place"
                    )
            for name, value in values.items():
                _check_limits(inputs[name], value)
            await asyncio.to_thread(form.check, **values)  # the server answers others meanwhile
        except InputError as error:
            return str(error)
        return True

    names = ["cls", *inspect.signature(form.check).parameters, Unknown(lambda: {one.id for one in schema().inputs})]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    validate_inputs.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    return validate_inputs


class Unknown(str):
    """Equals the name of every input that a node has not.

    ComfyUI calls validate_inputs with those inputs of a prompt that `name in signature` finds, and a failure is shown at each of
    them: with `**kwargs` at all that the node has, and ComfyUI would check none of these.
    """

    known: Callable[[], set[str]]

    def __new__(cls, known: Callable[[], set[str]]) -> Unknown:
        self = super().__new__(cls, "unknown")
        self.known = known
        return self

    def __eq__(self, name: object) -> bool:
        return name != "input_types" and name not in self.known()  # with input_types ComfyUI would not check links

    __hash__ = str.__hash__


def _check_limits(one: Any, value: Any) -> None:
    if isinstance(one, io.Int.Input):
        checks.whole(value, one.id, one.min, one.max)
    elif isinstance(one, io.Float.Input):
        checks.number(value, one.id, one.min, one.max)

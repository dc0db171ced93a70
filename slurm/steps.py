"""How an arrow is called: by itself, or wrapped by whoever wants to see it, such as a Prefect task or a stopwatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Step(Protocol):
    """Given the name of an arrow and a function without arguments, return what the function returns."""

    def __call__(self, name: str, arrow: Callable[[], T]) -> T:
        """Call `arrow`."""
        ...


def call(name: str, arrow: Callable[[], T]) -> T:
    """Call an arrow and nothing else: the plain `Step`.

    >>> call("double", lambda: 2 * 21)
    42
    """
    del name
    return arrow()

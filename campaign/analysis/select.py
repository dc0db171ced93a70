"""Which systems: a condition in words over the columns of the table, such as `outcome == 'converged' and energy_per_atom < -3.2`.

The text is Python's syntax for conditions, read with `ast` and evaluated by the few rules below; nothing in it is ever executed, so a
condition may come from anyone. Comparisons (chains too), `and`, `or`, `not`, `in`, `not in`, arithmetic, numbers and quoted text are
legal. `'Cu' in elements` asks for an element, `'slab' in source` for a part of a text, `outcome in ('diverged', 'failed')` for one of
several. A key of ASE's `info` is a column of its own: `info.prototype == 'L1_2'`. A comparison with a value that is not there (NaN, or
a key that this system's info lacks) is false, and its `!=` is true.
"""

from __future__ import annotations

import ast
import difflib
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool

from campaign.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

_LONGEST: Final = 10_000
_INFO: Final = "info"
ELEMENTS: Final = "elements"
"""Column of element symbols joined by `-`; `in` asks it for one symbol, not for a part of the text."""

_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_ALLOWED: Final = "comparisons, and, or, not, in, arithmetic, numbers and quoted text over the columns of the table"


@dataclass(frozen=True)
class Where:
    """A condition that `parse_where` has accepted.

    `columns` are the columns it looks at, so that a reader fetches no others; `info.<key>` stands among them as it is written.
    """

    text: str
    columns: tuple[str, ...]

    @cached_property
    def _tree(self) -> ast.expr:
        return _parse(self.text)

    def __getstate__(self) -> dict[str, Any]:
        return {"text": self.text, "columns": self.columns}

    def __dask_tokenize__(self) -> tuple[str, str]:
        return (type(self).__name__, self.text)

    def mask(self, frame: pd.DataFrame) -> Bool[np.ndarray, " N"]:
        """Return which rows of `frame`, which has all `columns`, satisfy the condition.

        Raises:
            SpecError: text is compared with a number, or the result is no condition.

        >>> import pandas as pd
        >>> parse_where("n_atoms > 4", ["n_atoms"]).mask(pd.DataFrame({"n_atoms": [2, 8]})).tolist()
        [False, True]
        """
        with np.errstate(all="ignore"):
            try:
                result = _Evaluation(self.text, frame).condition(self._tree)
            except (TypeError, OverflowError) as error:
                raise SpecError(
                    f"the condition {self.text!r} cannot be evaluated: {error}. Compare text with text, numbers with numbers."
                ) from error
        return np.broadcast_to(result, len(frame)).copy()


def parse_where(text: str, known: Iterable[str]) -> Where:
    """Return the condition in `text`; `known` are the columns it may use.

    Raises:
        SpecError: not a condition, something that is not allowed in one, or an unknown column, with the nearest known one.

    >>> parse_where("fmax < 0.01 and 'Cu' in elements", ["fmax", "elements"]).columns
    ('elements', 'fmax')
    """
    columns = set(_columns(text, _parse(text)))
    legal = set(known)
    for name in sorted(columns):
        if name in legal or name.startswith(f"{_INFO}."):
            continue
        near = difflib.get_close_matches(name, legal, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(legal))}, and info.<key>."
        raise SpecError(f"the condition {text!r} has an unknown column {name!r}; {hint} Correct it.")
    return Where(text, tuple(sorted(columns)))


def _parse(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise SpecError(f"the condition has {len(text)} characters; at most {_LONGEST} are allowed. Shorten it.")
    try:
        with warnings.catch_warnings():
            # What Python thinks of the style (an unknown escape, `is` with a number) is beside the point: it is refused or it is text.
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise SpecError(
            f"{text!r} is no condition{place}; allowed are {_ALLOWED}. Write it as in: outcome == 'converged' and fmax < 0.01"
        ) from None


def _columns(text: str, node: ast.expr) -> Iterator[str]:
    """Yield the columns below `node`, and refuse whatever a condition must not have."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        if not (isinstance(node.value, ast.Name) and node.value.id == _INFO):
            raise _refusal(text, node)
        yield f"{_INFO}.{node.attr}"
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, (str, int, float)):
            raise _refusal(text, node)
    else:
        for child in _children(text, node):
            yield from _columns(text, child)


def _children(text: str, node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        return [node.operand]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return [node.left, node.right]
    if isinstance(node, (ast.Tuple, ast.List)):
        return node.elts
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARE or isinstance(op, (ast.In, ast.NotIn)) for op in node.ops):
        return [node.left, *node.comparators]
    raise _refusal(text, node)


def _refusal(text: str, node: ast.expr) -> SpecError:
    return SpecError(f"the condition {text!r} has {ast.unparse(node)!r}, which is not allowed; allowed are {_ALLOWED}. Leave it out.")


@dataclass(frozen=True)
class _Evaluation:
    text: str
    frame: pd.DataFrame

    def condition(self, node: ast.expr) -> Any:
        """A boolean array, or one boolean, for a node that must be a condition."""
        if isinstance(node, ast.BoolOp):
            parts = [self.condition(part) for part in node.values]
            combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return combine.reduce(np.broadcast_arrays(*parts))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return np.logical_not(self.condition(node.operand))
        if isinstance(node, ast.Compare):
            return self._chain(node)
        value = self._value(node)
        if np.asarray(value).dtype != bool:
            raise SpecError(
                f"in the condition {self.text!r}, {ast.unparse(node)!r} is no condition but a value. Compare it with something."
            )
        return value

    def _chain(self, node: ast.Compare) -> Any:
        results, left = [], node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            results.append(self._contains(op, left, right) if isinstance(op, (ast.In, ast.NotIn)) else self._compare(op, left, right))
            left = right
        return np.logical_and.reduce(np.broadcast_arrays(*results))

    def _compare(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Any:
        first, second = self._value(left), self._value(right)
        if not (_is_text(first) or _is_text(second)):
            return _COMPARE[type(op)](first, second)
        if _is_text(first) != _is_text(second) and not (_of_info(left) or _of_info(right)):
            raise TypeError(f"{ast.unparse(left)} and {ast.unparse(right)} are text and number")
        # Absent text is None, and a key of info may be text in one system and a number in the next: pairs of one kind are compared, others
        # count as not there.
        first, second = np.broadcast_arrays(np.asarray(first, object), np.asarray(second, object))
        compare, absent = _COMPARE[type(op)], isinstance(op, ast.NotEq)
        pairs = zip(first.ravel().tolist(), second.ravel().tolist(), strict=True)
        result = [bool(compare(a, b)) if (kind := _kind(a)) and kind == _kind(b) else absent for a, b in pairs]
        return np.array(result, bool).reshape(first.shape)

    def _contains(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Any:
        if isinstance(right, (ast.Tuple, ast.List)):
            found = np.logical_or.reduce(np.broadcast_arrays(False, *(self._compare(ast.Eq(), left, item) for item in right.elts)))
        else:
            part, whole = self._value(left), self._value(right)
            if not isinstance(part, str) or not _is_text(whole):
                raise TypeError(
                    f"{ast.unparse(left)} in {ast.unparse(right)}: a quoted text in a text column, or a value in a list, is meant"
                )
            by_element = isinstance(right, ast.Name) and right.id == ELEMENTS
            texts = np.atleast_1d(np.asarray(whole, object))
            found = np.array([isinstance(t, str) and part in (t.split("-") if by_element else t) for t in texts], bool)
        return np.logical_not(found) if isinstance(op, ast.NotIn) else found

    def _value(self, node: ast.expr) -> Any:
        """An array of a column, or a scalar; numbers become float64 once something is done with them, so no power grows without bound."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return _as_array(self.frame[node.id])
        if isinstance(node, ast.Attribute):
            return _as_array(self.frame[f"{_INFO}.{node.attr}"])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return np.negative(np.asarray(self._number(node.operand), np.float64))
        if isinstance(node, ast.BinOp):
            first, second = (np.asarray(self._number(side), np.float64) for side in (node.left, node.right))
            return _ARITHMETIC[type(node.op)](first, second)
        return self.condition(node)

    def _number(self, node: ast.expr) -> Any:
        value = self._value(node)
        if _of_info(node) and _is_text(value):
            return np.array([item if _kind(item) == "number" else np.nan for item in value], np.float64)
        if _is_text(value):
            raise TypeError(f"{ast.unparse(node)} is text, and arithmetic needs numbers")
        return value


def _of_info(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute)


def _kind(value: Any) -> str | None:
    """What may be compared with what; None is comparable with nothing, and so is a list or an object of info."""
    if isinstance(value, str):
        return "text"
    return "number" if isinstance(value, (int, float, np.number, np.bool_)) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype == object)


def _as_array(column: pd.Series) -> Any:
    """Numbers and booleans as they are; text and values of info as objects, None where there is none."""
    if column.dtype.kind in "biuf":
        return column.to_numpy()
    values = column.to_numpy(object)
    return np.array([value if _kind(value) and value == value else None for value in values], object)

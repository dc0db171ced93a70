"""ASE's `info` as a JSON object and back: what JSON can say is kept, arrays become lists, anything else its text with a note."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

LONGEST_TEXT: Final = 1000
"""Characters kept of the text of a value that JSON cannot say."""

_DEEPEST: Final = 40
# An address differs from run to run, and equal inputs must give equal bytes.
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


def encode_info(info: Mapping[Any, Any]) -> str:
    """Return `info` as JSON text; the empty text if there is none, so that the column stays small.

    >>> import numpy as np
    >>> encode_info({"name": "å", "shift": np.arange(2.0), "bad": float("nan"), 7: True})
    '{"name": "å", "shift": [0.0, 1.0], "bad": {"text": "nan", "note": "not JSON: float"}, "7": true}'
    """
    if not info:
        return ""
    text = json.dumps(_plain(dict(info), 0), ensure_ascii=False, allow_nan=False)
    # Lone surrogates cannot be encoded; written out they are JSON's own escapes of the same characters.
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if depth < _DEEPEST:
        if isinstance(value, np.ndarray):
            return _plain(value.tolist(), depth + 1)
        if isinstance(value, Mapping):
            return {str(key): _plain(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(inner, depth + 1) for inner in value]
    return {"text": _ADDRESS.sub("", repr(value))[:LONGEST_TEXT], "note": f"not JSON: {type(value).__name__}"}

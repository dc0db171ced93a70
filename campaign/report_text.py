"""Numbers as the report writes them: for people, with units, never more digits than mean something."""

from __future__ import annotations

import math

_MINUS = "\u2212"


def count(number: int) -> str:
    """Return a whole number with its thousands apart.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{number:,}"


def percent(part: int, whole: int) -> str:
    """Return a share; 100 % and 0 % mean all and nothing, and not nearly.

    >>> percent(1, 3), percent(99_999, 100_000), percent(0, 0)
    ('33.3 %', '> 99.9 %', '–')
    """
    if whole == 0:
        return "–"
    if part in (0, whole):
        return f"{100 * part // whole} %"
    share = 100 * part / whole
    if share > 99.9:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.1 else f"{share:.1f} %"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter.

    >>> duration(0.0421), duration(12.34), duration(133), duration(11520), duration(172_800)
    ('42 ms', '12.3 s', '2 min 13 s', '3 h 12 min', '2 d')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    for large, large_name, small, small_name in ((3600, "min", 1, "s"), (86400, "h", 60, "min"), (math.inf, "d", 3600, "h")):
        if round(seconds / small) * small < large:
            whole, rest = divmod(round(seconds / small), {1: 60, 60: 60, 3600: 24}[small])
            return f"{whole} {large_name} {rest} {small_name}" if rest else f"{whole} {large_name}"
    return "–"


def significant(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, and without an exponent where it has a usual size.

    >>> significant(0.012345), significant(1234.5), significant(2.5e-7), significant(float("nan"))
    ('0.0123', '1,234', '2.50e−7', '–')
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 <= exponent < 7:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(power)}".replace("-", _MINUS)
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}".replace("-", _MINUS)


def fixed(value: float, decimals: int) -> str:
    """Return a number with so many decimals.

    >>> fixed(-3.45678, 4), fixed(float("nan"), 4)
    ('−3.4568', '–')
    """
    return f"{value:.{decimals}f}".replace("-", _MINUS) if math.isfinite(value) else "–"


def size(n_bytes: int) -> str:
    """Return an amount of memory.

    >>> size(412 * 2**20), size(3 * 2**30)
    ('412 MiB', '3.0 GiB')
    """
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"

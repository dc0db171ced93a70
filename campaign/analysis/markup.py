"""Where text from users becomes markup: the one place that escapes it.

Three places take text that somebody else chose (file names, comments in structures, error texts, the spec). HTML is escaped by Jinja, whose
environment is made here and escapes everything; Plotly reads a few tags in its labels, so text for it is escaped by `plotly_text`; data
inside a script element is made safe by `script_json`. All three first make visible what would not be seen or would turn the reading
direction around.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_DIGITS: Final = re.compile(r"(\d+)")


def printable(text: str) -> str:
    r"""Return `text` with every character that cannot be seen (control, direction, surrogate) written out; line ends and tabs stay.

    >>> printable("a\x1b[31m\u202efdc.exe")
    'a\\x1b[31m\\u202efdc.exe'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _written_out(letter) for letter in text)


def plotly_text(text: str) -> str:
    """Return `text` for a label or hover of Plotly, which would take `<a href=…>` for a link.

    >>> plotly_text("<b>a & b")
    '&lt;b&gt;a &amp; b'
    """
    return html.escape(" ".join(printable(text).split()), quote=False)


def script_json(value: Any) -> Markup:
    """Return a JSON text, or a value as JSON, for the inside of a script element: no text in it can end the element.

    >>> script_json(["</script><!--"])
    Markup('["\\\\u003c/script\\\\u003e\\\\u003c!--"]')
    """
    text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    # In JSON these characters occur inside strings only, where an escape means the same.
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def formula_markup(formula: str) -> Markup:
    """Return a formula with its counts as subscripts; HTML and Plotly understand it alike.

    >>> formula_markup("Cu3Au")
    Markup('Cu<sub>3</sub>Au')
    """
    return Markup(_DIGITS.sub(r"<sub>\1</sub>", html.escape(formula)))


def content_hash(content: str) -> str:
    """Return the source expression by which a content security policy allows one inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def environment() -> Environment:
    """Return the Jinja environment of reports: escapes everything, refuses names that are not there."""
    made = Environment(
        loader=PackageLoader("campaign", "report_template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    made.filters["formula"] = formula_markup
    return made


def _written_out(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"

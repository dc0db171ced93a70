"""Text from users as text: in HTML, in Plotly's labels, inside a script element."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.analysis.markup import content_hash, environment, formula_markup, plotly_text, printable, script_json

anything = st.text(st.characters(), max_size=60) | st.sampled_from(["</script>", "<!--<script>", "]]>", "&lt;", "\u2028", "\ud800"])


@given(anything)
def test_a_script_element_ends_where_we_end_it(text: str) -> None:
    class Scripts(HTMLParser):
        found = ""
        others = 0

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.others += tag != "script"

        def handle_data(self, data: str) -> None:
            self.found += data

    parser = Scripts()
    parser.feed(f'<script type="application/json">{script_json([text])}</script>')
    parser.close()
    assert parser.others == 0
    assert json.loads(parser.found) == [text]


@given(anything)
def test_labels_of_plotly_hold_no_tag_and_no_reference(text: str) -> None:
    label = plotly_text(text)
    assert "<" not in label
    assert ">" not in label
    assert "\n" not in label
    assert html.unescape(label) == " ".join(printable(text).split())


@given(anything)
def test_printable_text_stays_as_it_is_and_the_rest_is_written_out(text: str) -> None:
    shown = printable(text)
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)
    shown.encode()  # no lone surrogate is left
    if all(letter.isprintable() for letter in text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Å é 漢字 🧪.cif", "Å é 漢字 🧪.cif"),
        ("a\x00b", r"a\x00b"),  # control
        ("\u202efdc.exe", r"\u202efdc.exe"),  # turns the reading direction around
        ("\ud800", r"\ud800"),  # half of a character, from a name that is no UTF-8
        ("\U000e0041", r"\U000e0041"),  # an invisible tag
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_environment_escapes_without_being_asked() -> None:
    template = environment().from_string('<p title="{{ x }}">{{ x }}</p>{{ y | formula }}')
    made = template.render(x="\"><script>'&\x1b", y="Cu3Au")
    assert made == '<p title="&#34;&gt;&lt;script&gt;&#39;&amp;\\x1b">&#34;&gt;&lt;script&gt;&#39;&amp;\\x1b</p>Cu<sub>3</sub>Au'


def test_formulas_are_escaped_too() -> None:
    assert formula_markup("<b>2") == "&lt;b&gt;<sub>2</sub>"


def test_the_hash_is_that_of_the_standard() -> None:
    # The example of the Content Security Policy standard, level 2: <script>alert('Hello, world.');</script>
    assert content_hash("alert('Hello, world.');") == "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"

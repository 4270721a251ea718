"""Pages for every reader: structure, alternative texts, contrast, keyboard, no other server."""

import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from comparison_runs import make_run
from matplotlib import pyplot

from vaejax.comparison import report as comparison_report
from vaejax.comparison.report import Comparable
from vaejax.comparison.statistics import Setting
from vaejax.explain import page as explain_page
from vaejax.storage import html_page

LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3, level AA
REACHABLE = {"a", "button", "summary"}
VOID = {"img", "meta", "br", "link", "input"}


def _png():
    buffer = io.BytesIO()
    pyplot.imsave(buffer, np.zeros((2, 2)), format="png")
    return buffer.getvalue()


def _explain():
    entry = {
        "question": "Is it?",
        "headline": "It is",
        "seed": 0,
        "seconds": 1.0,
        "config": {"num_steps": 3},
        "numbers": {"elbo": -3.0, "parts": {"a": {"x": 1.0, "y": 2.0}, "b": {"x": 1.0, "y": 2.0}}},
        "sentences": ["One.", "Two."],
        "figures": [{"file": "figures/identity-a.png", "caption": "What is seen."}],
    }
    images = {"figures/identity-a.png": _png()}
    return explain_page.page({"identity": entry, "density": entry}, images, ["fixed_model"])


def _comparison():
    settings = [Setting(name, [make_run(name, shift=s)]) for name, s in (("a", 0.0), ("b", 0.1))]
    table = Comparable(settings, settings[0])
    picture = html_page.Picture("bounds", "L_k against k.", _png())
    return comparison_report.page([table], ["A line."], [picture])


PAGES = {"explain": _explain, "comparison": _comparison}


class _Elements(HTMLParser):
    """Every element with its attributes, its text and the elements around it."""

    def __init__(self, page):
        super().__init__()
        self.found, self._open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        around = [element["tag"] for element in self._open]
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "around": around}
        self.found.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def named(self, *tags):
        return [element for element in self.found if element["tag"] in tags]


@pytest.fixture(params=PAGES)
def page(request):
    return PAGES[request.param]()


def test_a_page_has_language_title_size_and_a_main_part(page):
    elements = _Elements(page)
    (root,), (title,) = elements.named("html"), elements.named("title")
    assert root["attrs"]["lang"] == "en"
    assert title["text"].strip()
    size = [e["attrs"]["content"] for e in elements.named("meta") if "name" in e["attrs"]]
    assert size == ["width=device-width, initial-scale=1"]  # and a reader may enlarge it
    (main,) = elements.named("main")
    assert main["around"] == ["html", "body"]
    outside = [e["tag"] for e in elements.found if e["text"].strip() and "main" not in e["around"]]
    assert {*outside} <= {"html", "head", "title", "style", "body", "main", "script"}


def test_headings_have_an_order(page):
    levels = [
        int(e["tag"][1]) for e in _Elements(page).named(*(f"h{level}" for level in range(1, 7)))
    ]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(new <= old + 1 for old, new in itertools.pairwise(levels))


def test_every_picture_and_control_says_what_it_is(page):
    elements = _Elements(page)
    assert elements.named("img")
    assert all(e["attrs"].get("alt", "").strip() for e in elements.named("img"))
    assert all(e["text"].strip() for e in elements.named("button", "a", "summary"))
    heads = elements.named("th")
    assert heads
    assert all(e["text"].strip() and e["attrs"].get("scope") in ("col", "row") for e in heads)
    names = [e["attrs"]["id"] for e in elements.found if "id" in e["attrs"]]
    assert len({*names}) == len(names)
    targets = [e["attrs"]["href"] for e in elements.named("a")]
    assert {*targets} <= {f"#{name}" for name in names}


def test_everything_is_reached_from_the_keyboard(page):
    elements = _Elements(page)
    for element in elements.found:
        handlers = [name for name in element["attrs"] if name.startswith("on")]
        assert not handlers, f"{element['tag']} has {handlers}"
        assert element["attrs"].get("tabindex", "0") == "0"
    script = "".join(element["text"] for element in elements.named("script"))
    clicked = re.findall(r'(\w+)"\)\.addEventListener\("click"', script)
    assert len(clicked) == script.count("addEventListener")
    assert {*clicked} <= REACHABLE
    if script:
        assert all(e["around"][-1] == "th" for e in elements.named("button"))
    # What scrolls to the side must take the focus, or hold something that does.
    scrolling = re.findall(r"\.([\w-]+) \{[^}]*overflow-x: auto", page)
    assert scrolling
    boxes = [e for e in elements.found if e["attrs"].get("class") in scrolling]
    assert boxes
    for box in boxes:
        assert box["attrs"]["tabindex"] == "0"
        assert box["attrs"]["role"] == "region"
        assert box["attrs"]["aria-label"].strip()
    assert ":focus-visible" in page
    assert "outline: none" not in page


def _luminance(colour):
    """Relative luminance of #rgb or #rrggbb (WCAG 2.2, "relative luminance")."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _contrast(one, other):
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_colours():
    assert _contrast("#000", "#ffffff") == pytest.approx(21.0)
    assert _contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)


def test_every_colour_of_text_is_read_on_every_background(page):
    (style,) = _Elements(page).named("style")
    colours = re.findall(r"(?<![-\w])color: *([^;}\s]+)", style["text"])
    grounds = re.findall(r"background: *([^;}\s]+)", style["text"])
    assert len(colours) >= 2
    assert all(value.startswith("#") for value in colours + grounds), "the test reads # alone"
    low = {(c, g) for c in colours for g in grounds if _contrast(c, g) < LEAST_CONTRAST}
    assert not low
    (outline,) = {*re.findall(r"outline: \d+px solid (#\w+)", style["text"])}
    assert all(_contrast(outline, ground) >= 3.0 for ground in grounds)  # 1.4.11


def test_a_page_asks_no_server_for_anything(page):
    for element in _Elements(page).found:
        assert element["tag"] not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "poster", "action"):
            value = element["attrs"].get(name, "#")
            assert value.startswith(("#", "data:")), value[:80]
    assert not re.search(r"@import|url\(|https?:", page)


def test_a_page_fits_a_telephone(page):
    """Nothing has a width of its own; pictures shrink as far as their words can be read, and then
    scroll in their box, as wide tables do; names of rows leave room for numbers beside them."""
    (style,) = _Elements(page).named("style")
    assert "img { max-width: 100%" in style["text"]
    assert ".picture { overflow-x: auto; } .picture img { max-width: max(100%, " in style["text"]
    assert all("div" in image["around"] for image in _Elements(page).named("img"))
    assert re.search(r"@media [^{]*\{ td:first-child \{ white-space: normal; \} \}", style["text"])
    assert not re.search(r"(?<![-\w])(min-)?width: *\d", style["text"])
    tables = _Elements(page).named("table")
    assert tables
    assert all("div" in table["around"] for table in tables)

"""The page of the experiments: questions, figures, numbers and sentences. Pure functions."""

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vaejax.storage import html_page

TITLE = "What log p(x) is, and what a VAE does about it"
_OPENING = (
    "A model of images spreads one unit of probability over all images it could ever produce; "
    "p(x) is what the image x gets of it, and log p(x) is that number in nats (1 nat = 1.44 bits).",
    "Averaged over images the model has not seen, it is the fairest single number we have: "
    "whoever gives much to what really occurs, and so wastes little on what does not, wins.",
    "A VAE draws a latent z and then x from p(x|z), so log p(x) is the log of an integral over "
    "all z; nobody can do that integral for a large model, and the rest of this page is about "
    "what is done instead, on models so small that it can be done exactly.",
)
_WORDS = {
    "p(x), more exactly p\u03b8(x)": "the probability (density) the model gives to x; "
    "\u03b8 are the parameters of the prior p(z) and the decoder p(x|z)",
    "p(z|x)": "the posterior: which z could have made this x; it follows from the model, "
    "but has no closed form",
    "q(z|x)": "the encoder's guess of the posterior; its parameters are called \u03c6",
    "KL(q || p)": "how far q is from p, in nats: zero where they are equal, never negative",
    "ELBO": "E_q[log p(x|z)] - KL(q(z|x) || p(z)): reconstruction minus a price for what z "
    "says about x; a lower bound on log p(x)",
    "L_k": "the bound that k samples of q give together; L_1 is the ELBO",
}
_SPELLINGS = {"kl": "KL", "elbo": "ELBO", "iwae": "IWAE", "nats": "(nats)", "degrees": "(degrees)"}
_PHRASES = {
    "log marginal": "log p(x)",
    "log p x": "log p(x)",
    "e log p theta": "E log p_\u03b8(x)",
    "p theta": "p_\u03b8(x)",
    "monte carlo": "Monte-Carlo",
}
_WIDEST = 7
_TEMPLATES = pathlib.Path(__file__).parent / "templates"


class Section(NamedTuple):
    """What the page says of one experiment, as texts; `name` is the target of its link."""

    name: str
    question: str
    headline: str
    text: str
    pictures: list[html_page.Picture]
    tables: list[html_page.Table]
    command: str
    budget: str


def words(name: str) -> str:
    """A key of `numbers` as a reader would write it: "elbo_nats" becomes "ELBO (nats)"."""
    text = " ".join(_SPELLINGS.get(word, word) for word in name.split("_"))
    for phrase, spelling in _PHRASES.items():
        text = text.replace(phrase, spelling)
    return re.sub(r"\bL (\d+)", r"L_\1", text)


def number(value: Any) -> str:
    """A plain value in the table: three decimals, or one digit where it is tiny."""
    if not isinstance(value, float):
        return str(value)
    if value == 0.0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.3f}"
    return f"{value:.1e}"


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one, names joined by ": "; lists stay in the JSON file."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _leaves(value, f"{prefix}{words(name)}: ")
        elif not isinstance(value, (list, tuple)):
            flat[f"{prefix}{words(name)}"] = value
    return flat


def number_tables(numbers: Mapping[str, Any]) -> list[html_page.Table]:
    """Dicts of the same names as rows of one table, everything else a line each.

    A table with many columns is turned over: one row for each quantity.
    """
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            flat = _leaves(value)
            if flat:
                groups.setdefault(("", *flat), []).append(
                    [words(name), *map(number, flat.values())]
                )
        elif not isinstance(value, (list, tuple)):
            groups.setdefault(("", "value"), []).append([words(name), number(value)])
    return [_number_table([list(head), *rows]) for head, rows in groups.items()]


def _number_table(cells: list[list[str]]) -> html_page.Table:
    if len(cells[0]) > _WIDEST:
        cells = [list(column) for column in zip(*cells, strict=True)]
    return html_page.Table(cells[0], [html_page.Row("", row) for row in cells[1:]])


def _command(name: str, seed: int) -> str:
    option = f" --seed={seed}" if seed else ""
    return f"python scripts/explain.py --workdir=runs/explain --only={name}{option}"


def _section(name: str, entry: Mapping[str, Any], images: Mapping[str, bytes]) -> Section:
    budget = ", ".join(f"{key} = {json.dumps(value)}" for key, value in entry["config"].items())
    return Section(
        name=name,
        question=entry["question"],
        headline=entry["headline"],
        text=" ".join(entry["sentences"]),
        pictures=[
            html_page.Picture(f"{name}-{number}", figure["caption"], images[figure["file"]])
            for number, figure in enumerate(entry["figures"], 1)
        ],
        tables=number_tables(entry["numbers"]),
        command=_command(name, entry["seed"]),
        budget=f"({entry['seconds']:.0f} s; {budget})",
    )


def page(
    entries: Mapping[str, Mapping[str, Any]], images: Mapping[str, bytes], absent: Sequence[str]
) -> str:
    """The whole page.

    Args:
      entries: of `explain.json`, by name, in the order of the page.
      images: PNG or GIF by the file names in `entries`.
      absent: experiments that have not been run.
    """
    return html_page.render(
        _TEMPLATES,
        "explain.html",
        title=TITLE,
        opening=_OPENING,
        words=list(_WORDS.items()),
        sections=[_section(name, entry, images) for name, entry in entries.items()],
        absent=absent,
        seconds=f"{math.fsum(entry['seconds'] for entry in entries.values()):.0f}",
    )

"""The page of the experiments: questions, figures, numbers and sentences. Pure functions."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

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
_STYLE = """
body { max-width: 60rem; } h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
nav li { margin: .4rem 0; } nav span, .small { color: #555; }
.headline { font-size: 1.15rem; font-weight: 600; color: #0072B2; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.5rem; }
figcaption { color: #555; } figure { margin: 1.2rem 0; }
td, th { padding: .2rem .7rem; } .numbers { overflow-x: auto; }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere; }
"""
_SPELLINGS = {"kl": "KL", "elbo": "ELBO", "iwae": "IWAE", "nats": "(nats)", "degrees": "(degrees)"}


_PHRASES = {
    "log marginal": "log p(x)",
    "log p x": "log p(x)",
    "e log p theta": "E log p_\u03b8(x)",
    "p theta": "p_\u03b8(x)",
    "monte carlo": "Monte-Carlo",
}
_WIDEST = 7


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


def number_tables(numbers: Mapping[str, Any]) -> str:
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
    return "".join(_number_table([list(head), *rows]) for head, rows in groups.items())


def _number_table(cells: list[list[str]]) -> str:
    if len(cells[0]) > _WIDEST:
        cells = [list(column) for column in zip(*cells, strict=True)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in cells[0])
    return html_page.table(head, [("", row) for row in cells[1:]])


def _command(name: str, seed: int) -> str:
    option = f" --seed={seed}" if seed else ""
    return f"python scripts/explain.py --workdir=runs/explain --only={name}{option}"


def _section(name: str, entry: Mapping[str, Any], images: Mapping[str, bytes]) -> str:
    budget = ", ".join(f"{key} = {json.dumps(value)}" for key, value in entry["config"].items())
    return "".join(
        [
            f'<section id="{html.escape(name)}"><h2>{html.escape(entry["question"])}</h2>',
            f'<p class="headline">{html.escape(entry["headline"])}</p>',
            html_page.paragraph(" ".join(entry["sentences"])),
            *[
                html_page.figure(f"{name}-{number}", figure["caption"], images[figure["file"]])
                for number, figure in enumerate(entry["figures"], 1)
            ],
            f'<div class="numbers">{number_tables(entry["numbers"])}</div>',
            f'<p class="small"><code>{html.escape(_command(name, entry["seed"]))}</code> '
            f"({entry['seconds']:.0f} s; {html.escape(budget)})</p></section>",
        ]
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
    contents = "".join(
        f'<li><a href="#{html.escape(name)}">{html.escape(entry["question"])}</a> '
        f"<span>{html.escape(entry['headline'])}.</span></li>"
        for name, entry in entries.items()
    )
    words_list = "".join(
        f"<dt>{html.escape(word)}</dt><dd>{html.escape(text)}</dd>" for word, text in _WORDS.items()
    )
    seconds = math.fsum(entry["seconds"] for entry in entries.values())
    body = [f"<h1>{html.escape(TITLE)}</h1>", *map(html_page.paragraph, _OPENING)]
    body.append(f"<nav><ol>{contents}</ol></nav>")
    body.append(f"<details><summary>The words used below</summary><dl>{words_list}</dl></details>")
    body += [_section(name, entry, images) for name, entry in entries.items()]
    if absent:
        body.append(html_page.paragraph(f"Not run: {', '.join(absent)}."))
    body.append(
        html_page.paragraph(
            f"Every number above comes from a run ({seconds:.0f} s in all) and stands with its "
            "config in explain.json; nothing was typed in by hand."
        )
    )
    return html_page.document(TITLE, body, style=_STYLE)

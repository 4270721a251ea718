"""One HTML page that needs no other file: skeleton, tables and embedded figures. Pure text."""

import base64
import html
from collections.abc import Iterable, Sequence

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { white-space: normal; }
figure { margin: 2rem 0; } img { max-width: 100%; height: auto; }
"""


def document(title: str, body: Iterable[str], *, style: str = "", script: str = "") -> str:
    """The page: `body` is HTML, `title` text; `style` follows the common one."""
    code = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head><body>{''.join(body)}{code}</body></html>\n"
    )


def paragraph(text: str) -> str:
    """Text as a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def table(head: str, rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table from the HTML of its head cells and rows of (CSS class, texts)."""
    body = []
    for name, cells in rows:
        attribute = f' class="{html.escape(name)}"' if name else ""
        body.append(
            f"<tr{attribute}>"
            + "".join(f"<td>{html.escape(text)}</td>" for text in cells)
            + "</tr>"
        )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def figure(name: str, caption: str, image: bytes) -> str:
    """A PNG or GIF, embedded, with its caption below."""
    kind = "gif" if image[:3] == b"GIF" else "png"
    text, data = html.escape(caption), base64.b64encode(image).decode()
    return (
        f'<figure><img id="{html.escape(name)}" alt="{text}" '
        f'src="data:image/{kind};base64,{data}"><figcaption>{text}</figcaption></figure>'
    )

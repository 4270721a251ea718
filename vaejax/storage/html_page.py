"""One HTML page that needs no other file, from jinja2 templates. Pure text.

Templates lie in `templates/` of the folder whose page it is, and extend `page.html` beside this
module. Everything put into them is escaped.
"""

import base64
import pathlib
from typing import Any, NamedTuple

import jinja2

_OWN = pathlib.Path(__file__).parent / "templates"


class Picture(NamedTuple):
    """A figure of a page.

    Attributes:
      name: its id; unique on the page.
      caption: one sentence, text.
      image: the bytes of a PNG or GIF.
    """

    name: str
    caption: str
    image: bytes

    @property
    def source(self) -> str:
        """The image itself as a data: address."""
        kind = "gif" if self.image[:3] == b"GIF" else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.image).decode()}"


class Row(NamedTuple):
    """A row of a table: its CSS class ("" for none) and the texts of its cells."""

    css: str
    cells: list[str]


class Table(NamedTuple):
    """A table of texts.

    Attributes:
      headings: one text per column.
      rows: as many cells each.
      title: a heading above it, "" for none.
    """

    headings: list[str]
    rows: list[Row]
    title: str = ""


def render(folder: pathlib.Path, template: str, **values: Any) -> str:
    """The page that the file `template` in `folder` makes of `values`.

    Raises:
      jinja2.UndefinedError: the template names a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _OWN]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)

"""Text for terminals, as it is: never read as markup, in whatever encoding the output has."""

from rich.text import Text

_SPELLINGS = {"Δ": "diff", "±": "+-"}


def literal(text: str, encoding: str = "utf-8") -> Text:
    """`text` for rich: "[/b]" stays "[/b]", and every character exists in `encoding`."""
    return Text(encodable(text, encoding))


def encodable(text: str, encoding: str) -> str:
    """`text` with what `encoding` lacks spelt out: Δ is "diff", ± is "+-", the rest is escaped."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        for character, spelling in _SPELLINGS.items():
            text = text.replace(character, spelling)
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return encodable(text, "ascii")
    return text


def one_line(text: str) -> str:
    r"""`text` without control characters, line ends or half surrogates: "\n" for a newline."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

"""A comparison as text: terminal table, Markdown and one HTML page. Pure functions."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table as TerminalTable

from vaejax.comparison import statistics as comparison
from vaejax.comparison.statistics import Difference, Judged, Setting
from vaejax.evaluation import means, seeds, terminal
from vaejax.storage import html_page

NOTES = (
    "Nats per example, ± one standard error. A value's error holds its data error (sd / sqrt(N)) "
    "and, with several seeds, its seed error; the error of a difference is paired: per-example "
    "differences on the same images and random numbers, and the seed error of both sides where "
    f"there are several. A verdict is a two-sided test at level {comparison.LEVEL} with Student's "
    "t (degrees of freedom by Welch and Satterthwaite over data and seeds): the first column tests "
    'the difference alone; the second, "Holm", holds for all differences of the table together, '
    "both columns of all settings (Holm, 1979). What is unclear is not claimed. Bits per "
    "dimension, where x are whole numbers, are those of L_K."
)
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_MARKDOWN = frozenset("\\|`*[]<>&~$!#{}")


class Comparable(NamedTuple):
    """Settings that may be compared with each other, and their baseline (or None)."""

    settings: list[Setting]
    baseline: Setting | None


class Cell(NamedTuple):
    """A cell: its text, and what is claimed where it is a difference ("" elsewhere)."""

    text: str
    judged: Judged | None = None


def number(value: Difference, sign: str = "") -> str:
    """An estimate and its error; "not finite" where it has no meaning."""
    if value.not_finite:
        return comparison.NOT_FINITE
    error = means.number(value.total_se)
    return f"{value.value:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")


def bracketed(judged: Judged) -> str:
    """A difference, in brackets where Holm's correction leaves it unclaimed."""
    text = number(judged.delta, "+")
    return f"({text})" if judged.verdict_holm == comparison.UNCLEAR else text


def num_dims(table: Comparable) -> int | None:
    """D where p(x) of a table is a mass of D whole numbers; None elsewhere."""
    found = table.settings[0].runs[0].result["protocol"].get("num_dims")
    return found if type(found) is int and found > 0 else None


def _bits(value: Difference, dims: int) -> str:
    """An estimate in bits per dimension; its errors are those in nats, in another unit."""
    if value.not_finite:
        return comparison.NOT_FINITE
    return f"{means.bits_per_dim(value.value, dims):.4f}"


def bound_title(name: str) -> str:
    """A bound as the field writes it."""
    if name.startswith("iwae_"):
        return f"L_{name[5:]}"
    return {"elbo": "ELBO", "log_marginal": "log p(x)"}[name]


def title(table: Comparable) -> str:
    """On what the runs were evaluated."""
    protocol = table.settings[0].runs[0].result["protocol"]
    return (
        f"{protocol['dataset']} {protocol['split']}, {protocol['num_examples']:,} examples, "
        f"K = {protocol['num_samples']:,}"
    )


def compared(table: Comparable) -> tuple[str, str]:
    """The two bounds that a table shows, and whose differences are one family of tests."""
    names = comparison.bound_names([run for setting in table.settings for run in setting.runs])
    return "elbo", comparison.top_bound(names)


def cells(table: Comparable) -> tuple[list[str], list[list[Cell]]]:
    """Headings and one row per setting: ELBO, L_K, gap, differences to the baseline."""
    shown = compared(table)
    top = bound_title(shown[1])
    dims = num_dims(table)
    bits = [] if dims is None else ["bits per dim"]
    headings = ["setting", "seeds", "ELBO", top, f"{top} - ELBO", *bits]
    if table.baseline is not None:
        headings += [f"Δ {bound_title(name)}" for name in shown]
    judged = comparison.judge(table.settings, table.baseline, shown)
    rows = []
    for setting in table.settings:
        own = [number(comparison.estimate(setting, name)) for name in shown]
        own.append(number(comparison.gap(setting, shown[1])))
        own += [_bits(comparison.estimate(setting, shown[1]), dims) for _ in bits]
        row = [setting.name, seeds.count_text(len(setting.runs), setting.failed), *own]
        found = [Cell(text) for text in row]
        for name in shown if table.baseline is not None else ():
            one = judged.get((setting.name, name))
            found.append(Cell("baseline") if one is None else Cell(number(one.delta, "+"), one))
        rows.append(found)
    return headings, rows


def with_verdicts(table: Comparable) -> tuple[list[str], list[list[str]]]:
    """`cells` as texts; beside each difference its verdict, alone and after Holm's correction."""
    headings, rows = cells(table)
    wide = [h for text in headings for h in ([text, "verdict", "Holm"] if _delta(text) else [text])]
    found = []
    for row in rows:
        texts = []
        for heading, cell in zip(headings, row, strict=True):
            texts.append(cell.text)
            if cell.judged is not None:
                texts += [cell.judged.verdict, cell.judged.verdict_holm]
            elif _delta(heading):
                texts[-1:] = ["", "baseline", "baseline"]
        found.append(texts)
    return wide, found


def _delta(heading: str) -> bool:
    return heading.startswith("Δ ")


def terminal_table(table: Comparable, *, encoding: str = "utf-8") -> TerminalTable:
    """The comparison as a reader sees it in a terminal of this encoding."""
    headings, rows = cells(table)
    caption = "nats per example; ± one standard error"
    if table.baseline is not None:
        caption += (
            f"; Δ paired, in brackets where not claimed (p > {comparison.LEVEL}), with a star "
            "where claimed alone but not after Holm's correction for all of them"
        )
    shown = TerminalTable(
        title=terminal.literal(title(table), encoding),
        caption=terminal.literal(caption, encoding),
    )
    for index, heading in enumerate(headings):
        justify = "left" if index == 0 else "right"
        shown.add_column(terminal.literal(heading, encoding), justify=justify, overflow="fold")
    for row in rows:
        shown.add_row(*[terminal.literal(_marked(cell), encoding) for cell in row])
    return shown


def _marked(cell: Cell) -> str:
    if cell.judged is None or cell.judged.delta.not_finite:
        return cell.text
    if cell.judged.verdict == comparison.UNCLEAR:
        return f"({cell.text})"
    return f"{cell.text}*" if cell.judged.verdict_holm == comparison.UNCLEAR else cell.text


def markdown_text(text: str) -> str:
    """`text` in Markdown as it is, on one line: what could be markup becomes an entity."""
    words = " ".join(text.split())
    found = []
    for index, character in enumerate(words):
        inside = words[:index][-1:].isalnum() and words[index + 1 : index + 2].isalnum()
        marks = character in _MARKDOWN or (character == "_" and not inside)
        found.append(_entity(character) if marks else character)
    return "".join(found)


def _paragraph(text: str) -> str:
    """The same, where a first "+" or "-" would begin a list."""
    found = markdown_text(text)
    return _entity(found[0]) + found[1:] if found[:1] in ("+", "-", "=") else found


def _entity(character: str) -> str:
    return f"&#{ord(character)};"


def markdown(
    tables: Sequence[Comparable],
    lines: Sequence[str],
    figures: Sequence[str],
    more: Sequence[html_page.Table] = (),
) -> str:
    """The tables, what to know of them, and links to the figures."""
    text = ["# Comparison", ""]
    for headings, rows, name in [*map(_as_table, tables), *more]:
        shown = map(markdown_text, headings)
        text += [f"## {markdown_text(name)}", "", "| " + " | ".join(shown) + " |"]
        text.append("|---" + "|--:" * (len(headings) - 1) + "|")
        text += ["| " + " | ".join(map(markdown_text, row.cells)) + " |" for row in rows]
        text.append("")
    text += [NOTES, "", *[part for line in lines for part in (_paragraph(line), "")]]
    text += [f"![{name}](figures/{name}.png)" for name in figures]
    return "\n".join(text) + "\n"


def _as_table(table: Comparable) -> html_page.Table:
    headings, texts = with_verdicts(table)
    css = lambda row: "unclear" if row[-1] == comparison.UNCLEAR else ""  # noqa: E731
    return html_page.Table(headings, [html_page.Row(css(row), row) for row in texts], title(table))


def page(
    tables: Sequence[Comparable],
    lines: Sequence[str],
    pictures: Sequence[html_page.Picture],
    more: Sequence[html_page.Table] = (),
) -> str:
    """One page that needs no other file: tables that sort, figures embedded."""
    return html_page.render(
        _TEMPLATES,
        "comparison.html",
        title="Comparison of runs",
        tables=[*map(_as_table, tables), *more],
        notes=NOTES,
        lines=lines,
        pictures=pictures,
    )

"""A comparison as text: terminal table, CSV, Markdown and one HTML page. Pure functions."""

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from vaejax.comparison import statistics as comparison
from vaejax.comparison.statistics import Difference, Setting
from vaejax.storage import html_page

COLUMNS = (
    "setting",
    "seeds",
    "bound",
    "value",
    "data_se",
    "mc_se",
    "seed_se",
    "difference",
    "difference_data_se",
    "difference_mc_se",
    "difference_seed_se",
    "verdict",
)
_NOTES = (
    "Nats per example. A value's error holds its data error (sd / sqrt(N)) and, with several "
    "seeds, its seed error; the error of a difference is paired: per-example differences on the "
    "same images and random numbers, and the seed error of both sides where there are several. "
    "A difference of at most two errors is not claimed."
)


def verdict(delta: Difference) -> str:
    """What may be said of a difference."""
    if not delta.significant:
        return "within 2 errors"
    return "higher" if delta.value > 0 else "lower"


def signed(delta: Difference) -> str:
    """A difference and its error."""
    return f"{delta.value:+.3f} ± {delta.total_se:.3f}"


def plain(value: Difference) -> str:
    """An estimate and its error."""
    return f"{value.value:.3f} ± {value.total_se:.3f}"


def cells(parts: Sequence[Setting], baseline: Setting | None) -> tuple[list[str], list[list[str]]]:
    """Headings and one row per setting: ELBO, L_K, gap, differences to the baseline."""
    names = comparison.bound_names([run for setting in parts for run in setting.runs])
    top = comparison.top_bound(names)
    headings = ["setting", "seeds", "ELBO", bound_title(top), f"{bound_title(top)} - ELBO"]
    if baseline is not None:
        for name in ("elbo", top):
            headings += [f"Δ {bound_title(name)}", "verdict"]
    found = []
    for setting in parts:
        own = [plain(comparison.estimate(setting, name)) for name in ("elbo", top)]
        row = [setting.name, str(len(setting.runs)), *own, plain(comparison.gap(setting, top))]
        for name in ("elbo", top) if baseline is not None else ():
            if setting is baseline:
                row += ["", "baseline"]
            else:
                delta = comparison.difference(setting, baseline, name)
                row += [signed(delta), verdict(delta)]
        found.append(row)
    return headings, found


def bound_title(name: str) -> str:
    """A bound as the field writes it."""
    if name.startswith("iwae_"):
        return f"L_{name[5:]}"
    return {"elbo": "ELBO", "log_marginal": "log p(x)"}[name]


def title(parts: Sequence[Setting]) -> str:
    """On what the runs were evaluated."""
    protocol = parts[0].runs[0].result["protocol"]
    return (
        f"{protocol['dataset']} {protocol['split']}, {protocol['num_examples']:,} examples, "
        f"K = {protocol['num_samples']:,}"
    )


def terminal_table(parts: Sequence[Setting], baseline: Setting | None) -> Table:
    """The comparison as a reader sees it in a terminal."""
    headings, found = cells(parts, baseline)
    caption = "nats per example; ± one standard error"
    if baseline is not None:
        caption += "; Δ paired, in brackets where within 2 errors: not claimed"
    table = Table(title=title(parts), caption=caption)
    shown = [index for index, heading in enumerate(headings) if heading != "verdict"]
    for index in shown:
        table.add_column(headings[index], justify="left" if index == 0 else "right")
    for row in found:
        unclear = {i for i in shown if i + 1 < len(row) and row[i + 1] == "within 2 errors"}
        table.add_row(*[f"({row[i]})" if i in unclear else row[i] for i in shown])
    return table


def csv_text(tables: Sequence[tuple[Sequence[Setting], Setting | None]]) -> str:
    """Every bound of every setting with all its errors."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for parts, baseline in tables:
        for row in comparison.rows(parts, baseline):
            writer.writerow({k: "" if v is None else v for k, v in _with_verdict(row).items()})
    return text.getvalue()


def _with_verdict(row: dict[str, Any]) -> dict[str, Any]:
    if "significant" not in row:
        return row
    direction = "higher" if row["difference"] > 0 else "lower"
    return row | {"verdict": direction if row["significant"] else "within 2 errors"}


def budget_lines(budgets: Mapping[str, tuple[float, Mapping[str, float]]]) -> list[str]:
    """One sentence per cost: what each setting reached within the cheapest run's budget."""
    lines = []
    for cost, (budget, nats) in budgets.items():
        reached = ", ".join(
            f"{name} {'(not validated yet)' if math.isnan(value) else f'{value:.3f}'}"
            for name, value in nats.items()
        )
        unit = "decoder evaluations" if cost == "decoder_evaluations" else "seconds of training"
        lines.append(f"Best validation L_k within {budget:,.0f} {unit}: {reached}.")
    return lines


def markdown(
    tables: Sequence[tuple[Sequence[Setting], Setting | None]],
    lines: Sequence[str],
    figures: Sequence[str],
) -> str:
    """The tables, what to know of them, and links to the figures."""
    text = ["# Comparison", ""]
    for parts, baseline in tables:
        headings, found = cells(parts, baseline)
        text += [f"## {title(parts)}", "", "| " + " | ".join(headings) + " |"]
        text.append("|---" + "|--:" * (len(headings) - 1) + "|")
        text += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in found
        ]
        text.append("")
    text += [_NOTES, "", *[part for line in lines for part in (line, "")]]
    text += [f"![{name}](figures/{name}.png)" for name in figures]
    return "\n".join(text) + "\n"


_STYLE = """
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid #0072B2; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
tr.unclear td { color: #777; }
"""
_SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => {
    const text = row.cells[i].textContent, number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  heads.forEach((head, i) => head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const x = key(a, i), y = key(b, i);
      const sign = typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1;
      return up ? sign : -sign;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
"""


def _html_table(parts: Sequence[Setting], baseline: Setting | None) -> str:
    headings, found = cells(parts, baseline)
    head = "".join(f"<th><button>{html.escape(text)}</button></th>" for text in headings)
    rows = [("unclear" if row[-1] == "within 2 errors" else "", row) for row in found]
    return f"<h2>{html.escape(title(parts))}</h2>{html_page.table(head, rows)}"


def page(
    tables: Sequence[tuple[Sequence[Setting], Setting | None]],
    lines: Sequence[str],
    figures: Mapping[str, tuple[str, bytes]],
) -> str:
    """One page that needs no other file: tables that sort, figures (caption, PNG) embedded."""
    body = ["<h1>Comparison</h1>", *[_html_table(*table) for table in tables]]
    body.append(html_page.paragraph(f"{_NOTES} Click a heading to sort."))
    body += [html_page.paragraph(line) for line in lines]
    body += [html_page.figure(name, *figure) for name, figure in figures.items()]
    return html_page.document("Comparison of runs", body, style=_STYLE, script=_SCRIPT)

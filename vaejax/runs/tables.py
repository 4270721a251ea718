"""Results as a reader sees them in a terminal."""

import math
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vaejax.evaluation import summary, surgery
from vaejax.evaluation.inference_gaps import Gaps, Parts
from vaejax.evaluation.results import Estimate, Result, Sandwich
from vaejax.evaluation.surgery import Rates


def _number(value: float, digits: int = 3) -> str:
    if math.isnan(value):
        return "unknown"
    return f"{value:,.{digits}f}" if value == 0 or abs(value) >= 10**-digits else f"{value:.0e}"


def _fixed(value: float, digits: int) -> str:
    return "unknown" if math.isnan(value) else f"{value:,.{digits}f}"


def _has_bits(rows: Iterable[Estimate]) -> bool:
    return any(row.value_bits_per_dim is not None for row in rows)


def _beside(row: Estimate, elbo: float, *, with_bits: bool) -> str:
    """The mean of an estimate of log p(x) in bits per dimension, or above the ELBO."""
    if with_bits:
        bits = row.value_bits_per_dim
        return "" if bits is None else _fixed(bits, 4)
    return "" if math.isnan(row.value - elbo) else f"{row.value - elbo:+.3f}"


def _column(with_bits: bool) -> str:
    return "bits/dim" if with_bits else "- ELBO"


def _title(text: str) -> str:
    return escape(text)  # a name in square brackets is no markup


def bounds_table(result: Result) -> Table:
    """The estimates of one evaluation, one row each, with both errors."""
    protocol, with_bits = result.protocol, _has_bits(result.estimates.values())
    table = Table(
        title=_title(
            f"{protocol.dataset} {protocol.split}, {protocol.num_examples:,} examples, "
            f"K = {protocol.num_samples:,}"
        ),
        caption="nats per example; one standard error each, from finite K (MC) and finite data",
    )
    table.add_column("estimate", no_wrap=True)
    for name in ("value", _column(with_bits), "MC error", "data error"):
        table.add_column(name, justify="right")
    table.add_column("what it is")
    elbo = result.estimates["elbo"].value
    for name, row in result.estimates.items():
        if row.do_not_trust is not None:
            continue
        table.add_row(
            name,
            _number(row.value),
            _beside(row, elbo, with_bits=with_bits) if summary.is_of_log_marginal(name) else "",
            _number(row.mc_se, 4),
            _number(row.data_se),
            _label(row),
        )
    return table


def _label(row: Estimate) -> str:
    return f"{row.label}; {row.not_finite:,} NOT FINITE" if row.not_finite else row.label


def _add(table: Table, name: str, row: Estimate, elbo: float, *, with_bits: bool) -> None:
    table.add_row(
        name,
        _fixed(row.value, 3),
        _beside(row, elbo, with_bits=with_bits),
        _fixed(row.mc_se, 4),
        _fixed(row.data_se, 3),
        "" if row.do_not_trust is None else f"{row.do_not_trust:.0%}",
        _label(row),
    )


def evidence_table(result: Result) -> Table:
    """Every estimate on the same examples, with errors, the share flagged, and what it is."""
    same, protocol = result.evidence.same_examples, result.protocol
    count, with_bits = result.evidence.protocol.num_examples, _has_bits(same.values())
    table = Table(
        title=_title(f"log p(x): {protocol.dataset} {protocol.split}, first {count:,} examples"),
        caption="nats per example; one standard error each; flagged: examples whose error is "
        "not to be trusted",
    )
    table.add_column("estimate", no_wrap=True)
    for name in ("value", _column(with_bits), "MC error", "data error", "flagged"):
        table.add_column(name, justify="right")
    table.add_column("what it is")
    added = {k: row for k, row in result.estimates.items() if row.do_not_trust is not None}
    for name, row in (*same.items(), *added.items()):
        _add(table, name, row, same["elbo"].value, with_bits=with_bits)
    return table


def sandwich_line(both: Sandwich) -> str:
    """The bidirectional bounds in one sentence."""
    return (
        f"sandwich on {both.num_simulated:,} simulated examples: lower {_fixed(both.lower, 3)}, "
        f"upper {_fixed(both.upper, 3)}, gap {_fixed(both.gap, 4)} +- {_fixed(both.gap_se, 4)}"
        f"{'' if both.valid else '; NOT VALID'} ({both.note})"
    )


def gaps_table(found: Gaps) -> Table:
    """Where the ELBO loses its nats, for every family."""
    families, beyond = found.by_family(), ""
    normal = found.family.split(",")[0]
    joint = "" if normal == "normal" else f"; normal: {normal}"
    if any(part.amortization.value < 0.0 for part in (found, found.full_covariance)):
        beyond = "; below 0: the encoder's q beats every normal of that row, which it is not"
    table = Table(
        title=f"log p(x) - ELBO, log p(x) from {found.log_marginal_from}, "
        f"{found.num_examples:,} examples",
        caption=f"nats per example +- Monte-Carlo error{joint}{beyond}",
    )
    for name in ("family of q*", "inference gap", "= approximation", "+ amortization"):
        table.add_column(name, justify="right")
    for name, parts in families.items():
        table.add_row(name, *_cells(parts))
    return table


def _cells(parts: Parts) -> list[str]:
    three = (parts.inference, parts.approximation, parts.amortization)
    return [f"{_fixed(part.value, 3)} +- {_fixed(part.mc_se, 3)}" for part in three]


def biased_line(reason: str | None) -> str | None:
    """What to know of a run that was trained with `objective.allow_biased`, or None.

    `reason` is `biased_gradient` of its protocol.
    """
    return None if reason is None else f"trained with a biased gradient: {reason.partition(';')[0]}"


def diagnostics_line(result: Result) -> str:
    """ESS, k-hat and active units in one sentence."""
    found, protocol = result.diagnostics, result.protocol
    units = "+".join(map(str, found.active_units))
    return (
        f"median ESS {found.ess_median:,.0f} of {protocol.num_samples:,}; "
        f"{found.ess_below_100:.1%} of examples below 100"
        f"{' (their MC errors are too small)' if found.ess_below_100 else ''}; "
        f"Pareto k-hat too large for {found.pareto_k_bad:.1%}; active units {units}"
    )


def _warnings(result: Result) -> list[str]:
    """Sentences on steps that were skipped, values that are not finite, chains that went wrong."""
    lines, skipped = [], result.protocol.skipped_steps
    if skipped:
        steps = result.protocol.trained_steps
        lines.append(f"{skipped:,} of {steps:,} training steps were skipped (optimizer.skip_norm)")
    lines += summary.not_finite_lines(list(result.estimates.items()))
    watched = {
        "divergent moves": result.diagnostics.divergent_moves,
        "broken chains": result.diagnostics.broken_chains,
    }
    for what, counts in watched.items():
        lines += [f"{name}: {number:,} {what}" for name, number in counts.items() if number]
    return lines


def show(result: Result, console: Console, *, with_evidence: bool) -> None:
    """Prints the tables of what was asked for, and the sentences under them."""
    if with_evidence:
        console.print(evidence_table(result))
        if result.sandwich is not None:
            console.print(sandwich_line(result.sandwich), markup=False)
        if result.gaps is not None:
            console.print(gaps_table(result.gaps))
    else:
        console.print(bounds_table(result))
    if result.protocol.num_dims is not None:
        line = f"x: {result.protocol.values}; D = {result.protocol.num_dims:,}"
        console.print(line, markup=False)
    console.print(diagnostics_line(result), markup=False)
    for line in _warnings(result):
        console.print(line, style="yellow", soft_wrap=True, markup=False)
    if biased := biased_line(result.protocol.biased_gradient):
        console.print(biased, style="yellow", soft_wrap=True, markup=False)


def rates_table(found: Rates) -> Table:
    """Rate, distortion and the parts of the rate, one row each, with both errors."""
    protocol = found.protocol
    table = Table(
        title=_title(
            f"rate and distortion: {protocol.dataset} {protocol.split}, "
            f"{found.num_examples:,} examples, {found.num_samples:,} draws each"
        ),
        caption=f"nats per example; one standard error each; log N = {found.log_num_examples:.3f}; "
        f"{surgery.BEYOND}",
    )
    table.add_column("estimate", no_wrap=True)
    for name in ("value", "MC error", "data error"):
        table.add_column(name, justify="right")
    table.add_column("what it is")
    for name, row in found.estimates.items():
        numbers = (_number(row.value), _number(row.mc_se, 4), _number(row.data_se))
        table.add_row(name, *numbers, escape(_label(row)))
    return table


def show_rates(found: Rates, console: Console) -> None:
    """Prints the table of the rate, and the sentences under it."""
    console.print(rates_table(found))
    for line in surgery.lines(found):
        console.print(line, soft_wrap=True, markup=False)

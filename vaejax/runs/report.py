"""Results as a reader sees them in a terminal."""

from typing import Any

from rich.table import Table

MEANINGS = {
    "elbo": "lower bound",
    "reconstruction": "ELBO + kl",
    "kl": "estimate",
    "kl_closed_form": "exact",
    "log_marginal": "exact",
}


def meaning(name: str) -> str:
    """Whether an estimate is a bound, a part of one, or exact."""
    return "lower bound" if name.startswith("iwae_") else MEANINGS[name]


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.{digits}f}" if value == 0 or abs(value) >= 10**-digits else f"{value:.0e}"


def bounds_table(result: dict[str, Any]) -> Table:
    """The estimates of one evaluation, one row each, with both errors."""
    protocol = result["protocol"]
    table = Table(
        title=f"{protocol['dataset']} {protocol['split']}, {protocol['num_examples']:,} examples, "
        f"K = {protocol['num_samples']:,}",
        caption="nats per example; one standard error each, from finite K (MC) and finite data",
    )
    table.add_column("estimate")
    for name in ("value", "- ELBO", "MC error", "data error"):
        table.add_column(name, justify="right")
    table.add_column("what it is")
    elbo = result["estimates"]["elbo"]["value"]
    for name, row in result["estimates"].items():
        above = row["value"] - elbo
        is_bound = name.startswith("iwae_") or name == "log_marginal"
        table.add_row(
            name,
            _number(row["value"]),
            f"{above:+.3f}" if is_bound else "",
            _number(row["mc_se"], 4),
            _number(row["data_se"]),
            row.get("label") or meaning(name),
        )
    return table


def biased_line(result: dict[str, Any]) -> str | None:
    """What to know of a run that was trained with `objective.allow_biased`, or None."""
    reason = result["protocol"].get("biased_gradient")
    return None if reason is None else f"trained with a biased gradient: {reason.partition(';')[0]}"


def diagnostics_line(result: dict[str, Any]) -> str:
    """ESS and active units in one sentence."""
    diagnostics, protocol = result["diagnostics"], result["protocol"]
    units = "+".join(map(str, diagnostics["active_units"]))
    return (
        f"median ESS {diagnostics['ess_median']:,.0f} of {protocol['num_samples']:,}; "
        f"{diagnostics['ess_below_100']:.1%} of examples below 100"
        f"{' (their MC errors are too small)' if diagnostics['ess_below_100'] else ''}; "
        f"active units {units}"
    )

"""The rate, its parts and the distortion as a typed result, and what is said of them. Pure."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from vaejax.evaluation import means, rates, summary
from vaejax.evaluation.rates import Part, Surgery
from vaejax.evaluation.results import Estimate, Protocol

BEYOND = "beyond: for new examples of the same source, in expectation"
_LABELS = {
    "rate": "E KL(q(z|x) || p(z)), {how}",
    "distortion": "-E log p(x|z), estimate",
    "mutual_information": "of these {count:,}; beyond: lower bound",
    "marginal_kl": "rate - it; beyond: upper bound",
    "mutual_information_left_out": "beyond: upper bound",
    "marginal_kl_left_out": "rate - it; beyond: lower bound",
}
_NEAR = 0.5  # nats below the ceiling log N


@dataclasses.dataclass(frozen=True)
class Rates:
    """Rate and distortion of one run on the first examples of a split.

    Attributes:
      protocol: of the evaluation that rate and distortion come from.
      num_examples: N, those that are used here.
      num_samples: S, draws per example for the parts of the rate.
      estimates: by name, in nats; each label says what it is and in which direction it is biased.
      log_num_examples: log N, the most that `mutual_information` can be.
      unit_rates, unit_data_se: KL of each latent unit, a mean over examples with its data error,
        where the KL is a sum over units; None elsewhere.
      units_for_99: how few units carry 99% of the rate; None where it is no sum over units.
      arrays_sha256: hash of the bytes of rates.npz; "" before it is written.
    """

    protocol: Protocol
    num_examples: int
    num_samples: int
    estimates: dict[str, Estimate]
    log_num_examples: float
    unit_rates: tuple[float, ...] | None = None
    unit_data_se: tuple[float, ...] | None = None
    units_for_99: int | None = None
    arrays_sha256: str = ""


def parts_of(rate: Part, distortion: Part, found: Surgery) -> dict[str, Part]:
    """All per-example numbers by name, in reading order."""
    return {"rate": rate, "distortion": distortion} | found._asdict()


def result(
    protocol: Protocol,
    parts: dict[str, Part],
    unit_rates: Float[np.ndarray, "N U"] | None,
    *,
    num_samples: int,
    is_exact: bool,
) -> Rates:
    """Means over the N examples with their errors.

    The data errors are sd / sqrt(N): q_N depends on all examples, but to first order an example
    moves neither part through it (the derivative is the integral of a density's change, 0).

    Args:
      protocol: of the evaluation.
      parts: of `parts_of`.
      unit_rates: KL of each unit in each example, or None.
      num_samples: S.
      is_exact: whether the rate is in closed form.
    """
    count = len(parts["rate"].values)
    how = "exact" if is_exact else "estimate"
    rows = {
        name: summary.row(*part, _LABELS[name].format(how=how, count=count))
        for name, part in parts.items()
    }
    found = Rates(protocol, count, num_samples, rows, math.log(count))
    if unit_rates is None:
        return found
    units = [means.over_examples(column) for column in np.asarray(unit_rates, np.float64).T]
    values = tuple(unit.value for unit in units)
    return dataclasses.replace(
        found,
        unit_rates=values,
        unit_data_se=tuple(unit.data_se for unit in units),
        units_for_99=rates.units_for(np.array(values)),
    )


def lines(found: Rates) -> list[str]:
    """What to know beside the table: collapse, the ceiling log N, bounds that say nothing."""
    said = [_units_line(found)]
    inside = found.estimates["mutual_information"].value
    if inside > found.log_num_examples - _NEAR:
        said.append(
            f"mutual information {inside:.2f} is at its ceiling log N = "
            f"{found.log_num_examples:.2f}: q tells nearly all examples apart, and with more "
            f"examples both parts would move"
        )
    if found.estimates["marginal_kl_left_out"].value < 0.0:
        said.append("marginal_kl_left_out is below 0, which every KL is above: it says nothing")
    return said


def _units_line(found: Rates) -> str:
    if found.unit_rates is None:
        return "the rate of single units is not known: KL(q || p) of this model is no sum over them"
    count, share = len(found.unit_rates), f"{rates.SHARE:.0%}"
    if not found.units_for_99:
        return f"posterior collapse: none of {count} units carries any rate"
    carry = "carries" if found.units_for_99 == 1 else "carry"
    return f"{found.units_for_99} of {count} units {carry} {share} of the rate"

"""A comparison as CSV: every bound of every setting with all its errors. Pure functions."""

import csv
import io
from collections.abc import Sequence

from vaejax.comparison import report
from vaejax.comparison import statistics as comparison
from vaejax.comparison.report import Comparable
from vaejax.comparison.statistics import Difference, Judged, Setting
from vaejax.evaluation import means

COLUMNS = (
    "setting",
    "seeds",
    "failed",
    "bound",
    "value",
    "value_bits_per_dim",
    "data_se",
    "mc_se",
    "seed_se",
    "not_finite",
    "difference",
    "difference_data_se",
    "difference_mc_se",
    "difference_seed_se",
    "degrees_of_freedom",
    "p_value",
    "verdict",
    "p_holm",
    "verdict_holm",
)


def text(tables: Sequence[Comparable]) -> str:
    """Every bound of every setting with all its errors.

    p_holm is given for the differences that the tables show: ELBO and the largest L_K.
    """
    content = io.StringIO()
    writer = csv.DictWriter(content, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        family = comparison.judge(table.settings, table.baseline, report.compared(table))
        names = comparison.bound_names([run for part in table.settings for run in part.runs])
        for setting in table.settings:
            for name in names:
                judged = family.get((setting.name, name))
                row = _csv_row(setting, table.baseline, name, judged, report.num_dims(table))
                writer.writerow({k: "" if v is None else v for k, v in row.items()})
    return content.getvalue()


def _csv_row(
    setting: Setting,
    baseline: Setting | None,
    name: str,
    judged: Judged | None,
    dims: int | None,
) -> dict[str, str | int | float | None]:
    own = comparison.estimate(setting, name)
    row = {"setting": setting.name, "seeds": len(setting.runs), "failed": setting.failed}
    row |= {"bound": name, "not_finite": own.not_finite} | _errors("value", "", own)
    if dims is not None:
        row["value_bits_per_dim"] = means.number(means.bits_per_dim(own.value, dims))
    if baseline is None or setting is baseline:
        return row
    delta = judged.delta if judged else comparison.difference(setting, baseline, name)
    row |= _errors("difference", "difference_", delta)
    row |= {
        "degrees_of_freedom": means.number(delta.degrees),
        "p_value": means.number(delta.p_value),
        "verdict": comparison.verdict(delta, delta.p_value),
    }
    if judged:
        row |= {"p_holm": means.number(judged.p_holm), "verdict_holm": judged.verdict_holm}
    return row


def _errors(value: str, prefix: str, item: Difference) -> dict[str, float | None]:
    return {
        value: means.number(item.value),
        f"{prefix}data_se": means.number(item.data_se),
        f"{prefix}mc_se": means.number(item.mc_se),
        f"{prefix}seed_se": means.number(item.seed_se),
    }

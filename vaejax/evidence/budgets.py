"""What estimates of log p(x) may cost: a config section of its own, which no run carries.

`EstimatorBudgets` has one section per estimator, by name: adding an estimator is adding a file.
"""

import dataclasses

from vaejax import schema
from vaejax.evidence import gaps as gap_analysis
from vaejax.evidence.estimators import ESTIMATORS
from vaejax.schema import field

for _section in (gap_analysis.Config, *(module.Config for module in ESTIMATORS.values())):
    schema.register(_section)

EstimatorBudgets = dataclasses.make_dataclass(
    "EstimatorBudgets",
    [
        (name, module.Config, dataclasses.field(default_factory=module.Config))
        for name, module in ESTIMATORS.items()
    ],
    frozen=True,
    namespace={"__doc__": "The budget of each estimator of log p(x), by name."},
)


@schema.register
@dataclasses.dataclass(frozen=True)
class Evidence(EstimatorBudgets):
    """What estimates of log p(x) beyond importance sampling may cost."""

    seed: int = field(0, "seed of their samples", low=0, high=2**31 - 1)
    num_examples: int = field(
        100, "first examples of the split that are used", low=2, high=2**31 - 1
    )
    rows_per_call: int = field(
        512, "latent samples in memory at once, over examples", low=1, high=2**31 - 1
    )
    gaps: gap_analysis.Config = dataclasses.field(default_factory=gap_analysis.Config)

"""The experiments behind the question what log p(x) is, at the budget of the README.

python scripts/explain.py --workdir=runs/explain
"""

from vaejax.explain import config as explain_config


def get_config() -> explain_config.Config:
    return explain_config.Config()

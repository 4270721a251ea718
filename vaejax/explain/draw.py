"""What the figures of the experiments share: one colour per quantity, and open axes.

Colours are those of Okabe and Ito (2008): told apart by readers with any colour vision.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ELBO = "#0072B2"
KL = "#E69F00"
KL_TEXT = "#8A5F00"  # the same, dark enough for letters
LOG_MARGINAL = "#000000"
BOUND = "#009E73"
DATA = "#777777"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def panels(width: float, height: float, rows: int, columns: int, **options):
    """A figure of that size in inches and its `rows` x `columns` axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def finish(axes: Axes, **labels: str) -> None:
    """Sets labels and limits, and takes the upper and right border away."""
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def label(axes: Axes, x: float, y: float, text: str, color: str, **options) -> None:
    """A label beside a point, in the colour of what it names."""
    options = {"xytext": (6, 0), "va": "center", "fontsize": 9} | options
    axes.annotate(text, (x, y), textcoords="offset points", color=color, **options)


def apart(values: Sequence[float], least: float) -> list[float]:
    """`values` moved up where needed so that labels at them are `least` apart."""
    moved, last = [0.0] * len(values), float("-inf")
    for index in sorted(range(len(values)), key=lambda i: values[i]):
        last = moved[index] = max(float(values[index]), last + least)
    return moved

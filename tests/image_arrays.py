"""Images of four by three pixels, and configs of files that hold them."""

import numpy as np
from conftest import small_config

LEVELS = np.random.default_rng(0).integers(0, 256, (20, 4, 3), np.uint8)
BITS = (LEVELS > 127).astype(np.uint8)


def file_config(path, **overrides):
    """A config of the images in a file."""
    values = {
        "dataset__name": str(path),
        "dataset__num_validation": 0,
        "training__batch_size": 2,
    }
    return small_config(**values | overrides)

"""scikit-learn's 1,797 handwritten digits (8x8, 17 grey levels) as a TFDS dataset.

Prepares in seconds, without network and without TensorFlow. Source: Alpaydin and Kaynak
(1998), UCI "Optical Recognition of Handwritten Digits", test part.
"""

import numpy as np
import tensorflow_datasets as tfds

NUM_TEST = 360


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,437 training and 360 test images, split once with a fixed permutation."""

    VERSION = tfds.core.Version("1.0.0")
    name = "digits"

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            features=features,
            description="Handwritten digits, 8x8 grey images, intensities scaled to 0..255.",
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        from sklearn import datasets

        digits = datasets.load_digits()
        images = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
        order = np.random.RandomState(0).permutation(len(images))
        parts = {"train": order[NUM_TEST:], "test": order[:NUM_TEST]}
        return {
            split: self._generate_examples(images[rows], digits.target[rows])
            for split, rows in parts.items()
        }

    def _generate_examples(self, images, labels):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}

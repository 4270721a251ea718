"""Convolutions on the grey levels of Fashion-MNIST, a mass of 256 levels: bits per dimension.

    python scripts/train.py --config=configs/fashion_conv.py --workdir=runs/fashion_conv
    python scripts/evaluate.py --workdir=runs/fashion_conv --num_samples=500

Needs Fashion-MNIST prepared under TFDS_DATA_DIR. Each pixel is a logistic of a scale of its own,
summed over the bin of its level. Not trained here yet.
"""

from vaejax.config import Config, Dataset, Model, Optimizer, Training


def get_config() -> Config:
    return Config(
        dataset=Dataset(name="fashion_mnist", num_validation=5000, binarization="none"),
        model=Model(
            latent_dims=(32,),
            likelihood="discretized_logistic(scale='decoder')",
            encoder="conv(channels=(32, 64), hidden_dims=(256,))",
        ),
        optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
        training=Training(num_epochs=30, batch_size=100),
    )

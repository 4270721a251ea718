"""Convolutions on the grey levels of Fashion-MNIST, a mass of 256 levels: bits per dimension.

    python scripts/train.py --config=configs/fashion_conv.py --workdir=runs/fashion_conv \
        --config.training.num_epochs=8
    python scripts/evaluate.py --workdir=runs/fashion_conv --num_samples=50
    python scripts/sample.py --workdir=runs/fashion_conv

Needs Fashion-MNIST prepared under TFDS_DATA_DIR. Each pixel is a logistic of a scale of its own,
summed over the bin of its level.
9 min 46 s to train, 1 min 53 s to evaluate and 64 s to draw, beside other work on two cores of a
shared AMD EPYC, about 2.2 times slower than the Zen 4 of the other configs. Test, one seed: ELBO
-1918.9 (3.531 bits/dim), L_50 -1897.4 nats (3.492 bits/dim; data error 5.3), KL 64.3, 32 active
units; every image has an ESS below 100: a lower bound that is far from tight. Reconstructions
are smooth and blurred; E[x|z] for z from p(z) is smooth too, and about half of them are no garment.
(In that run the kernels that double an image started 1.12 times as large as they do now.)
All 30 epochs have not been trained from this start. Version 0.2.0, whose decoder started far from
the mean image, reached an ELBO of -1888.6 and an L_500 of -1864.0 nats with them.
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

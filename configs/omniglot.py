"""The 784-200-200-50 VAE of Burda et al. (2016) on Omniglot, binarised anew in each epoch.

    python scripts/train.py --config=configs/omniglot.py --workdir=runs/omniglot
    python scripts/evaluate.py --workdir=runs/omniglot

Needs a dataset `omniglot_28`, 28 x 28 grey, prepared under TFDS_DATA_DIR: another reduction of
the 105 x 105 originals than the paper's has other nats.
54 s to train beside other work (two cores of a shared AMD EPYC (Zen 4)). Test: ELBO -118.78, L_5000
-114.38 nats (data error 0.46), 30 active units; 96% of the images have an ESS below 100.
"""

from vaejax.config import Config, Dataset, Model, Optimizer, Training


def get_config() -> Config:
    return Config(
        dataset=Dataset(name="omniglot_28", num_validation=1345),
        model=Model(latent_dims=(50,), encoder="mlp(hidden_dims=(200, 200))"),
        optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
        training=Training(num_epochs=100, batch_size=100),
    )

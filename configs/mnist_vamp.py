"""The 784-200-200-50 VAE of `mnist.py` with the VampPrior of Tomczak and Welling (2018).

    python scripts/train.py --config=configs/mnist_vamp.py --workdir=runs/mnist_vamp
    python scripts/evaluate.py --workdir=runs/mnist_vamp

Needs MNIST prepared under TFDS_DATA_DIR. 500 pseudo-inputs, as the paper's; the rest is that of
`mnist.py`, so that the two differ in p(z) alone. 22 minutes to
train beside other work (two cores of a shared AMD EPYC (Zen 4)). Test: ELBO -92.82, L_50 -89.92,
L_5000 -89.21 nats (data error 0.25), 16 active units; 75% of the images have an ESS below 100.
`mnist.py` in the same hour: L_5000 -91.30.
"""

from vaejax.config import Config, Dataset, Model, Optimizer, Training


def get_config() -> Config:
    return Config(
        dataset=Dataset(name="mnist", num_validation=5000),
        model=Model(
            latent_dims=(50,),
            prior="vamp(num_components=500)",
            encoder="mlp(hidden_dims=(200, 200))",
        ),
        optimizer=Optimizer(learning_rate=2e-3, schedule="cosine"),
        training=Training(num_epochs=50, batch_size=100),
    )

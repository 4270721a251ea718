"""A sigmoid belief network with 200 latents in {0, 1} on MNIST, trained on L_5 with VIMCO.

    python scripts/train.py --config=configs/mnist_sbn.py --workdir=runs/mnist_sbn
    python scripts/evaluate.py --workdir=runs/mnist_sbn

Needs MNIST prepared under TFDS_DATA_DIR. One layer, linear both ways (Neal 1992), with the gradient
of Mnih and Rezende (2016); learning rate and length are those of `mnist.py`. More layers:
`--config.model.latent_dims=(200,200,200)`. Ten epochs of it on L_5 and on L_50, with three
gradients and three seeds each, are in docs/laboratory.md (L_500 of this one: -116.31 +- 0.02 nats).
"""

from vaejax.config import Config, Dataset, Model, Objective, Optimizer, Training


def get_config() -> Config:
    return Config(
        dataset=Dataset(name="mnist", num_validation=5000),
        model=Model(
            latent_dims=(200,),
            prior="bernoulli",
            posterior="bernoulli",
            encoder="linear",
        ),
        objective=Objective(bound="iwae", gradient="vimco", num_samples=5),
        optimizer=Optimizer(learning_rate=2e-3, schedule="cosine"),
        training=Training(num_epochs=50, batch_size=100),
    )

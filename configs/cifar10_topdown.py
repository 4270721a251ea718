"""A top-down hierarchy of convolutions on CIFAR-10 in colour: bits per dimension.

    python scripts/train.py --config=configs/cifar10_topdown.py --workdir=runs/cifar10
    python scripts/evaluate.py --workdir=runs/cifar10 --num_samples=100

Needs CIFAR-10 prepared under TFDS_DATA_DIR, and an accelerator; `--config.dataset.name` takes any
colour images whose sides are multiples of 8. Latents lie on maps of a half, a quarter and an
eighth of the sides, p(x|z) is a mixture of ten logistics in which green sees red and blue sees
both (PixelCNN++).
Not trained whole. On two cores of a shared AMD EPYC, with other work on them, `--dry_run` found
8.5 s a step of 100 images and 110 s to compile: 490 s an epoch of 5,800 images. A small one was
begun there, on 5,800 images of CIFAR-10 (`cifar10_small`), by

    python scripts/train.py --config=configs/cifar10_topdown.py --workdir=runs/cifar10_small \
        --config.dataset.name=cifar10_small --config.dataset.num_validation=200 \
        "--config.model.latent_dims=(4,8,16)" "--config.model.encoder=resnet(channels=(16,))" \
        "--config.model.hierarchy=top_down(features=16, downsampling=(2, 4, 8))" \
        "--config.model.likelihood=discretized_logistic_mixture(num_components=5)" \
        --config.objective.warmup_epochs=1 --config.training.batch_size=50 \
        --config.training.ema_decay=0.98 --config.training.validation_samples=2 \
        --config.training.num_epochs=6
    python scripts/evaluate.py --workdir=runs/cifar10_small --num_samples=10 --split=validation

and stopped after 4 of its 6 epochs (19 min, compiling and a pause of 3 min included). L_2 of 200
validation images stood at 7.07, 6.43, 6.12 and 5.96 bits/dim after epochs 1 to 4.
ELBO -12,734 nats (5.980 bits/dim), L_10 -12,622 (5.928 bits/dim; data error 71 nats), KL 448;
every image has an ESS below 100; 4 min 41 s to evaluate. The bound was still rising.
Reconstructions are blurred and of the right colours, with a faint grid of two pixels; E[x|z] for z
from p(z) are dark clouds, some with patches of noise. (The kernels that double an image started
1.12 times as large as they do now.)
"""

from vaejax.config import Config, Dataset, Model, Objective, Optimizer, Training


def get_config() -> Config:
    return Config(
        dataset=Dataset(name="cifar10", num_validation=2000, binarization="none"),
        model=Model(
            latent_dims=(8, 16, 32),
            likelihood="discretized_logistic_mixture(num_components=10)",
            encoder=("resnet(channels=(64,))",),
            hierarchy="top_down(features=64, downsampling=(2, 4, 8))",
        ),
        objective=Objective(warmup_epochs=10.0),
        optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
        training=Training(num_epochs=100, batch_size=100, ema_decay=0.999),
    )

"""A top-down hierarchy of convolutions on CIFAR-10 in colour: bits per dimension.

    python scripts/train.py --config=configs/cifar10_topdown.py --workdir=runs/cifar10
    python scripts/evaluate.py --workdir=runs/cifar10 --num_samples=100

Needs CIFAR-10 prepared under TFDS_DATA_DIR, and an accelerator; `--config.dataset.name` takes any
colour images whose sides are multiples of 8. Latents lie on maps of a half, a quarter and an
eighth of the sides, p(x|z) is a mixture of ten logistics in which green sees red and blue sees
both (PixelCNN++). Not trained here yet.
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

"""What may explain the spread of published results at k = 1: one setting changed at a time.

python scripts/sweep.py --config=configs/papers/iwae_table1.py:short,vae,k=1 \
    --sweep=configs/sweeps/iwae_k1.py --workdir=runs/iwae_k1 --seeds=3

Re-implementations of Burda et al. (2016) report 86.35, 87.01 and 87.75 nats at k = 1 where the
paper has 86.76. They differ in where the decoder's output starts, in Adam's eps and first and
second moments, in the latent width, in the batch, and whether beta rises from 0: one of them found
that either a warm-up or a start at the mean image makes up for a whole nat (docs/results.md).
Members of one seed see the same images in the same order, but for `batch-100`, and are tested on
the same ones, so that `compare.py` may pair them image by image.
"""

from vaejax.sweeps import members as sweeps

CHANGES: dict[str, sweeps.Overrides] = {
    "base": {},
    "bias-zero": {"model.output_bias": "zero"},
    "bias-zero-warm-up": {"model.output_bias": "zero", "objective.warmup_epochs": 20.0},
    "warm-up": {"objective.warmup_epochs": 20.0},
    "rate-5e-4": {"optimizer.learning_rate": 5e-4},
    "eps-1e-4": {"optimizer.eps": 1e-4},
    "moments-at-one": {"optimizer.eps": 1e-4, "optimizer.second_moment_init": 1.0},
    "b1-0.99": {"optimizer.b1": 0.99},
    "latents-100": {"model.latent_dims": (100,)},
    "batch-100": {"training.batch_size": 100},
}


def get_sweep() -> list[sweeps.Overrides]:
    """Ten members; --seeds=3 makes three times as many."""
    return [{"name": name, **changes} for name, changes in CHANGES.items()]

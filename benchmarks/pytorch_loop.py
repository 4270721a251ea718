"""The training step and the evaluation of `scripts/benchmark.py` in PyTorch, to compare with.

    pip install torch torchvision pydantic cloudpickle dill imageio scipy scikit-learn tqdm
    pip install --no-deps pythae    # both in an environment of their own
    python benchmarks/pytorch_loop.py

A loop as one writes it by hand: 784-200-200-50, tanh, batches of 100 drawn from grey images, Adam.
The evaluation is pythae's `get_nll`, which takes one image at a time. Best of four runs each.
"""

import itertools
import math
import time

import torch
from torch import nn
from torch.nn import functional

_BATCH, _STEPS = 100, {1: 150, 5: 60, 50: 8}
_NUM_SAMPLES, _NUM_IMAGES, _CHUNKS = 5000, 4, (100, 500, 1000)


def _mlp(*widths: int) -> nn.Sequential:
    layers = [
        nn.Sequential(nn.Linear(*pair), nn.Tanh()) for pair in itertools.pairwise(widths[:-1])
    ]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


class VAE(nn.Module):
    """The networks, and minus L_K of a batch."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = _mlp(784, 200, 200, 100), _mlp(50, 200, 200, 784)

    def loss(self, x, num_samples):
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        noise = torch.randn(num_samples, *mean.shape)
        z = mean + torch.exp(0.5 * log_var) * noise
        log_q, log_p = -0.5 * (noise**2 + log_var).sum(-1), -0.5 * (z**2).sum(-1)
        target = x.expand(num_samples, *x.shape)
        logits = self.decoder(z)
        log_x = -functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        log_weights = log_x.sum(-1) + log_p - log_q
        return -(torch.logsumexp(log_weights, 0) - math.log(num_samples)).mean()


def _best(function) -> float:
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def train(images, num_samples):
    """Examples per second."""
    vae = VAE()
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)

    def steps():
        for _ in range(_STEPS[num_samples]):
            x = torch.bernoulli(images[torch.randint(0, len(images), (_BATCH,))])
            optimizer.zero_grad(set_to_none=True)
            vae.loss(x, num_samples).backward()
            optimizer.step()

    return _BATCH * _STEPS[num_samples] / _best(steps)


def evaluate(images, chunk):
    """Log weights per second of pythae."""
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.network = _mlp(784, 200, 200, 100)

        def forward(self, x):
            mean, log_var = self.network(x.reshape(len(x), -1)).chunk(2, dim=-1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.network = _mlp(50, 200, 200, 784)

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    config = VAEConfig(input_dim=(784,), latent_dim=50, reconstruction_loss="bce")
    vae, x = PythaeVAE(config, Encoder(), Decoder()), torch.bernoulli(images[:_NUM_IMAGES])
    with torch.no_grad():
        run = lambda: vae.get_nll(x, n_samples=_NUM_SAMPLES, batch_size=chunk)  # noqa: E731
        return _NUM_IMAGES * _NUM_SAMPLES / _best(run)


def main():
    """Prints a line for each measurement."""
    images, square = torch.rand(10_000, 784), torch.randn(2048, 2048)
    rate = 2 * 2048**3 / _best(lambda: square @ square) / 1e9
    print(f"matmul: {rate:.3g} GFLOP/s on {torch.get_num_threads()} threads")
    for num_samples in _STEPS:
        print(f"train k={num_samples}: {train(images, num_samples):,.4g} examples/s")
    for chunk in _CHUNKS:
        print(f"pythae, batch {chunk}: {evaluate(images, chunk):,.4g} log weights/s")


if __name__ == "__main__":
    main()

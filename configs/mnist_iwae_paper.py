"""Burda, Grosse and Salakhutdinov (2016), Table 1: VAE against IWAE on MNIST.

    python scripts/train.py --config=configs/mnist_iwae_paper.py:iwae,L=1,k=50 --workdir=runs/paper

Arguments, any of them, in any order: `vae` or `iwae`; `L=1` or `L=2` stochastic layers; `k=`
samples; `stages=1..8`. The full protocol has 8 stages of 3^(i-1) epochs, 3,280 in all, at rates
1e-4 * round(10^(1 - (i-1)/7), 1), batches of 20, Adam with eps 1e-4; fewer stages stop early.

Measured: `iwae,L=1,k=5,stages=3` (13 epochs, 5 minutes on two busy cores of a shared AMD EPYC
(Zen 4) machine): test ELBO -104.78, L_5000 -93.89 nats. The full protocol has not been run here.
"""

from vaejax.config import Config, Dataset, Model, Objective, Optimizer, Training
from vaejax.errors import UserError, unknown

ARCHITECTURES = {
    1: Model(latent_dims=(50,), encoder="mlp(hidden_dims=(200, 200))"),
    2: Model(
        latent_dims=(100, 50),
        encoder=("mlp(hidden_dims=(200, 200))", "mlp(hidden_dims=(100, 100))"),
    ),
}
BOUNDS = {"vae": "elbo", "iwae": "iwae"}


def _parse(arg: str) -> tuple[str, dict[str, int]]:
    bound, numbers = "iwae", {"L": 1, "k": 50, "stages": 8}
    for item in filter(None, arg.split(",")):
        name, equals, value = item.partition("=")
        if not equals and name in BOUNDS:
            bound = name
        elif name in numbers and value.isdigit():
            numbers[name] = int(value)
        else:
            raise unknown("--config argument", item, [*BOUNDS, "L=1", "L=2", "k=50", "stages=8"])
    for name, low, high in (("L", 1, 2), ("stages", 1, 8)):
        if not low <= numbers[name] <= high:
            raise UserError(f"--config argument {name}: {low} to {high}, got {numbers[name]}")
    return bound, numbers


def get_config(arg: str = "") -> Config:
    """The paper's protocol; see the module's docstring for `arg`."""
    bound, numbers = _parse(arg)
    stages = range(numbers["stages"])
    return Config(
        dataset=Dataset(name="mnist", num_validation=0),
        model=ARCHITECTURES[numbers["L"]],
        objective=Objective(bound=BOUNDS[bound], num_samples=numbers["k"]),
        optimizer=Optimizer(
            learning_rate=1e-4,
            b1=0.9,
            eps=1e-4,
            schedule="staged",
            stage_epochs=tuple(3**i for i in stages),
            stage_scales=tuple(round(10 ** (1 - i / 7), 1) for i in stages),
        ),
        training=Training(num_epochs=sum(3**i for i in stages), batch_size=20),
    )

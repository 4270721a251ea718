from vaejax import config


def get_config() -> config.Config:
    return config.override_all(
        config.Config(),
        {
            "dataset.name": "mnist",
            "dataset.num_validation": 5000,
            "model.latent_dims": (50,),
            "model.hidden_dims": ((200, 200),),
            "objective.bound": "elbo",
            "optimizer.learning_rate": 2e-3,
            "optimizer.schedule": "cosine",
            "training.num_epochs": 50,
            "training.batch_size": 100,
        },
    )

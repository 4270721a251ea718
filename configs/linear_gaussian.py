from vaejax import config


def get_config() -> config.Config:
    return config.override_all(
        config.Config(),
        {
            "dataset.binarization": "none",
            "model.name": "linear_gaussian",
            "model.latent_dim": 16,
            "objective.gradient": "closed_form_kl",
            "optimizer.learning_rate": 3e-3,
            "optimizer.schedule": "cosine",
            "training.num_epochs": 300,
            "training.batch_size": 64,
        },
    )

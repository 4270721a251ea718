from vaejax import config


def get_config() -> config.Config:
    return config.override_all(
        config.Config(),
        {
            "model.latent_dims": (16,),
            "model.hidden_dims": ((128, 128),),
            "objective.bound": "iwae",
            "objective.num_samples": 50,
            "training.num_epochs": 300,
            "training.batch_size": 64,
        },
    )

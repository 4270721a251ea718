"""Latent-variable models p(x, z) with their encoders q(z|x), one example at a time."""

"""Pure functions that measure how well a variational autoencoder models its data."""

__version__ = "0.1.0"

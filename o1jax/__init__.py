"""o1jax: a coding model that learns to think in pseudocode, by playing against itself."""

__version__ = "0.1.0"

"""What runs inside a slot: a separate interpreter loads these files by path, not as this package.

They import the standard library and each other only (see zygote.py), never the rest of o1jax.
"""

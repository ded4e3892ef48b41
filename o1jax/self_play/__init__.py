"""Recipes: stages after one another. play.py is self-play; the others measure parts of it."""

"""Worked examples for the pseudocode prompt, written for this project: (task, steps).

They show the form of the three actions. Rendering is in pseudocode.py.
"""

from __future__ import annotations

from o1jax.records import Step

EXAMPLES: tuple[tuple[str, tuple[Step, ...]], ...] = ()

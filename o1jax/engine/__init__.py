"""Engines: token-id requests in, completions with behaviour log-probs out."""

"""Dataset dicts to arrays."""

"""Files on disk to dataset dicts."""

"""Drawing of synthetic datasets."""

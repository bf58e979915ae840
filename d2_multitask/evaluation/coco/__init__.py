"""COCO's metric for partial labels."""

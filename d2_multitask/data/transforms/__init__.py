"""Augmentations of images and labels."""

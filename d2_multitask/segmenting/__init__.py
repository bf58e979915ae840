"""From photographs without labels to segments on disk and a dataset that a detector trains on.

`images.py`: which files, and how they get to which autoencoder; `output_folder.py`: what is
written, what is there already, and how good it is.
"""

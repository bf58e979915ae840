"""Which relation of patches gives the best segments: one table of relations, divisions, controls.

`relations.py`: the relations and their settings; `networks.py`: the autoencoder and its controls.
`images.py`: settings are chosen on some images and reported on others. Of foregrounds:
`divisions.py`, `study.py`, `table.py`, `picture.py`; of segments at several levels: `levels.py`,
`partition_study.py`, `partition_table.py`. `differences.py`: paired, of both.
`convergence.py`: how many passes a relation needs.
"""

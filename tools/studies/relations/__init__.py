"""Which relation of patches gives the best segments: one table of relations, divisions, controls.

`relations.py`: the relations and their settings; `divisions.py`: from a relation to a foreground;
`study.py`: settings are chosen on some images and reported on others; `table.py`, `picture.py`.
`convergence.py`: how many passes a relation needs.
"""

"""Which task moves the features that all share, over a training: `measure.py`, `report.py` (tables
and advice), `picture.py`.
"""

"""A study of task sets: networks trained alike, evaluated alike, in one table.

``plan``: what is trained; ``record``: its state; ``lock``: which process trains it; ``runner``
trains what is missing. ``columns``, ``summary``, ``markdown`` and ``picture`` make the table from
what is on disk.
"""

"""A study of task sets: networks trained alike, evaluated alike, in one table.

``plan`` says what is trained, ``record`` what became of it, ``lock`` who is at it; ``runner``
trains what is missing. ``columns``, ``summary``, ``markdown`` and ``picture`` make the table from
what is on disk.
"""

"""Pictures of labels, targets and results: RGB uint8 arrays in, RGB uint8 arrays out.

``style`` and ``metadata`` say how things look and what they are called, ``canvas`` draws on one
image with Detectron2's ``Visualizer``, ``predictions`` and ``targets`` say what is drawn,
``grid`` puts pictures side by side, and ``training`` makes the pictures that a trainer logs.
"""

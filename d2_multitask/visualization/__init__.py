"""Pictures of labels, targets and results.

Images and pictures are (H, W, 3) uint8 RGB; drawing makes new ones. Common arguments:

- ``alpha``: how much of a colour covers the image, in [0, 1];
- ``ignore_value``: the label that is hatched;
- ``input_format``: ``INPUT.FORMAT`` of the mapper's images;
- ``metadata``: of the dataset; generic names of classes and keypoints where they are missing;
- ``min_long_side``: smaller images are enlarged to it (pixels), to be readable.

``style`` and ``metadata`` say how things look and what they are called, ``canvas`` draws on one
image with Detectron2's ``Visualizer``, ``predictions``, ``targets``, ``dense`` and ``segments`` say
what is drawn, ``contact_sheet`` puts pictures side by side, and ``training`` makes the pictures
that a trainer logs.
"""

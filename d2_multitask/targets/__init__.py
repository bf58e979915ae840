"""Pure functions between labels and the prediction grid: encoding and its inverse, decoding.

Coordinate convention of the whole package: continuous pixels, as Detectron2. Pixel (i, j) of an
image covers [j, j + 1) x [i, i + 1); a grid of stride s has cells that cover s x s pixels, so a
point (x, y) in pixels is (x / s, y / s) in stride units and lies in the cell (floor(x / s),
floor(y / s)).
"""

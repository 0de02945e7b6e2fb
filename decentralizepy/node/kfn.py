"""D-PSGD over the overlay that links every node with those whose labels are least like its own."""

from __future__ import annotations

from typing import ClassVar

from decentralizepy.node.knn import KNN


class KFN(KNN):
    """As `KNN`, but each node chooses those of the farthest label histograms."""

    nearest: ClassVar[bool] = False

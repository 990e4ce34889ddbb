"""Pictures: the recorded graph (graphviz); curves, image grids, weight templates, confusion matrices (matplotlib)."""

from tinygrad_cifar.viz.confusion import confusion_matrix, confusion_picture, per_class_accuracy
from tinygrad_cifar.viz.curves import training_curves
from tinygrad_cifar.viz.graph import graph, save
from tinygrad_cifar.viz.images import image_grid, weight_templates

__all__ = [
    "confusion_matrix",
    "confusion_picture",
    "graph",
    "image_grid",
    "per_class_accuracy",
    "save",
    "training_curves",
    "weight_templates",
]

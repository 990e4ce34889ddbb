"""The ops, one file a family. Importing this package fills the registry ``tensor.OPS``."""

from tinygrad_cifar.ops import elementwise, losses, matmul, neural, reduce, shape

__all__ = ["elementwise", "losses", "matmul", "neural", "reduce", "shape"]

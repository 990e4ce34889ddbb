"""``compile``: record one training step, plan its memory, replay it without any bookkeeping."""

from tinygrad_cifar.compiler.step import CompiledStep, compile

__all__ = ["CompiledStep", "compile"]

"""How fast the project is, beside its peers, the same step written by hand, and the limit.

``python -m benchmarks.step``     one training step of six networks
``python -m benchmarks.epoch``    a whole epoch, data included
``python -m benchmarks.scaling``  a step by depth, width and batch
``python -m benchmarks.recipe``   a whole training of 20 epochs
``python -m benchmarks.report``   all of these, and the page docs/benchmarks.md

``python -m benchmarks.imports``  what ``import tinygrad_cifar`` costs
``python -m benchmarks.search``   trials per minute, in one process and in two

Each has ``--help``. Run them alone on the machine: they measure wall-clock time. Two measure no time:

``python -m benchmarks.gradcheck``  how often gradient checkers call right gradients wrong, and let wrong ones pass
``python -m benchmarks.accuracy``   test accuracies beside PyTorch's, from the same first weights and batches
"""

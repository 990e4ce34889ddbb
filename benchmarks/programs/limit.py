"""The floor: the matrix products of a step and one plain parameter update, into ready buffers, and nothing else."""

from benchmarks.networks import Network, layers
from benchmarks.programs import Program
from tinygrad_cifar.train.bench import matrix_products


def program(network: Network) -> Program:
    products = matrix_products([layer.weight for layer in layers(network)], network.batch)
    return Program(lambda x, labels: products(x))

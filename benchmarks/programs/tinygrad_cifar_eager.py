"""This project, eager, as its README writes it."""

import tinygrad_cifar as tg
from benchmarks.networks import Network, state_dict
from benchmarks.programs import Program
from tinygrad_cifar import nn, optim

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
OPTIMIZERS = {"sgd": optim.SGD, "adam": optim.Adam}


def model_of(network: Network) -> nn.Sequential:
    modules: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(zip(network.sizes, network.sizes[1:], strict=False)):
        modules.append(nn.Linear(fan_in, fan_out))
        if i < len(network.sizes) - 2:
            modules += [nn.BatchNorm1d(fan_out)] * network.batch_norm + [ACTIVATIONS[network.activation]()]
    model = nn.Sequential(*modules).astype(network.dtype)
    model.load_state_dict(state_dict(network))
    return model


def prepare(x, labels):
    return tg.Tensor(x), labels


def step_of(network: Network):
    model = model_of(network)
    optimizer = OPTIMIZERS[network.optimizer](model.parameters(), lr=network.learning_rate)

    def step(x, labels):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def program(network: Network) -> Program:
    return Program(step_of(network), prepare)

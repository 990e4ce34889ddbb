"""PyTorch as its tutorials write it: nn.Sequential, F.cross_entropy, optim."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.networks import Network, state_dict
from benchmarks.programs import Program

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def model_of(network: Network) -> nn.Sequential:
    modules: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(zip(network.sizes, network.sizes[1:], strict=False)):
        modules.append(nn.Linear(fan_in, fan_out))
        if i < len(network.sizes) - 2:
            modules += [nn.BatchNorm1d(fan_out)] * network.batch_norm + [ACTIVATIONS[network.activation]()]
    model = nn.Sequential(*modules).to(getattr(torch, network.dtype))
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state_dict(network).items()})
    return model


def prepare(x, labels):
    return torch.from_numpy(x), torch.from_numpy(labels)


def program(network: Network) -> Program:
    model = model_of(network)
    optimizer = OPTIMIZERS[network.optimizer](model.parameters(), lr=network.learning_rate)

    def step(x, labels):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    return Program(step, prepare)

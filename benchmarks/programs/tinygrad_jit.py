"""tinygrad as its examples write it: nn's layers and optimisers, the whole step under TinyJit, on the CPU.

Its kernels are those it chooses by itself. With BEAM=2 in the environment it searches for better ones, which takes
minutes the first time, and makes the step of the 3-layer network eight times as fast.
"""

import os
import shutil

from tinygrad import Context, Device, Tensor, TinyJit, nn
from tinygrad.helpers import DEFAULT_FLOAT, DEV

from benchmarks.networks import Network, state_dict
from benchmarks.programs import Program, SkipProgramError

ACTIVATIONS = {"relu": Tensor.relu, "sigmoid": Tensor.sigmoid}
OPTIMIZERS = {"sgd": nn.optim.SGD, "adam": nn.optim.Adam}


def model_of(network: Network) -> list:
    model: list = []
    for i, (fan_in, fan_out) in enumerate(zip(network.sizes, network.sizes[1:], strict=False)):
        model.append(nn.Linear(fan_in, fan_out))
        if i < len(network.sizes) - 2:
            model += [nn.BatchNorm(fan_out)] * network.batch_norm + [ACTIVATIONS[network.activation]]
    state = {name: Tensor(value) for name, value in state_dict(network).items()}
    nn.state.load_state_dict(model, state, verbose=False)
    return model


def prepare(x, labels):
    return Tensor(x).realize(), Tensor(labels).realize()


def program(network: Network) -> Program:
    compiler = os.environ.get("CC", "clang")  # as tinygrad chooses it
    if "clang" not in compiler or not shutil.which(compiler):
        raise SkipProgramError("tinygrad needs the command clang: install it, and unset CC where that is another one")
    if network.optimizer == "adam" and network.dtype == "float64":
        raise SkipProgramError("tinygrad's Adam computes its corrections in float32")
    DEV.value = "CPU"
    DEFAULT_FLOAT.value = network.dtype
    model = model_of(network)
    optimizer = OPTIMIZERS[network.optimizer](nn.state.get_parameters(model), lr=network.learning_rate)

    @TinyJit
    @Context(TRAINING=1)
    def step(x, labels):
        optimizer.zero_grad()
        loss = x.sequential(model).sparse_categorical_crossentropy(labels).backward()
        return loss.realize(*optimizer.schedule_step())

    return Program(step, prepare, lambda loss: Device["CPU"].synchronize())

"""The networks of the documents, as configurations."""

from tinygrad_cifar.train.config import Config

_THREE = Config(lam=0.005, schedule="triangular", n_s=2250, cycles=2)
_NINE = _THREE.with_settings(hidden=(50, 30, 20, 20, 10, 10, 10, 10))
_SIGMOID = Config(hidden=(100, 100), activation="sigmoid", init="xavier", batch_size=64, lr=0.3, epochs=20)

PRESETS: dict[str, Config] = {
    "one-layer": Config(hidden=(), init=0.01, lr=0.001, epochs=40, split="batch1"),
    "two-layer": Config(hidden=(50,), lam=0.01, schedule="triangular", n_s=800, cycles=3, split="batch1"),
    "two-layer-momentum": Config(
        hidden=(50,), lam=1e-4, momentum=0.9, schedule="exponential", lr=0.01714, gamma=0.95, epochs=30,
        split="all-1000",
    ),
    "three-layer": _THREE,
    "three-layer-bn": _THREE.with_settings(batch_norm=True),
    "nine-layer": _NINE,
    "nine-layer-bn": _NINE.with_settings(batch_norm=True, lam=0.0041, cycles=3),
    "sigmoid": _SIGMOID,
    "sigmoid-adam": _SIGMOID.with_settings(optimizer="adam", lr=0.001),
}  # fmt: skip
"""By name: what ``tinygrad-cifar train --preset`` offers."""

DEFAULT = "three-layer-bn"
"""What ``tinygrad-cifar train`` does without any option."""

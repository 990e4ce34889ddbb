"""The third witness: the gradients of the documents' networks, derived by hand, in plain NumPy.

Each function takes images, labels and parameters and returns a gradient for every parameter, under the documents'
names: W1, b1 for the first layer, W2, b2 for the second, and gamma1, beta1 for the batch norm after layer 1.
The derivations use rows for samples:

    x (n, d) images · y (n,) integer labels · W_l (out, in) · b_l (out,) · s_l = h_(l-1) W_l^T + b_l, with h_0 = x
    P = softmax(s_L), row by row · Y the labels one-hot · G = dJ/ds, the gradient that arrives at a layer's scores

The cost J is the mean over the n samples of -log P[y], plus an L2 term on the weights W_l, never on b, gamma or beta.
``convention="sum"`` means lam ||W||^2, whose gradient is 2 lam W; "half" means lam/2 ||W||^2, whose gradient is lam W.

They know nothing of Tensors, graphs or rules, so that they can stand up against those in ``check_formula``.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from tinygrad_cifar.tensor import Array

Parameters = Mapping[str, Array]
Gradients = dict[str, Array]
Convention = Literal["sum", "half"]

EPS = 1e-5  # of batch norm: what stands beside the variance under the root


def softmax_classifier(
    x: Array, y: Array, parameters: Parameters, lam: float = 0.0, convention: Convention = "sum"
) -> Gradients:
    """One layer: softmax and cross-entropy.

    For one sample, -log P[y] = logsumexp(s) - s[y]. Moving score j changes the first part by P[j] (it is a smooth
    maximum, and P are its weights) and the second by 1 if j is the right class. So the gradient of the scores is
    P - Y, and the mean over the batch divides it by n:

        G = (P - Y) / n

    Weight (j, i) reaches the cost through score j of every sample, which it changes by that sample's x_i:

        dW = G^T x + 2 lam W  (or + lam W)        db = sum of the rows of G
    """
    s = x @ parameters["W1"].T + parameters["b1"]
    G = (_softmax(s) - _one_hot(y, s)) / len(x)
    return {"W1": G.T @ x + _decay(lam, convention) * parameters["W1"], "b1": G.sum(0)}


def two_layers(
    x: Array, y: Array, parameters: Parameters, lam: float = 0.0, convention: Convention = "sum"
) -> Gradients:
    """Two layers with a ReLU between them: h = max(0, x W_1^T + b_1), s = h W_2^T + b_2.

    The second layer is a softmax classifier whose images are h. Hidden unit i reaches the cost through all scores j,
    each with weight W_2[j, i]; and its own input reaches it only where the unit is on, where ReLU has slope 1:

        G = (P - Y) / n             dW_2 = G^T h + 2 lam W_2        db_2 = sum of the rows of G
        G <- (G W_2) * [h > 0]      dW_1 = G^T x + 2 lam W_1        db_1 = sum of the rows of G
    """
    W1, b1, W2, b2 = (parameters[name] for name in ("W1", "b1", "W2", "b2"))
    decay = _decay(lam, convention)
    h = np.maximum(0, x @ W1.T + b1)
    s = h @ W2.T + b2
    G = (_softmax(s) - _one_hot(y, s)) / len(x)
    gradients = {"W2": G.T @ h + decay * W2, "b2": G.sum(0)}
    G = (G @ W2) * (h > 0)
    return gradients | {"W1": G.T @ x + decay * W1, "b1": G.sum(0)}


def k_layers(x: Array, y: Array, parameters: Parameters, lam: float = 0.0, convention: Convention = "sum") -> Gradients:
    """k layers with ReLU between them: the step of ``two_layers`` from layer to layer, from the last to the first.

    G_k = (P - Y) / n           dW_l = G_l^T h_(l-1) + 2 lam W_l        db_l = sum of the rows of G_l
    G_(l-1) = (G_l W_l) * [h_(l-1) > 0]
    """
    k, decay = _depth(parameters), _decay(lam, convention)
    h = [x]
    for layer in range(1, k):
        h.append(np.maximum(0, h[-1] @ parameters[f"W{layer}"].T + parameters[f"b{layer}"]))
    s = h[-1] @ parameters[f"W{k}"].T + parameters[f"b{k}"]
    G = (_softmax(s) - _one_hot(y, s)) / len(x)
    gradients: Gradients = {}
    for layer in range(k, 0, -1):
        W, below = parameters[f"W{layer}"], h[layer - 1]
        gradients |= {f"W{layer}": G.T @ below + decay * W, f"b{layer}": G.sum(0)}
        G = (G @ W) * (below > 0)
    return gradients


def sigmoid_layers(
    x: Array, y: Array, parameters: Parameters, lam: float = 0.0, convention: Convention = "half"
) -> Gradients:
    """k layers with sigmoids between them.

    With a = 1 / (1 + e^-z) the slope is e^-z / (1 + e^-z)^2 = a (1 - a): the unit's own output is enough.

        G_k = (P - Y) / n           dW_l = G_l^T a_(l-1) + lam W_l          db_l = sum of the rows of G_l
        G_(l-1) = (G_l W_l) * a_(l-1) * (1 - a_(l-1))
    """
    k, decay = _depth(parameters), _decay(lam, convention)
    a = [x]
    for layer in range(1, k):
        a.append(1 / (1 + np.exp(-(a[-1] @ parameters[f"W{layer}"].T + parameters[f"b{layer}"]))))
    s = a[-1] @ parameters[f"W{k}"].T + parameters[f"b{k}"]
    G = (_softmax(s) - _one_hot(y, s)) / len(x)
    gradients: Gradients = {}
    for layer in range(k, 0, -1):
        W, below = parameters[f"W{layer}"], a[layer - 1]
        gradients |= {f"W{layer}": G.T @ below + decay * W, f"b{layer}": G.sum(0)}
        G = (G @ W) * below * (1 - below)
    return gradients


def batch_norm_layers(
    x: Array, y: Array, parameters: Parameters, lam: float = 0.0, convention: Convention = "sum"
) -> Gradients:
    """k layers, each but the last followed by batch norm (with the batch's own moments) and ReLU.

        s_l = h_(l-1) W_l^T + b_l       s^_l = (s_l - mean) / sqrt(var + eps)       h_l = max(0, gamma_l s^_l + beta_l)

    From the last layer down, G being the gradient that arrives at gamma s^ + beta after the ReLU's mask:

        dgamma_l = sum of the rows of G * s^_l        dbeta_l = sum of the rows of G
        G <- through_batch_norm(G * gamma_l)          dW_l = G^T h_(l-1) + 2 lam W_l        db_l = sum of the rows of G

    The last sum is zero: a bias before batch norm moves all rows alike, and the mean takes it away again.
    """
    k, decay = _depth(parameters), _decay(lam, convention)
    h, s = [x], []
    for layer in range(1, k):
        s.append(h[-1] @ parameters[f"W{layer}"].T + parameters[f"b{layer}"])
        scaled = parameters[f"gamma{layer}"] * _standardised(s[-1]) + parameters[f"beta{layer}"]
        h.append(np.maximum(0, scaled))
    s.append(h[-1] @ parameters[f"W{k}"].T + parameters[f"b{k}"])
    G = (_softmax(s[-1]) - _one_hot(y, s[-1])) / len(x)
    gradients: Gradients = {}
    for layer in range(k, 0, -1):
        W, below = parameters[f"W{layer}"], h[layer - 1]
        if layer < k:
            here = s[layer - 1]
            gradients |= {f"gamma{layer}": (G * _standardised(here)).sum(0), f"beta{layer}": G.sum(0)}
            G = through_batch_norm(G * parameters[f"gamma{layer}"], here)
        gradients |= {f"W{layer}": G.T @ below + decay * W, f"b{layer}": G.sum(0)}
        G = (G @ W) * (below > 0)
    return gradients


def through_batch_norm(G: Array, s: Array) -> Array:
    """The gradient of the scores s, from the gradient G of s^ = (s - mean) / sqrt(var + eps).  (n, c) -> (n, c).

    A score acts on s^ in three ways, which add up (c = s - mean, v = var + eps, one column at a time):

    - directly: s^ moves by v^(-1/2) per unit, so G v^(-1/2);
    - through the mean, to which it gives 1/n, and which every row subtracts: -1/n sum(G) v^(-1/2);
    - through the variance, to which it gives 2/n c (what c owes to the mean drops out, for c sums to zero), and
      which changes s^ of each row by -1/2 c v^(-3/2): -1/n c sum(G c) v^(-3/2).
    """
    n, c = len(s), s - s.mean(0)
    v = (c * c).mean(0) + EPS
    direct = G * v**-0.5
    mean_path = -G.sum(0) / n * v**-0.5
    variance_path = -c / n * (G * c).sum(0) * v**-1.5
    return direct + mean_path + variance_path


def _softmax(s: Array) -> Array:
    e = np.exp(s - s.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _one_hot(y: Array, s: Array) -> Array:
    return (np.arange(s.shape[1]) == y[:, None]).astype(s.dtype)


def _standardised(s: Array) -> Array:
    return (s - s.mean(0)) / np.sqrt(s.var(0) + EPS)


def _decay(lam: float, convention: Convention) -> float:
    return 2 * lam if convention == "sum" else lam


def _depth(parameters: Parameters) -> int:
    return sum(name.startswith("W") for name in parameters)

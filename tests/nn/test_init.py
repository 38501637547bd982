"""Initializers: distributions, exact properties, PyTorch's gains and arrangements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, ops
from quernel.errors import ArgumentError, ShapeError

init = nn.init


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0, 1, -2, 2),
        (0, 0.02, -2, 2),
        (1, 2, -1, 1.5),
        (0, 1, 3, 9),
        (0, 1, -math.inf, -4),
        (5, 0.1, 4.99, 5.01),
    ],
)
def test_truncated_normals_have_the_right_distribution(
    mean: float, std: float, a: float, b: float, dtype: str
) -> None:
    stats = pytest.importorskip("scipy.stats")
    qn.seed(1)
    w = init.trunc_normal_(qn.zeros((40, 100), dtype), mean, std, a, b).numpy()
    assert w.dtype == dtype and w.min() >= np.dtype(dtype).type(a) and w.max() <= np.dtype(dtype).type(b)
    law = stats.truncnorm((a - mean) / std, (b - mean) / std, mean, std)
    assert (
        stats.kstest(w.ravel().astype(np.float64), law.cdf, method="asymp").pvalue > 1e-3
    )  # of a fixed seed
    qn.seed(1)
    assert np.array_equal(init.trunc_normal_(qn.zeros((40, 100), dtype), mean, std, a, b).numpy(), w)


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3), (4, 3, 3, 2), (20, 3, 3, 1), (0, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_orthogonal_rows_or_columns(shape: tuple[int, ...], dtype: str) -> None:
    w = init.orthogonal_(qn.zeros(shape, dtype), gain=3.0).numpy().astype(np.float64)
    w = w.reshape(len(w), math.prod(shape[1:]))
    product = w @ w.T if len(w) <= w.shape[1] else w.T @ w
    # each entry: a sum of terms with relative error eps, and those of the factors themselves
    assert np.abs(product - 9 * np.eye(len(product))).max(initial=0) <= 9 * 16 * np.finfo(dtype).eps


def test_orthogonal_matrices_are_uniform() -> None:
    qn.seed(0)
    signs = [init.orthogonal_(qn.zeros((2, 2))).numpy() for _ in range(300)]
    determinants = [np.linalg.det(w) for w in signs]
    assert 100 < sum(d > 0 for d in determinants) < 200 and 100 < sum(w[0, 0] > 0 for w in signs) < 200


@pytest.mark.parametrize(("rows", "sparsity"), [(10, 0.25), (7, 0.5), (5, 0.0), (5, 1.0)])
def test_sparse_columns(rows: int, sparsity: float) -> None:
    w = init.sparse_(qn.zeros((rows, 400)), sparsity, std=2.0).numpy()
    assert ((w == 0).sum(0) == math.ceil(sparsity * rows)).all()
    if sparsity < 1:
        assert 1.8 < w[w != 0].std() < 2.2
        zeros = (w == 0).mean(1)  # every row is as likely
        assert np.ptp(zeros) < 0.25


def test_identities_pass_on_what_they_are_given() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    linear = nn.Linear(4, 6)
    init.eye_(linear.weight), init.zeros_(linear.bias)
    assert np.array_equal(linear(x[0, 0]).numpy(), np.pad(x[0, 0], ((0, 0), (0, 2))))
    for groups, outputs in [(1, 4), (1, 6), (2, 4), (2, 8), (4, 4)]:
        weight = init.dirac_(qn.zeros((outputs, 3, 3, 4 // groups)), groups)
        y = ops.conv2d(x, weight, padding=1, groups=groups).numpy()
        for group in range(groups):
            size, inputs = outputs // groups, 4 // groups
            got = y[..., group * size : (group + 1) * size]
            want = x[..., group * inputs : (group + 1) * inputs][..., :size]
            assert np.array_equal(got[..., : want.shape[-1]], want) and not got[..., want.shape[-1] :].any()
    assert init.dirac_(qn.zeros((2, 5, 3))).numpy()[1, 2].tolist() == [0, 1, 0]


def test_agreement_with_torch() -> None:
    torch = pytest.importorskip("torch")
    names = [
        "linear",
        "conv1d",
        "conv2d",
        "conv_transpose2d",
        "sigmoid",
        "tanh",
        "relu",
        "leaky_relu",
        "selu",
    ]
    for name in names:
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name), rel=1e-15)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)
    for groups in (1, 2):
        theirs = torch.nn.init.dirac_(torch.empty(6, 4, 3, 5), groups).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(init.dirac_(qn.zeros((6, 3, 5, 4)), groups).numpy(), theirs)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda: init.trunc_normal_(qn.zeros(3), a=1, b=1), r"\[trunc_normal_\] expects a < b and std > 0"),
        (lambda: init.trunc_normal_(qn.zeros(3), std=0), r"\[trunc_normal_\] expects a < b and std > 0"),
        (lambda: init.orthogonal_(qn.zeros(3)), r"\[orthogonal_\] expects at least 2 dimensions"),
        (lambda: init.sparse_(qn.zeros((3, 3, 3)), 0.5), r"\[sparse_\] expects 2 dimensions"),
        (lambda: init.sparse_(qn.zeros((3, 3)), 1.5), r"\[sparse_\] sparsity lies between 0 and 1, got 1\.5"),
        (lambda: init.eye_(qn.zeros(3)), r"\[eye_\] expects 2 dimensions"),
        (lambda: init.dirac_(qn.zeros((3, 3))), r"\[dirac_\] expects a convolution's weight"),
        (
            lambda: init.dirac_(qn.zeros((3, 1, 1, 1)), 2),
            r"\[dirac_\] 3 outputs cannot be divided into 2 groups",
        ),
        (lambda: init.calculate_gain("rely"), r"unknown nonlinearity 'rely'; did you mean 'relu'"),
    ],
)
def test_what_cannot_be_filled(fill: Any, message: str) -> None:
    with pytest.raises((ArgumentError, ShapeError), match=message):
        fill()

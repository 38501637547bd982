"""Einstein summation, by way of batched matrix products.

Every operand is first brought to labels that are all different: a label that it has twice means its diagonal, which is
every (n + 1)-th element of the two dimensions merged. Then two operands at a time are contracted (those whose product
shrinks the total most, the first of equals): labels that nobody needs later are summed; shared ones that are needed are
batches, shared ones that are not are the inner dimension of a matrix product, and the rest its rows and columns.
Gradients, plans and graphs come with the ops that this is made of.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quernel.errors import ArgumentError, DTypeError, QuernelError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING, promote_types
from quernel.ops.elementwise import mul
from quernel.ops.indexing import getitem
from quernel.ops.layout import permute, reshape
from quernel.ops.matmul import linear, matmul
from quernel.ops.operands import cast
from quernel.ops.reduce import sum as sum_over
from quernel.ops.shapes import normalize_axis
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Labels = tuple[str, ...]
Term = tuple[Tensor, Labels]  # a tensor and the names of its dimensions, all different

_TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


def einsum(equation: str, *operands: TensorLike) -> Tensor:
    """Sums products of elements as the equation says.

    ``"bij,bjk->bik"`` names the dimensions of each operand, and those of the result: what the result lacks is summed
    over. A label that an operand has twice takes its diagonal; ``...`` stands for any further dimensions, which
    broadcast (as do dimensions of size 1). Without ``->`` the result has the labels that appear once, in alphabetical
    order, behind ``...``. As `numpy.einsum`.

    Args:
        equation: Letters, commas, ``...``, ``->``; blanks are ignored.
        operands: As many tensors as there are terms; they are promoted to one dtype, which must be floating where
            products are summed.

    Raises:
        ArgumentError: The equation is wrong or does not fit the number of operands.
        ShapeError: A term does not fit its operand, or the sizes of a label differ.
        DTypeError: Sums of products of integers.

    Example:
        >>> x = qn.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> qn.ops.einsum("ij,kj->ik", x, x).tolist(), qn.ops.einsum("ii", x).item()
        ([[5.0, 11.0], [11.0, 25.0]], 5.0)
    """
    tensors = [as_tensor(x) for x in operands]
    terms, wanted = _parsed(equation, tuple(t.ndim for t in tensors))
    dtype = functools.reduce(promote_types, (t.dtype for t in tensors))
    try:
        _check_sizes(equation, terms, tensors)
        pending = [_diagonal(cast(t, dtype), term) for t, term in zip(tensors, terms, strict=True)]
        while len(pending) > 1:
            i, j = _next_pair(pending, wanted)
            (a, b), rest = (pending[i], pending[j]), [p for k, p in enumerate(pending) if k not in (i, j)]
            needed = {*wanted, *(label for _, labels in rest for label in labels)}
            rest.insert(i, _contracted(a, b, needed))
            pending = rest
        out, labels = _summed(pending[0], set(wanted))
        return cast(_permuted(out, [labels.index(label) for label in wanted]), dtype)
    except QuernelError as error:
        if not str(error).startswith("[einsum]"):
            error.args = (f"[einsum] '{equation}': {error}",)
        raise


def tensordot(
    x: TensorLike, other: TensorLike, dims: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """Sums products over the last ``dims`` dimensions of ``x`` and the first of ``other``, or over listed pairs of them.

    Example:
        >>> qn.ops.tensordot(qn.ones((2, 3, 4)), qn.ones((4, 3, 5)), dims=([1, 2], [1, 0])).shape
        (2, 5)
    """
    a, b = as_tensor(x), as_tensor(other)
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.ndim, b.ndim):
            raise ArgumentError(f"[tensordot] cannot sum over {dims} dimensions of {a.shape} and {b.shape}")
        left, right = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    else:
        left = [normalize_axis("tensordot", d, a.ndim) for d in dims[0]]
        right = [normalize_axis("tensordot", d, b.ndim) for d in dims[1]]
    if any(len(set(axes)) != len(axes) for axes in (left, right)):
        raise ArgumentError(f"[tensordot] a dimension appears twice in dims, got {dims}")
    if [a.shape[i] for i in left] != [b.shape[i] for i in right]:
        raise ShapeError(
            f"[tensordot] dimensions {left} of {a.shape} do not fit dimensions {right} of {b.shape}"
        )
    la = [f"a{i}" for i in range(a.ndim)]
    lb = [la[left[right.index(i)]] if i in right else f"b{i}" for i in range(b.ndim)]
    dtype = promote_types(a.dtype, b.dtype)
    kept = [n for n in la if n not in lb] + [n for n in lb if n not in la]
    out, labels = _contracted((cast(a, dtype), tuple(la)), (cast(b, dtype), tuple(lb)), set(kept))
    return _permuted(out, [labels.index(label) for label in kept])


# The equation.


@functools.lru_cache(maxsize=512)
def _parsed(equation: str, ranks: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    """The labels of every operand and of the result; ``...`` becomes the labels ".0", ".1", … counted from the right."""
    text = "".join(equation.split())
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    for term in (*terms, right):
        if not _TERM.fullmatch(term):
            raise ArgumentError(
                f"[einsum] '{equation}': cannot read '{term}'; terms are letters and one '...'"
            )
    if len(terms) != len(ranks):
        raise ArgumentError(f"[einsum] '{equation}' has {len(terms)} terms for {len(ranks)} operands")
    most = 0
    for i, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        letters = len(term.replace("...", ""))
        if letters > rank or (letters < rank and "..." not in term):
            raise ShapeError(
                f"[einsum] '{equation}': term '{term}' does not fit operand {i}, which has {rank} dimensions"
            )
        if "..." in term:
            most = max(most, rank - letters)
    labels = tuple(_labels(term, rank) for term, rank in zip(terms, ranks, strict=True))
    dots = tuple(f".{k}" for k in reversed(range(most)))
    if not arrow:
        letters_only = left.replace("...", "").replace(",", "")
        once = tuple(sorted(c for c in set(letters_only) if letters_only.count(c) == 1))
        return labels, (*dots, *once)
    before, has_dots, behind = right.partition("...")
    known = {label for term in labels for label in term}
    for label in before + behind:
        if (before + behind).count(label) > 1:
            raise ArgumentError(f"[einsum] '{equation}': the result has '{label}' twice")
        if label not in known:
            raise ArgumentError(f"[einsum] '{equation}': no operand has the result's '{label}'")
    return labels, (*before, *(dots if has_dots else ()), *behind)


def _labels(term: str, rank: int) -> Labels:
    before, dots, behind = term.partition("...")
    count = rank - len(before) - len(behind) if dots else 0
    return (*before, *(f".{k}" for k in reversed(range(count))), *behind)


def _check_sizes(equation: str, terms: Sequence[Labels], tensors: Sequence[Tensor]) -> None:
    seen: dict[str, tuple[int, int]] = {}
    for i, (tensor, labels) in enumerate(zip(tensors, terms, strict=True)):
        for label, size in zip(labels, tensor.shape, strict=True):
            have, first = seen.setdefault(label, (size, i))
            if have == 1:
                seen[label] = (size, i)
            elif size not in (1, have):
                name = "..." if label.startswith(".") else label
                raise ShapeError(
                    f"[einsum] '{equation}': '{name}' has size {have} in operand {first} and {size} in operand {i} "
                    f"(shapes {', '.join(str(t.shape) for t in tensors)})"
                )


# Contracting.


def _permuted(x: Tensor, order: Sequence[int]) -> Tensor:
    return x if list(order) == list(range(len(order))) else permute(x, tuple(order))


def _diagonal(x: Tensor, labels: Labels) -> Term:
    """The diagonal over labels that repeat."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            rest = [k for k in range(len(labels)) if k not in (i, j)]
            m, n = x.shape[i], x.shape[j]
            outer = [x.shape[k] for k in rest]
            x = _permuted(x, [*rest, i, j])
            if m == n:
                x = getitem(reshape(x, (*outer, n * n)), (..., slice(None, None, n + 1)))
            else:  # one of them is 1 and broadcasts
                x = reshape(x, (*outer, m * n))
            labels = (*[labels[k] for k in rest], label)
    return x, labels


def _summed(term: Term, needed: set[str]) -> Term:
    """The term without the labels that nobody needs."""
    x, labels = term
    axes = [i for i, label in enumerate(labels) if label not in needed]
    if not axes:
        return term
    return sum_over(x, axes), tuple(label for label in labels if label in needed)


def _without(term: Term, dropped: set[str]) -> Term:
    """The term without labels of size 1."""
    x, labels = term
    kept = [i for i, label in enumerate(labels) if label not in dropped]
    return reshape(x, tuple(x.shape[i] for i in kept)), tuple(labels[i] for i in kept)


def _next_pair(terms: Sequence[Term], wanted: Labels) -> tuple[int, int]:
    """The two terms whose contraction shrinks the sum of sizes most."""
    if len(terms) == 2:
        return 0, 1
    best: tuple[int, int, int] | None = None
    for i in range(len(terms)):
        for j in range(i + 1, len(terms)):
            (a, la), (b, lb) = terms[i], terms[j]
            others = {n for k, (_, labels) in enumerate(terms) if k not in (i, j) for n in labels}
            sizes = dict(zip(la, a.shape, strict=True))
            for label, size in zip(lb, b.shape, strict=True):
                sizes[label] = max(size, sizes.get(label, 1))
            result = math.prod(n for label, n in sizes.items() if label in others or label in wanted)
            grown = result - a.size - b.size
            if best is None or grown < best[0]:
                best = (grown, i, j)
    assert best is not None
    return best[1], best[2]


def _contracted(first: Term, second: Term, needed: set[str]) -> Term:
    """The product of two terms, summed over what only they have and nobody needs."""
    sizes = [dict(zip(labels, x.shape, strict=True)) for x, labels in (first, second)]
    shared = sizes[0].keys() & sizes[1].keys()
    # A size of 1 beside another broadcasts: the other alone has the label.
    ones = [{n for n in shared if own[n] == 1 != sizes[1 - k][n]} for k, own in enumerate(sizes)]
    first = _without(first, ones[0]) if ones[0] else first
    second = _without(second, ones[1]) if ones[1] else second
    a, la = _summed(first, needed | set(second[1]))
    b, lb = _summed(second, needed | set(first[1]))
    batch = [n for n in la if n in lb and n in needed]
    inner = [n for n in la if n in lb and n not in needed]
    rows, columns = [n for n in la if n not in lb], [n for n in lb if n not in la]
    size = {**dict(zip(la, a.shape, strict=True)), **dict(zip(lb, b.shape, strict=True))}
    m, k, n, many = (math.prod(size[label] for label in group) for group in (rows, inner, columns, batch))
    labels = (*batch, *rows, *columns)
    shape = tuple(size[label] for label in labels)
    if not inner:
        left = reshape(_permuted(a, [la.index(x) for x in (*batch, *rows)]), (many, m, 1))
        right = reshape(_permuted(b, [lb.index(x) for x in (*batch, *columns)]), (many, 1, n))
        return reshape(mul(left, right), shape), labels
    if a.dtype not in FLOATING:
        raise DTypeError(
            f"sums of products need floating operands, got {a.dtype}; cast with .astype('float64')"
        )
    left = _permuted(a, [la.index(x) for x in (*batch, *rows, *inner)])
    if not batch:
        left = reshape(left, (m, k))
        if list(lb) == [*columns, *inner]:  # as a Linear layer has its weights: nothing to turn round
            return reshape(linear(left, reshape(b, (n, k))), shape), labels
        right = reshape(_permuted(b, [lb.index(x) for x in (*inner, *columns)]), (k, n))
        return reshape(matmul(left, right), shape), labels
    right = _permuted(b, [lb.index(x) for x in (*batch, *inner, *columns)])
    product = matmul(reshape(left, (many, m, k)), reshape(right, (many, k, n)))
    return reshape(product, shape), labels

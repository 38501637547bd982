"""Losses as modules, named and called as in PyTorch: ``nn.CrossEntropyLoss()(output, target)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quernel import losses, ops
from quernel.errors import ArgumentError
from quernel.nn.module import Module
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


class _Loss(Module):
    """A loss with its way of combining samples. ``sample_weight`` is a factor of each sample's, as in `losses`."""

    takes_integers = True
    _reductions: tuple[str, ...] = ("mean", "sum", "none")
    _usual = "mean"

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in self._reductions:
            *names, last = map(repr, self._reductions)
            raise ArgumentError(
                f"[{type(self).__name__}] reduction is {', '.join(names)} or {last}, got {reduction!r}"
            )
        self.reduction = reduction

    def extra_repr(self) -> str:
        shown = {name: value for name, (value, usual) in self._options().items() if value != usual}
        if self.reduction != self._usual:
            shown["reduction"] = self.reduction
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    def _options(self) -> dict[str, tuple[Any, Any]]:
        """Arguments by name, each with its default."""
        return {}


def _constant(value: TensorLike | None) -> Tensor | None:
    """Weights as a tensor of their own, float32 unless they are floats already."""
    if value is None:
        return None
    given = ops.as_tensor(value).detach()
    return ops.clone(given if given.dtype in ops.FLOATING else ops.cast(given, "float32"))


class CrossEntropyLoss(_Loss):
    """Cross-entropy of a softmax; see `losses.cross_entropy`.

    Args:
        weight: (C,), a factor for the losses of each class.
        ignore_index: samples with this label are left out.
        reduction: "mean", "sum" or "none".
        label_smoothing: share of each label that is spread evenly over all classes.

    Shapes:
        logits (..., C), labels (...) whole numbers, or distributions (..., C) -> (), or (...) with "none".

    Example:
        >>> round(nn.CrossEntropyLoss()(np.zeros((3, 10), np.float32), np.array([1, 2, 3])).item(), 4)
        2.3026
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: TensorLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        if not 0.0 <= label_smoothing <= 1.0:
            raise ArgumentError(f"[CrossEntropyLoss] label_smoothing lies in [0, 1], got {label_smoothing!r}")
        self.register_buffer("weight", _constant(weight))
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, logits: Tensor, labels: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.cross_entropy(
            logits,
            labels,
            self.reduction,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            sample_weight=sample_weight,
        )

    def _options(self) -> dict[str, tuple[Any, Any]]:
        return {"ignore_index": (self.ignore_index, -100), "label_smoothing": (self.label_smoothing, 0.0)}


class NLLLoss(_Loss):
    """Negative log-likelihood of log-probabilities; see `losses.nll`.

    Args:
        weight: (C,), a factor for the losses of each class.
        ignore_index: samples with this label are left out.
        reduction: "mean", "sum" or "none".

    Shapes:
        log-probabilities (..., C), labels (...) whole numbers -> (), or (...) with "none".
    """

    weight: Tensor | None

    def __init__(
        self, weight: TensorLike | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", _constant(weight))
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.nll(
            logits,
            labels,
            self.reduction,
            weight=self.weight,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
        )

    def _options(self) -> dict[str, tuple[Any, Any]]:
        return {"ignore_index": (self.ignore_index, -100)}


class BCELoss(_Loss):
    """Binary cross-entropy of probabilities; see `losses.binary_cross_entropy`.

    Args:
        reduction: "mean", "sum" or "none".

    Shapes:
        output and target of one shape -> (), or that shape with "none".

    Example:
        >>> round(nn.BCELoss()(np.array([0.5, 0.5]), np.array([1.0, 0.0])).item(), 4)
        0.6931
    """

    def forward(self, output: Tensor, target: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.binary_cross_entropy(output, target, self.reduction, sample_weight=sample_weight)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of logits; see `losses.binary_cross_entropy_with_logits`.

    Args:
        reduction: "mean", "sum" or "none".
        pos_weight: factor of the losses of positive targets; broadcasts to the shape of the output.

    Shapes:
        output and target of one shape -> (), or that shape with "none".
    """

    pos_weight: Tensor | None

    def __init__(self, reduction: str = "mean", pos_weight: TensorLike | None = None) -> None:
        super().__init__(reduction)
        self.register_buffer("pos_weight", _constant(pos_weight))

    def forward(self, output: Tensor, target: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.binary_cross_entropy_with_logits(
            output, target, self.reduction, pos_weight=self.pos_weight, sample_weight=sample_weight
        )


class MSELoss(_Loss):
    """Mean squared error; see `losses.mse`.

    Args:
        reduction: "mean", "sum" or "none".

    Shapes:
        output and target of one shape -> (), or that shape with "none".

    Example:
        >>> nn.MSELoss()(np.array([1.0, 2.0]), np.array([1.0, 4.0])).item()
        2.0
    """

    def forward(self, output: Tensor, target: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.mse(output, target, self.reduction, sample_weight=sample_weight)


class L1Loss(_Loss):
    """Mean absolute error; see `losses.mae`. Arguments and shapes are those of `MSELoss`."""

    def forward(self, output: Tensor, target: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.mae(output, target, self.reduction, sample_weight=sample_weight)


class HuberLoss(_Loss):
    """Squared error of small differences, absolute error of large ones; see `losses.huber`.

    Args:
        reduction: "mean", "sum" or "none".
        delta: where the one becomes the other.

    Shapes:
        output and target of one shape -> (), or that shape with "none".
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        if not delta > 0:
            raise ArgumentError(f"[HuberLoss] delta is positive, got {delta!r}")
        self.delta = delta

    def forward(self, output: Tensor, target: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.huber(output, target, self.reduction, delta=self.delta, sample_weight=sample_weight)

    def _options(self) -> dict[str, tuple[Any, Any]]:
        return {"delta": (self.delta, 1.0)}


class SmoothL1Loss(_Loss):
    """`HuberLoss` with ``delta = beta``, divided by beta; see `losses.smooth_l1`.

    Args:
        reduction: "mean", "sum" or "none".
        beta: where squares become absolute values; 0 is `L1Loss`.
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        if not beta >= 0:
            raise ArgumentError(f"[SmoothL1Loss] beta is not negative, got {beta!r}")
        self.beta = beta

    def forward(self, output: Tensor, target: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.smooth_l1(output, target, self.reduction, beta=self.beta, sample_weight=sample_weight)

    def _options(self) -> dict[str, tuple[Any, Any]]:
        return {"beta": (self.beta, 1.0)}


class KLDivLoss(_Loss):
    """Kullback-Leibler divergence of log-probabilities from a target; see `losses.kl_divergence`.

    Args:
        reduction: "mean" over all elements (PyTorch's default), "batchmean" for the divergence of a sample, "sum" or "none".
        log_target: whether the target holds logarithms.

    Shapes:
        output and target of one shape -> (), or that shape with "none".
    """

    _reductions = ("mean", "sum", "none", "batchmean")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, output: Tensor, target: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.kl_divergence(
            output, target, self.reduction, log_target=self.log_target, sample_weight=sample_weight
        )

    def _options(self) -> dict[str, tuple[Any, Any]]:
        return {"log_target": (self.log_target, False)}


class CTCLoss(_Loss):
    """Connectionist temporal classification; see `losses.ctc`.

    Args:
        blank: the class of the blank.
        reduction: "mean" over rows of the loss per label, "sum" or "none".
        zero_infinity: whether rows that no alignment spells count as 0.

    Shapes:
        log-probabilities (N, T, C), or a pair of them and lengths (N,); labels (N, L) -> (), or (N,) with "none".

    Example:
        >>> log_probs = qn.ops.log_softmax(qn.zeros((1, 3, 2)))
        >>> round(nn.CTCLoss()(log_probs, np.array([[1]])).item(), 4)
        0.2877
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(
        self,
        output: Tensor | tuple[Tensor, TensorLike],
        target: Any,
        input_lengths: TensorLike | None = None,
        target_lengths: TensorLike | None = None,
        sample_weight: TensorLike | None = None,
    ) -> Tensor:
        """The loss."""
        return losses.ctc(
            output, target, self.reduction, input_lengths=input_lengths, target_lengths=target_lengths, blank=self.blank,
            zero_infinity=self.zero_infinity, sample_weight=sample_weight,
        )  # fmt: skip

    def _options(self) -> dict[str, tuple[Any, Any]]:
        return {"blank": (self.blank, 0), "zero_infinity": (self.zero_infinity, False)}


class FocalLoss(_Loss):
    """Cross-entropy in which easy samples count little; see `losses.focal`.

    Args:
        gamma: how little; 0 gives the cross-entropy.
        alpha: of classes: a number, or one for each; of yes-or-no decisions: a number, the factor of the positive ones.
        reduction: "mean", "sum" or "none".

    Shapes:
        logits (..., C) and labels (...), or logits and targets of one shape -> (), or the losses with "none".
    """

    alpha: Tensor | float | None

    def __init__(
        self, gamma: float = 2.0, alpha: TensorLike | float | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        if not gamma >= 0:
            raise ArgumentError(f"[FocalLoss] gamma is not negative, got {gamma!r}")
        self.gamma = gamma
        self.alpha = alpha if isinstance(alpha, int | float) else None
        if self.alpha is None:
            self.register_buffer("alpha", _constant(alpha))

    def forward(self, output: Tensor, target: Any, sample_weight: TensorLike | None = None) -> Tensor:
        """The loss."""
        return losses.focal(
            output, target, self.reduction, gamma=self.gamma, alpha=self.alpha, sample_weight=sample_weight
        )

    def _options(self) -> dict[str, tuple[Any, Any]]:
        return {
            "gamma": (self.gamma, 2.0),
            "alpha": (None if isinstance(self.alpha, Tensor) else self.alpha, None),
        }

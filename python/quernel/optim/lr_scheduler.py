"""Learning-rate schedules, named and parametrized as in ``torch.optim.lr_scheduler``.

A schedule sets the rate of every group when it is made, and at each `step`, which the user calls once per epoch (or per
batch, for those meant for it). A rate is a function of the number of steps alone; what somebody else did to it meanwhile
(another schedule, a callback that halved it) stays as a factor, so schedules can be combined. Rates lie in a buffer
that recorded steps read: changing them costs no new plan.

    optimizer = optim.SGD(net.parameters(), lr=0.1)
    warm = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=5)
    fall = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=45)
    schedule = optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[5])
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from quernel.errors import ArgumentError
from quernel.optim.optimizer import Optimizer


class LRScheduler:
    """Base of the schedules; a subclass says what the rate is after ``t`` steps.

    Attributes:
        optimizer: whose rates are set.
        base_lrs: the rate of each group where the schedule began.
        last_epoch: the number of steps so far.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(f"[{type(self).__name__}] expects an optimizer, got {optimizer!r}")
        self.optimizer = optimizer
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._scales = [1.0] * len(self.base_lrs)  # what others have made of our rates
        self._last_lr = list(self.base_lrs)
        self._set()

    def lr_at(self, t: int, base_lr: float) -> float:
        """The learning rate after `t` steps of a group that began with `base_lr`."""
        raise NotImplementedError

    def step(self) -> None:
        """Counts a step and sets the rates."""
        for i, group in enumerate(self.optimizer.param_groups):
            if i < len(self._last_lr) and group["lr"] != self._last_lr[i] != 0:
                self._scales[i] *= group["lr"] / self._last_lr[i]
        self.last_epoch += 1
        self._set()

    def _set(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise ArgumentError(
                f"[{type(self).__name__}] made for {len(self.base_lrs)} parameter groups, the optimizer has {len(groups)}; "
                "add groups before making schedules"
            )
        for i, group in enumerate(groups):
            self._last_lr[i] = self.lr_at(self.last_epoch, self.base_lrs[i]) * self._scales[i]
            if group["lr"] != self._last_lr[i]:
                group["lr"] = self._last_lr[i]

    def get_last_lr(self) -> list[float]:
        """The rates that were set last, one for each group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, as plain values."""
        return {
            key: list(value) if isinstance(value, list) else value
            for key, value in self.__dict__.items()
            if key != "optimizer" and not callable(value)
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned, and sets the rates."""
        unknown = [key for key in state_dict if key not in self.__dict__]
        if unknown:
            raise ArgumentError(
                f"[{type(self).__name__}] the state has {', '.join(unknown)}, this schedule has not"
            )
        self.__dict__.update(
            {key: list(value) if isinstance(value, list) else value for key, value in state_dict.items()}
        )
        self._set()


def _positive(owner: object, name: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ArgumentError(f"[{type(owner).__name__}] {name} is a positive whole number, got {value!r}")
    return value


class LambdaLR(LRScheduler):
    """lr = base · function(t).

    Example:
        >>> opt = optim.SGD([qn.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = optim.lr_scheduler.LambdaLR(opt, lambda t: 0.5**t)
        >>> schedule.step()
        >>> opt.lr
        0.5
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        self.lr_lambda = lr_lambda
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:
        """See the class."""
        return base_lr * self.lr_lambda(t)


class StepLR(LRScheduler):
    """lr = base · gamma^(t // step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = _positive(self, "step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:
        """See the class."""
        return float(base_lr * self.gamma ** (t // self.step_size))


class MultiStepLR(LRScheduler):
    """lr = base · gamma^(the number of milestones that t has reached)."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:
        """See the class."""
        return float(base_lr * self.gamma ** bisect_right(self.milestones, t))


class ExponentialLR(LRScheduler):
    """lr = base · gamma^t."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:
        """See the class."""
        return float(base_lr * self.gamma**t)


class LinearLR(LRScheduler):
    """Warm-up: the factor of the base rate goes linearly from `start_factor` to `end_factor` in `total_iters` steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ArgumentError(f"[LinearLR] start_factor lies in (0, 1], got {start_factor!r}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = _positive(self, "total_iters", total_iters)
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:
        """See the class."""
        share = min(t, self.total_iters) / self.total_iters
        return base_lr * (self.start_factor + (self.end_factor - self.start_factor) * share)


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the base rate down to `eta_min` in `T_max` steps, then up again (Loshchilov and Hutter 2017).

    lr = eta_min + (base - eta_min)·(1 + cos(pi·t / T_max)) / 2; arXiv 1608.03983.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = _positive(self, "T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:
        """See the class."""
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class CyclicLR(LRScheduler):
    """Triangles between `base_lr` and `max_lr` (Smith 2017, arXiv 1506.01186); step it per batch.

    Args:
        optimizer: whose rates are set; their present values do not matter.
        base_lr: the lowest rate.
        max_lr: the highest.
        step_size_up: steps from the lowest to the highest.
        step_size_down: steps back; as many, if None.
        mode: "triangular"; "triangular2" halves the height with each cycle; "exp_range" scales it by gamma^t.
        gamma: of "exp_range".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float,
        max_lr: float,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
    ) -> None:
        if mode not in ("triangular", "triangular2", "exp_range"):
            raise ArgumentError(
                f"[CyclicLR] mode is 'triangular', 'triangular2' or 'exp_range', got {mode!r}"
            )
        self.base_lr = base_lr
        self.max_lr = max_lr
        self.step_size_up = _positive(self, "step_size_up", step_size_up)
        self.step_size_down = _positive(
            self, "step_size_down", step_size_up if step_size_down is None else step_size_down
        )
        self.mode = mode
        self.gamma = gamma
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:  # noqa: ARG002
        """See the class."""
        cycle, at = divmod(t, self.step_size_up + self.step_size_down)
        up = at <= self.step_size_up
        height = at / self.step_size_up if up else 1 - (at - self.step_size_up) / self.step_size_down
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.gamma**t}[self.mode]
        return float(self.base_lr + (self.max_lr - self.base_lr) * height * scale)


class OneCycleLR(LRScheduler):
    """One rise to `max_lr` and one long fall to nearly nothing (Smith and Topin 2018, arXiv 1708.07120); per batch.

    Args:
        optimizer: whose rates are set; their present values do not matter.
        max_lr: the highest rate.
        total_steps: steps in all, `epochs` · `steps_per_epoch` if None. Later steps keep the last rate.
        epochs, steps_per_epoch: instead of `total_steps`.
        pct_start: share of the steps that rise.
        anneal_strategy: "cos" or "linear".
        div_factor: the first rate is max_lr / div_factor.
        final_div_factor: the last one is the first / final_div_factor.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ArgumentError("[OneCycleLR] give total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(f"[OneCycleLR] anneal_strategy is 'cos' or 'linear', got {anneal_strategy!r}")
        if not 0 <= pct_start <= 1:
            raise ArgumentError(f"[OneCycleLR] pct_start lies in [0, 1], got {pct_start!r}")
        self.max_lr = max_lr
        self.total_steps = _positive(self, "total_steps", total_steps)
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:  # noqa: ARG002
        """See the class."""
        first = self.max_lr / self.div_factor
        top, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if t <= top:
            return self._between(first, self.max_lr, t / top if top > 0 else 1.0)
        share = min((t - top) / (end - top), 1.0) if end > top else 1.0
        return self._between(self.max_lr, first / self.final_div_factor, share)

    def _between(self, begin: float, end: float, share: float) -> float:
        if self.anneal_strategy == "linear":
            return begin + (end - begin) * share
        return end + (begin - end) / 2 * (1 + math.cos(math.pi * share))


class SequentialLR(LRScheduler):
    """One schedule after the other, each counting its steps from 0: `milestones` are the steps where the next begins.

    All are made for the same optimizer; their base rates are those from before the first of them was made.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ArgumentError(
                f"[SequentialLR] {len(schedulers)} schedules need {len(schedulers) - 1} milestones, got {len(milestones)}"
            )
        if any(s.optimizer is not optimizer for s in schedulers):
            raise ArgumentError("[SequentialLR] the schedules belong to another optimizer")
        self._schedulers = tuple(schedulers)
        self.milestones = list(milestones)
        base_lrs = schedulers[0].base_lrs
        for later in schedulers[1:]:
            later.base_lrs = list(base_lrs)
        for group, rate in zip(optimizer.param_groups, base_lrs, strict=True):
            group["lr"] = rate
        super().__init__(optimizer)

    def lr_at(self, t: int, base_lr: float) -> float:
        """See the class."""
        which = bisect_right(self.milestones, t)
        return self._schedulers[which].lr_at(t - (self.milestones[which - 1] if which else 0), base_lr)

    def state_dict(self) -> dict[str, Any]:
        """See the base class; the parts of a sequence have no state of their own."""
        return {key: value for key, value in super().state_dict().items() if key != "_schedulers"}


class ReduceLROnPlateau:
    """Multiplies the rate by `factor` when a monitored number has not improved for more than `patience` steps.

    Args:
        optimizer: whose rates are set.
        mode: "min" if less is better, "max" if more is.
        factor: below 1.
        patience: how many steps without improvement are allowed.
        threshold: the least improvement that counts.
        threshold_mode: "rel": relative to the best so far; "abs": absolute.
        cooldown: steps after a reduction in which nothing is counted.
        min_lr: the rate is not reduced below it.
        eps: changes smaller than this are not made.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if not 0 < factor < 1:
            raise ArgumentError(f"[ReduceLROnPlateau] factor lies in (0, 1), got {factor!r}")
        if mode not in ("min", "max"):
            raise ArgumentError(f"[ReduceLROnPlateau] mode is 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ArgumentError(
                f"[ReduceLROnPlateau] threshold_mode is 'rel' or 'abs', got {threshold_mode!r}"
            )
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0

    def step(self, metrics: Any) -> None:
        """Counts a step in which the monitored number was `metrics`; NaN is no improvement."""
        current = float(metrics)
        self.last_epoch += 1
        if self._better(current):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group in self.optimizer.param_groups:
                reduced = max(group["lr"] * self.factor, self.min_lr)
                if group["lr"] - reduced > self.eps:
                    group["lr"] = reduced
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _better(self, current: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        relative = math.isfinite(self.best) and self.threshold_mode == "rel"
        margin = self.threshold * (abs(self.best) if relative else 1)
        return sign * current < sign * self.best - margin

    def get_last_lr(self) -> list[float]:
        """The present rate of each group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self.__dict__.update(state_dict)

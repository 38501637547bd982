"""Registration, traversal, state and modes of modules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, optim, recording
from quernel.errors import ArgumentError, DeviceError, ShapeError, StateError


class Tied(nn.Module):
    """Without super().__init__(), with a list, a tied weight, a buffer and a plain attribute."""

    def __init__(self) -> None:
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.rest = nn.ModuleList([nn.ReLU(), nn.Linear(4, 2)])
        self.scale = nn.Parameter([2.0])
        self.register_buffer("count", qn.tensor([0.0]))
        self.register_buffer("scratch", qn.tensor([0.0]), persistent=False)
        self.note = "plain"

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y = self.second(self.first(x))
        for layer in self.rest:
            y = layer(y)
        return y * self.scale


def test_attributes_register_and_unregister() -> None:
    net = Tied()
    names = [name for name, _ in net.named_parameters()]
    assert names == ["scale", "first.weight", "first.bias", "rest.1.weight", "rest.1.bias"]
    assert [name for name, _ in net.named_modules()] == ["", "first", "second", "rest", "rest.0", "rest.1"]
    assert [name for name, _ in net.named_children()] == ["first", "second", "rest"]
    assert [name for name, _ in net.named_buffers()] == ["count", "scratch"]
    net.first = None  # type: ignore[assignment]
    assert [name for name, _ in net.named_children()] == ["second", "rest"]
    del net.rest
    assert [name for name, _ in net.named_parameters()] == ["scale", "second.weight"]
    net.scale = None  # type: ignore[assignment]
    assert [name for name, _ in net.named_parameters()] == ["second.weight"]


@pytest.mark.parametrize("value", [np.zeros((4, 4)), 3, qn.tensor([1.0])])
def test_nothing_drops_out_of_a_model_unnoticed(value: object) -> None:
    net = Tied()
    with pytest.raises(TypeError, match=r"Linear\.weight is a parameter, got .*weight\[\.\.\.\] = values"):
        net.first.weight = value  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"Tied\.first is a module, got "):
        net.first = value  # type: ignore[assignment]
    assert len(list(net.named_parameters())) == 5
    with pytest.raises(TypeError, match=r"Tied\.count is a buffer, got int"):
        net.count = 3
    net.first.weight = nn.Parameter(np.ones((4, 4)))
    net.first.bias = None
    assert [name for name, _ in net.first.named_parameters()] == ["weight"]


def test_every_change_of_structure_counts_and_mode_does_not() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    before = net._version
    net.eval().train()
    assert net._version == before
    net.append(nn.ReLU())
    net.anything = 3
    del net.anything
    assert net._version == before + 3
    assert recording.current() is None


def test_a_state_without_sizes_can_be_printed() -> None:
    state = nn.Linear(None, 2).state_dict()
    assert str(state) == "{'weight': Parameter(unsized, float32), 'bias': Parameter(unsized, float32)}"
    with pytest.raises(StateError, match="size is inferred at first use"):
        state["weight"].numpy()


def test_paths_lead_to_modules_and_parameters() -> None:
    net = Tied()
    assert net.get_submodule("rest.1") is net.rest[1]
    assert net.get_submodule("") is net
    assert net.get_parameter("rest.1.weight") is net.rest[1].weight
    with pytest.raises(AttributeError, match="ModuleList has no submodule '7'"):
        net.get_submodule("rest.7")
    with pytest.raises(AttributeError, match="no parameter 'mean'"):
        net.get_parameter("first.mean")


def test_modes_and_freezing_reach_everything_below() -> None:
    net = Tied()
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.rest.train()
    assert [module.training for module in net.modules()] == [False, False, False, True, True, True]
    net.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    seen: list[nn.Module] = []
    net.apply(seen.append)
    assert seen[-1] is net and len(seen) == 6


def test_state_dict_shares_memory_and_loads_all_or_nothing() -> None:
    net, other = Tied(), Tied()
    state = net.state_dict()
    assert list(state) == [
        "scale",
        "count",
        "first.weight",
        "first.bias",
        "second.weight",
        "rest.1.weight",
        "rest.1.bias",
    ]
    arrays = {name: value.numpy().copy() for name, value in state.items()}
    assert other.load_state_dict(arrays) == ([], [])
    for name, value in other.state_dict().items():
        assert np.array_equal(value.numpy(), arrays[name])
    with qn.no_grad():
        net.scale[...] = 5
    assert state["scale"].item() == 5

    before = other.first.weight.numpy().copy()
    wrong = arrays | {"first.weight": np.ones((4, 4)), "rest.1.weight": np.ones((3, 3))}
    with pytest.raises(ShapeError, match=r"rest\.1\.weight has shape \(2, 4\), the state \(3, 3\)"):
        other.load_state_dict(wrong)
    without = {name: value for name, value in arrays.items() if name != "scale"} | {"extra": np.ones(1)}
    with pytest.raises(ArgumentError, match=r"missing: \['scale'\]; unexpected: \['extra'\]"):
        other.load_state_dict(without)
    assert np.array_equal(other.first.weight.numpy(), before)
    assert other.load_state_dict(without, strict=False) == (["scale"], ["extra"])


def test_inputs_become_tensors_of_the_parameters_dtype() -> None:
    net = nn.Linear(3, 2)
    x = np.arange(6.0).reshape(2, 3)
    assert net(x).dtype == "float32"
    assert net(qn.tensor(x)).dtype == "float32"
    net.to("float64")
    assert net.dtype == "float64" and net(x.astype(np.float32)).dtype == "float64"
    assert np.array_equal(net(x).numpy(), net(x[:, :].copy(order="F")).numpy())
    assert nn.ReLU()(x).dtype == "float64"  # without parameters nothing is cast


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "uint64", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "float64"])
def test_integers_and_half_floats_are_cast_too(dtype: str, wanted: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).to(wanted)
    x = np.random.default_rng(0).integers(0, 200, (5, 2, 4)).astype(dtype)
    expected = net(x.astype(wanted)).numpy()
    assert np.array_equal(net(x).numpy(), expected)
    assert np.array_equal(net.predict(x), expected)
    assert np.array_equal(net.freeze()(x), net.freeze()(x.astype(wanted)))
    assert np.array_equal(nn.Sequential(net).freeze()(x), net.freeze()(x))  # traced at its first call
    net.compile("sgd", precision="fp64" if wanted == "float64" else "fp32")
    labels = np.array([0, 1, 2, 1, 0]).astype("int16" if dtype == "float16" else dtype)
    assert np.isfinite(net.fit(x, labels, verbose=0)["loss"][0])
    assert nn.Flatten()(x[:, :, :0]).shape == (5, 0)
    if dtype in ("uint8", "int32", "int64"):
        assert np.array_equal(net(qn.tensor(x)).numpy(), net(x.astype(wanted)).numpy())


def test_integers_reach_modules_that_take_them() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.net = nn.Linear(4, 3)
            self.loss = nn.CrossEntropyLoss()

        def forward(self, x: qn.Tensor, labels: qn.Tensor) -> qn.Tensor:
            assert labels.dtype == "int64" and x.dtype == "uint8"
            loss: qn.Tensor = self.loss(self.net(x), labels)
            return loss

    model, x, labels = Model(), np.ones((2, 4), np.uint8), np.array([0, 2], np.int16)
    expected = losses.cross_entropy(model.net(x), labels).item()
    assert model(x, labels).item() == expected


def test_losses_are_modules() -> None:
    logits, labels = qn.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True), np.array([1, 0], np.uint16)
    for reduction in ("mean", "sum", "none"):
        expected = losses.cross_entropy(logits, labels, reduction).numpy()
        assert np.array_equal(nn.CrossEntropyLoss(reduction=reduction)(logits, labels).numpy(), expected)
        y = nn.MSELoss(reduction)(logits, np.zeros((2, 2), np.float32)).numpy()
        assert np.array_equal(y, losses.mse(logits, np.zeros((2, 2), np.float32), reduction).numpy())
    nn.CrossEntropyLoss()(logits, labels).backward()
    assert logits.grad is not None and logits.grad.shape == (2, 2)
    assert repr(nn.MSELoss("sum")) == "MSELoss(reduction='sum')"
    with pytest.raises(ArgumentError, match=r"\[MSELoss\] reduction is 'mean', 'sum' or 'none'"):
        nn.MSELoss("average")


def test_to_moves_parameters_and_buffers() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(None, affine=False)).to("cpu", "float64")
    assert net(np.ones((2, 5, 5, 1))).dtype == "float64"
    assert {t.dtype for t in net.state_dict().values()} == {"float64"}
    net.to(dtype="float32")
    assert {t.dtype for t in net.state_dict().values()} == {"float32"}
    assert net(np.ones((2, 5, 5, 1))).dtype == "float32"
    if not qn.runtime.is_cuda_available():
        with pytest.raises(DeviceError, match="cuda"):
            net.to("cuda")
    for dtype in ("int8", "float16", "bfloat16", "bool"):
        for call in (lambda d=dtype: net.to(d), lambda d=dtype: net.to(dtype=d)):
            with pytest.raises(ArgumentError, match=rf"\[to\] modules are float32 or float64, got '{dtype}'"):
                call()


def test_copies_and_pickles_are_independent() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(None, 3))
    x = np.ones((2, 4), np.float32)
    net.compile()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin[2].weight.is_unsized and not twin[0].weight.is_unsized
        assert all(isinstance(parameter, nn.Parameter) for parameter in twin.parameters())
    net(x)
    twin = copy.deepcopy(net)
    assert np.array_equal(twin(x).numpy(), net(x).numpy())
    with qn.no_grad():
        twin[0].weight[...] = 0
    assert net[0].weight.numpy().any()
    tied = copy.deepcopy(Tied())
    assert tied.second.weight is tied.first.weight


def test_sizes_left_none_come_from_the_first_input_or_the_state() -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(None, 4, 3, groups=2),
            nn.BatchNorm2d(),
            nn.Flatten(),
            nn.Linear(None, 5),
        )

    net = make()
    weight = net[3].weight
    assert weight.is_unsized and weight.grad is None
    with pytest.raises(StateError, match="size is inferred at first use"):
        _ = weight.shape
    net.zero_grad()
    assert net(np.ones((2, 5, 5, 6))).shape == (2, 5)
    assert net[3].weight is weight and weight.shape == (5, 36)
    assert (net[0].in_channels, net[1].num_features, net[3].in_features) == (6, 4, 36)
    loaded = make()
    loaded.load_state_dict(net.state_dict())
    assert (loaded[0].in_channels, loaded[1].num_features, loaded[3].in_features) == (6, 4, 36)
    net.eval(), loaded.eval()
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 6))
    assert np.array_equal(net(x).numpy(), loaded(x).numpy())
    unchanged = make()
    with pytest.raises(ArgumentError, match="unexpected"):
        unchanged.load_state_dict({**net.state_dict(), "more": np.ones(1)})
    assert all(parameter.is_unsized for parameter in unchanged.parameters())


def test_an_input_that_does_not_fit_leaves_sizes_open() -> None:
    layer = nn.Conv2d(None, 4, 3)
    for x in (np.ones((8, 8, 3)), np.ones((1, 2, 2, 3)), np.ones((1, 8, 8, 3), bool)):
        with pytest.raises((ValueError, TypeError), match=r"\[conv2d\]"):
            layer(x)
        assert layer.in_channels is None and layer.weight.is_unsized and layer.bias.is_unsized
    assert layer(np.ones((1, 8, 8, 5))).shape == (1, 6, 6, 4)


def test_tied_unsized_layers_must_agree() -> None:
    a, b = nn.Linear(None, 3, bias=False), nn.Linear(None, 3, bias=False)
    b.weight = a.weight
    a(np.ones((1, 4)))
    assert np.array_equal(a(np.ones((1, 4))).numpy(), b(np.ones((1, 4))).numpy())
    c = nn.Linear(None, 3, bias=False)
    c.weight = a.weight
    with pytest.raises(ShapeError, match=r"shared between layers that need shapes \(3, 4\) and \(3, 5\)"):
        c(np.ones((1, 5)))


def test_containers_behave_like_lists_and_dictionaries() -> None:
    net = nn.Sequential({"a": nn.Linear(2, 3), "b": nn.ReLU()})
    assert [name for name, _ in net.named_parameters()] == ["a.weight", "a.bias"]
    assert len(net) == 2 and net[-1] is net.get_submodule("b") and len(net[:1]) == 1
    net[1] = nn.Tanh()
    assert isinstance(net[1], nn.Tanh)
    table = nn.ModuleDict({"x": nn.Linear(1, 1)})
    table["y"] = nn.ReLU()
    assert list(table) == ["x", "y"] and "y" in table and len(table) == 2
    assert dict(table.items())["y"] is table["y"]
    with pytest.raises(TypeError, match=r"\[sequential\] expects modules, got int"):
        nn.Sequential(3)  # type: ignore[arg-type]


def test_repr_shows_the_tree() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.Residual(nn.Linear(None, 4, bias=False)))
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 4, kernel_size=(3, 3), padding='same')\n"
        "  (1): Residual(\n"
        "    (body): Linear(None, 4, bias=False)\n"
        "    (shortcut): Identity()\n"
        "  )\n"
        ")"
    )


def walk(module: nn.Module) -> Iterator[str]:
    for name, _ in module.named_parameters(remove_duplicate=False):
        yield name


def test_duplicates_can_be_listed() -> None:
    assert "second.weight" in set(walk(Tied()))


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"ModuleList defines no forward"):
        nn.ModuleList()(1)


def test_a_plan_notices_changes_anywhere_below_and_in_lists() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            self.table = nn.Linear(3, 3, bias=False)  # read, never called
            self.layers = nn.ModuleList([nn.Tanh()])

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            y = qn.ops.linear(x, self.table.weight)
            for layer in self.layers:
                y = layer(y)
            return y

    net, loose = Outer(), nn.ModuleList([nn.Linear(3, 3)])

    @qn.jit
    def run(x: qn.Tensor) -> qn.Tensor:
        y = net(x)
        for layer in loose:
            y = layer(y)
        return y

    x = np.ones((2, 3), np.float32)

    def check() -> None:
        with qn.no_grad():
            expected = net(x).numpy()
            for layer in loose:
                expected = layer(expected).numpy()
            for _ in range(3):
                assert np.array_equal(run(x).numpy(), expected)

    check()
    net.table.weight = nn.Parameter(np.eye(3, dtype=np.float32))
    check()
    net.layers.append(nn.Sigmoid())
    check()
    loose[0].bias = None
    check()
    loose.append(nn.Tanh())
    check()


def test_host_state_has_changed_when_the_change_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise another thread could look at its guards after the announcement, and find that they still hold."""
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    opt = optim.SGD(net.parameters(), lr=0.5)
    layer, weight = net[0], net[0].weight

    def state() -> list[object]:
        groups = [group.peek("lr") for group in opt.param_groups]
        attributes = [layer.__dict__.get("note"), layer.__dict__["_version"], layer.__dict__["_training"]]
        return [*attributes, weight._requires_grad, *groups, opt._version]

    announced: list[list[object]] = []
    monkeypatch.setattr(recording, "host_write", lambda what: announced.append(state()))  # noqa: ARG005
    changes: list[Callable[[], object]] = [
        lambda: setattr(layer, "note", "new"),
        lambda: delattr(layer, "note"),
        lambda: layer.train(False),
        lambda: weight.requires_grad_(False),
        lambda: setattr(opt, "lr", 0.25),
        lambda: opt.add_param_group({"params": [nn.Parameter([1.0])], "lr": 0.1}),
    ]
    for change in changes:
        before = state()
        change()
        assert announced.pop() == state() != before
        assert not announced


@pytest.mark.parametrize("traced", [False, True])
def test_a_call_that_fails_leaves_the_model_as_it_was(traced: bool) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(), nn.Conv2d(None, 4, 1), nn.Flatten(), nn.Linear(16, 2)
    )
    net[1](np.ones((1, 2, 2, 4)))
    statistics = {k: v.numpy().copy() for k, v in net[1].state_dict().items()}
    stream = qn.random.default_generator().base
    x = np.ones((2, 6, 5, 1))
    with pytest.raises(ShapeError, match=r"\[linear\]"):
        _ = net.summary(input_shape=x.shape[1:], show=False) if traced else net(x)
    assert all(np.array_equal(v.numpy(), statistics[k]) for k, v in net[1].state_dict().items())
    assert net[2].weight.is_unsized and net[2].in_channels is None
    assert not any("_first_inputs" in module.__dict__ for module in (net, net[0], net[2]))
    assert qn.random.default_generator().base == stream
    assert not recording.in_transaction()
    assert net(np.ones((2, 4, 4, 1))).shape == (2, 2)
    assert not np.array_equal(net[1].running_mean.numpy(), statistics["running_mean"])


def test_a_transaction_inside_another_belongs_to_it() -> None:
    undone: list[str] = []

    def whole() -> None:
        with recording.transaction():
            with recording.transaction():
                recording.on_rollback(lambda: undone.append("inner"))
            assert recording.in_transaction()
            recording.on_rollback(lambda: undone.append("outer"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        whole()
    assert undone == ["outer", "inner"]
    assert not recording.in_transaction()

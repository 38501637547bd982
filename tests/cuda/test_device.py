"""What a user sees of the device: moving, training, freezing and saving there, and what is refused.

Like the op tests on CUDA these run by ``python -m tests.gpu``, on a GPU or on the emulation.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import quernel as qn
from quernel import _core, callbacks, compress, losses, nn, optim
from quernel.errors import ArgumentError, DeviceError
from tests.checks import check_equal
from tests.conftest import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")

X = np.random.default_rng(0).standard_normal((24, 8, 8, 3)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 4, 24)


@pytest.fixture(autouse=True)
def _on_the_cpu_by_default() -> None:
    _core.set_default_device("cpu")
    yield
    _core.set_default_device("cuda")


def _net() -> nn.Sequential:
    qn.seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(None, 16), nn.ReLU(), nn.Dropout(0.25), nn.Linear(16, 4),
    )  # fmt: skip


def _trained(device: str, epochs: int = 2) -> tuple[nn.Module, list[float]]:
    net = _net()
    net(X[:1])
    net.compile(optimizer="sgd", loss="cross_entropy", device=device)
    history = net.fit(X, Y, epochs=epochs, batch_size=8, shuffle=False, verbose=0)
    return net, history.history["loss"]


def test_tensors_move_and_gradients_follow() -> None:
    w = qn.tensor([1.0, -2.0, 3.0], requires_grad=True)
    there = w.to("cuda")
    assert (w.device, there.device, (there * 2).device) == ("cpu", "cuda", "cuda")
    (there * there).sum().backward()
    assert w.grad is not None and w.grad.device == "cpu"
    check_equal(w.grad.numpy(), np.array([2, -4, 6], np.float32))
    assert there.to("cuda") is there and there.cpu().device == "cpu"
    check_equal(np.asarray(there.detach()), w.detach().numpy())


def test_the_default_device_is_where_new_tensors_are_made() -> None:
    with qn.runtime.device("cuda"):
        assert {t.device for t in (qn.zeros((2,)), qn.tensor([1]), qn.arange(3), qn.ops.uniform((2,)))} == {
            "cuda"
        }
        assert nn.Linear(2, 3).weight.device == "cuda"
        with qn.runtime.device("cpu"):
            assert qn.ones((2,)).device == "cpu"
        assert qn.runtime.default_device() == "cuda"
    assert qn.runtime.default_device() == "cpu"
    assert qn.zeros_like(qn.zeros((2,), device="cuda")).device == "cuda"


def test_operands_of_two_devices_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"\[add\] operands lie on 'cpu' and 'cuda'.*\.to\(device\)"):
        qn.ones((2,)) + qn.ones((2,), device="cuda")
    with pytest.raises(DeviceError, match=r"\[linear\] operands lie on 'cpu' and 'cuda'"):
        nn.Linear(2, 3).to("cuda")(qn.ones((4, 2)))
    with pytest.raises(DeviceError, match="unknown device 'cdua'; there are 'cpu', 'cuda' and 'auto'"):
        qn.tensor([1.0], device="cdua")


def test_losses_of_a_run_agree_with_the_cpus() -> None:
    here, there = _trained("cpu"), _trained("cuda")
    assert there[0].device == "cuda" and {b.device for b in there[0].buffers()} == {"cuda"}
    np.testing.assert_allclose(
        here[1], there[1], rtol=2e-4
    )  # the same masks of dropout, sums in another order
    np.testing.assert_allclose(here[0].predict(X), there[0].predict(X), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_batches_that_are_copied_ahead_train_as_those_of_a_loader(accumulation: int) -> None:
    """Which is asked for a batch when that is wanted, and no sooner."""
    asked = []

    def loader() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for at in range(0, len(X), 8):
            asked.append(at)
            yield X[at : at + 8], Y[at : at + 8]

    class Asked(callbacks.Callback):
        def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:  # noqa: ARG002
            assert len(asked) == min((batch + 1) * accumulation, 3)

    runs = []
    for arguments, watched in (((X, Y), []), ((loader(), None), [Asked()])):
        net = _net()
        net(X[:1])
        net.compile(optimizer="sgd", loss="cross_entropy", metrics=["accuracy"], device="cuda")
        options = {"gradient_accumulation": accumulation, "shuffle": False, "verbose": 0, "seed": 3}
        history = net.fit(*arguments, batch_size=8, callbacks=watched, **options)
        runs.append((history.history, [p.numpy() for p in net.parameters()]))
    assert runs[0][0] == runs[1][0]
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        check_equal(a, b)


def test_an_array_may_change_once_it_has_been_uploaded() -> None:
    for size in (5, 3 << 20):  # one piece of pinned memory, and more bytes than there are pieces
        x = np.arange(size, dtype=np.float32)
        there = qn.tensor(x, device="cuda") + 0
        x[:] = -1
        check_equal(there.numpy(), np.arange(size, dtype=np.float32))


def test_runs_repeat_bit_for_bit_and_replays_equal_eager_steps() -> None:
    states = []
    for jitted in (True, True, False):
        net = _net().to("cuda")
        net(X[:1])
        opt = optim.Adam(net.parameters(), lr=1e-2)

        def step(x: qn.Tensor, y: qn.Tensor, net: nn.Module = net, opt: optim.Adam = opt) -> qn.Tensor:
            opt.zero_grad()
            loss = losses.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            return loss

        run = qn.jit(step) if jitted else step
        x, y = qn.tensor(X[:8], device="cuda"), qn.tensor(Y[:8], device="cuda")
        seen = [run(x, y).item() for _ in range(5)]
        assert not jitted or len(run.plans()) == 1
        states.append([np.array(seen), *(t.numpy() for t in net.state_dict().values())])
    for other in states[1:]:
        for a, b in zip(states[0], other, strict=True):
            check_equal(a, b)


def test_a_model_moves_between_steps_and_its_optimizer_goes_on() -> None:
    ends = []
    for device in ("cpu", "cuda"):
        net = _net().eval()
        net(X[:1])
        opt = optim.Adam(net.parameters(), lr=1e-2)
        for place in ("cpu", device, device, "cpu"):
            net.to(place)
            opt.zero_grad()
            losses.cross_entropy(net(X), qn.tensor(Y, device=place)).backward()
            opt.step()
        ends.append([p.detach().numpy() for p in net.parameters()])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_int8_is_bit_exact_with_the_cpu() -> None:
    net = _trained("cpu", 1)[0].eval()
    small = compress.quantize(net, calibration=X)
    here = small.freeze(max_batch=8)
    expected = here(X)
    there = small.to("cuda").freeze(max_batch=8) if isinstance(small, nn.Module) else None
    if there is None:
        pytest.skip("an int8 model is a graph here")
    check_equal(there(X), expected)


def test_frozen_models_run_where_their_weights_are() -> None:
    net = _net().eval()
    expected = net(X).numpy()
    run = net.to("cuda").freeze(max_batch=8)
    np.testing.assert_allclose(run(X), expected, rtol=1e-4, atol=1e-5)
    assert run.device == "cuda"


def test_bad_data_is_refused_and_nothing_changes() -> None:
    net = nn.Linear(4, 3).to("cuda")
    opt = optim.SGD(net.parameters(), lr=1.0)
    before = net.weight.detach().numpy()

    @qn.jit
    def step(x: qn.Tensor, y: qn.Tensor) -> qn.Tensor:
        opt.zero_grad()
        loss = losses.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        return loss

    x, good = qn.ones((2, 4), device="cuda"), qn.tensor([0, 2], device="cuda")
    for _ in range(3):
        step(x, good)
    trained = net.weight.detach().numpy()
    assert not np.array_equal(before, trained)
    with pytest.raises(ArgumentError, match="label 7 at row 1 is out of range for 3 classes"):
        step(x, qn.tensor([0, 7], device="cuda"))
    check_equal(net.weight.detach().numpy(), trained)


def test_checkpoints_know_no_device(tmp_path: Path) -> None:
    net = _trained("cuda", 1)[0].eval()
    net.save(tmp_path / "net.safetensors")
    loaded = qn.load(tmp_path / "net.safetensors")
    assert loaded.device == "cpu"
    for name, value in net.state_dict().items():
        check_equal(loaded.state_dict()[name].numpy(), value.numpy())


def test_memory_that_is_not_there_is_refused_and_the_engine_goes_on() -> None:
    with pytest.raises(MemoryError, match=r"no device memory for \d+ bytes"):
        qn.zeros((1 << 30, 1 << 20), device="cuda")
    assert qn.ones((3,), device="cuda").sum().item() == 3


def test_what_has_no_kernel_says_so() -> None:
    missing = [name for name, there in qn.runtime.cuda_kernels().items() if not there]
    assert {"sparse_rows", "embedding_bag", "adam_rows"} <= set(missing) and "gemm_f32" not in missing
    assert "no kernels for" in qn.runtime.config()["cuda"]
    table = nn.Embedding(5, 2, sparse=True).to("cuda")
    with pytest.raises(DeviceError, match=r"\[embedding_bag\] has no CUDA kernel in this version"):
        qn.ops.embedding_bag(qn.tensor([[1]], device="cuda"), table.weight)
    with pytest.raises(DeviceError, match=r"\[backward\] has no CUDA kernel in this version"):
        table(qn.tensor([1], device="cuda")).sum().backward()


def test_sparse_tensors_are_refused_before_anybody_reads_them() -> None:
    places = [qn.tensor(np.array(a, np.int32), device="cuda")._t for a in ([0, 1], [0, 1, 2])]
    values = qn.ones((2,), device="cuda")._t
    with pytest.raises(DeviceError, match=r"\[transpose_sparse\] sparse tensors have no CUDA kernels"):
        _core.transpose_sparse(values, *places, (2, 2))


def test_a_library_that_is_none_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not a library")
    program = (
        "import quernel as qn; print(qn.runtime.cuda_unavailable_reason()); qn.tensor([1.0], device='cuda')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**__import__("os").environ, "QUERNEL_CUDA_LIBRARY": str(tmp_path / "broken.so")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "cannot be loaded" in done.stdout and "[device] 'cuda' cannot be used" in done.stderr

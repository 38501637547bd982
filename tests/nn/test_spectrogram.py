"""Front ends for sound: against the transforms of torch and SciPy, numbers of librosa and torchaudio, and inside models."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import compress, losses, nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests.checks import gradcheck
from tests.strategies import seeds

Array = np.ndarray[Any, Any]

LAYERS: dict[str, nn.Spectrogram] = {
    "powers": nn.Spectrogram(64, hop_length=20),
    "magnitudes": nn.Spectrogram(64, hop_length=20, power=1, center=False),
    "mel": nn.MelSpectrogram(8000, 64, hop_length=20, n_mels=8),
    "log": nn.LogMelSpectrogram(8000, 64, 50, 20, n_mels=8, normalize="mean_var"),
    "mfcc": nn.MFCC(8000, 5, 64, hop_length=20, n_mels=8, center=False, top_db=30.0),
    "mfcc of logarithms": nn.MFCC(8000, 5, 64, hop_length=20, n_mels=8, log_mels=True, normalize="mean"),
}


def rising_tone() -> Array:
    t = np.arange(4000) / 8000
    tone = np.sin(2 * np.pi * (200 * t + 1600 * t**2)) * (0.2 + t)
    return (tone + 0.02 * np.random.RandomState(0).standard_normal(4000)).astype(np.float32)


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def amplitudes(x: Array, n_fft: int, win: int, hop: int, center: bool, mode: str) -> tuple[Array, Array]:
    """|X| by NumPy's FFT in float64, and the bound sqrt(2) gamma sum |w x| of a float32 sum of as many terms."""
    if center:
        x = np.pad(x, ((0, 0), (n_fft // 2,) * 2), mode={"constant": "constant", "replicate": "edge", "circular": "wrap"}.get(mode, mode))  # type: ignore[arg-type]  # fmt: skip
    window, before = np.zeros(n_fft), (n_fft - win) // 2
    window[before : before + win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    parts = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), n_fft, axis=1)[:, ::hop] * window
    bound = np.sqrt(2) * (win + 2) * 2.0**-24 * np.abs(parts).sum(-1, keepdims=True)
    return np.abs(np.fft.rfft(parts)), bound


@pytest.mark.usefixtures("isa")
@given(
    seeds,
    st.integers(0, 3),
    st.sampled_from([(16, 16), (31, 31), (33, 20), (64, 49), (100, 100), (130, 1)]),
    st.integers(1, 70),
    st.booleans(),
    st.sampled_from(["reflect", "constant", "replicate", "circular"]),
    st.integers(0, 200),
)
def test_powers_are_those_of_the_fourier_transform(
    seed: int, n: int, sizes: tuple[int, int], hop: int, center: bool, mode: str, more: int
) -> None:
    n_fft, win = sizes
    x = noise(n, n_fft + more, seed=seed)
    layer = nn.Spectrogram(n_fft, win, hop, center=center, pad_mode=mode)
    y = layer(x).numpy()
    want, bound = amplitudes(x, n_fft, win, hop, center, mode)
    assert y.shape == want.shape == (n, layer.frames(n_fft + more), n_fft // 2 + 1)
    assert (np.abs(y - want**2) <= 2 * want * bound + bound**2 + 4 * 2.0**-24 * want**2).all()
    magnitudes = nn.Spectrogram(n_fft, win, hop, 1, center, mode)(x).numpy()
    assert (np.abs(magnitudes - want) <= bound + 4 * 2.0**-24 * want + 1e-12).all()


def test_no_waves_have_no_frames() -> None:
    for mode in ("reflect", "constant", "replicate", "circular"):
        assert nn.Spectrogram(16, hop_length=4, pad_mode=mode)(noise(0, 40)).shape == (0, 11, 9)


def test_torch_and_scipy_agree() -> None:
    x = noise(3, 1000)
    y = nn.Spectrogram(64, 50, 20)(x).numpy()
    signal = pytest.importorskip("scipy.signal")
    # SciPy divides by the sum of the window, pads by zeros, and has no windows shorter than a transform.
    _, _, z = signal.stft(x, window="hann", nperseg=64, noverlap=44, boundary=None, padded=False)
    plain = nn.Spectrogram(64, hop_length=20, center=False)(x).numpy()
    np.testing.assert_allclose(plain, np.abs(z.transpose(0, 2, 1) * 32) ** 2, rtol=1e-4, atol=1e-3)
    torch = pytest.importorskip("torch")
    window = torch.hann_window(50, dtype=torch.float64)
    stft = torch.stft(torch.tensor(x, dtype=torch.float64), 64, 20, 50, window, return_complex=True)
    np.testing.assert_allclose(y, stft.abs().square().transpose(1, 2).numpy(), rtol=1e-4, atol=1e-3)


def test_coefficients_are_scipys() -> None:
    fft = pytest.importorskip("scipy.fft")
    x = noise(2, 1000)
    bands = np.log(LAYERS["mel"](x).numpy().astype(np.float64) + 1e-6)
    found = nn.MFCC(8000, 5, 64, hop_length=20, n_mels=8, log_mels=True)(x).numpy()
    np.testing.assert_allclose(found, fft.dct(bands, norm="ortho")[..., :5], rtol=1e-5, atol=1e-5)


# Numbers of librosa 0.11.0 and torchaudio 2.11.0 for `rising_tone`, by their functions of these names.
MEL = {"n_fft": 256, "win_length": 200, "hop_length": 80, "n_mels": 32, "f_min": 60.0, "f_max": 3900.0}
SLANEY = {"norm": "slaney", "mel_scale": "slaney"}


def test_triangles_are_librosas_and_torchaudios() -> None:
    slaney = nn.MelSpectrogram(8000, **MEL, **SLANEY)._filters() * 1000
    np.testing.assert_allclose(
        slaney[20, 50:60],
        [0.386833, 2.708663, 5.030493, 7.352323, 7.340576, 5.177052, 3.013528, 0.850005, 0, 0],
        atol=6e-7,
    )
    assert not slaney[3, :8].any()
    htk = nn.MelSpectrogram(8000, **MEL)._filters() * 1000
    np.testing.assert_allclose(htk[3, :8], [0] * 7 + [469.999084], rtol=1e-5)  # float32 there
    np.testing.assert_allclose(
        htk[20, 50:60],
        [0, 240.874359, 487.110138, 733.345947, 979.581665, 786.172791, 553.011414, 319.850067, 86.688675, 0],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("layer", "frames", "bands", "want"),
    [
        (
            nn.MelSpectrogram(8000, **MEL),  # torchaudio.transforms.MelSpectrogram
            [0, 25, 50],
            [0, 9, 18, 27],
            [
                [2.417795e01, 5.391182e-03, 9.105172e-03, 5.018602e-02],
                [5.953211e-02, 3.577945e-02, 6.216796e-02, 1.916887e-01],
                [1.137588e-02, 8.600790e-03, 1.518599e00, 1.661101e-01],
            ],
        ),
        (
            nn.Sequential(nn.MelSpectrogram(8000, **MEL), nn.AmplitudeToDB(top_db=60)),  # torchaudio's of these names
            [0, 25, 50],
            [0, 9, 18, 27],
            [
                [13.834195, -22.683161, -20.407120, -12.994173],
                [-12.252488, -14.463663, -12.064333, -7.174035],
                [-19.440151, -20.654617, 1.814432, -7.796040],
            ],
        ),
        (
            nn.MFCC(8000, 13, **MEL),  # torchaudio.transforms.MFCC
            [0, 25, 50],
            [0, 4, 8, 12],
            [
                [-2.772438e01, 1.526672e01, -2.228932e00, -1.221243e-02],
                [-4.066089e01, 1.944732e01, 7.982060e00, -6.743173e00],
                [-3.632641e01, -3.388765e00, -1.720826e01, 2.531173e00],
            ],
        ),
        (
            nn.MFCC(8000, 13, **MEL, log_mels=True),  # the same with log_mels=True
            [0, 25, 50],
            [0, 4, 8, 12],
            [
                [-6.383686e00, 3.515260e00, -5.132282e-01, -2.820760e-03],
                [-9.362447e00, 4.477905e00, 1.837927e00, -1.552668e00],
                [-8.364305e00, -7.803819e-01, -3.962284e00, 5.828450e-01],
            ],
        ),
        (
            nn.MelSpectrogram(8000, **MEL, **SLANEY),  # librosa.feature.melspectrogram
            [0, 25, 50],
            [0, 9, 18, 27],
            [
                [8.805203e-01, 3.164265e-03, 7.916203e-05, 6.545589e-04],
                [1.177436e-03, 4.677663e-04, 5.008408e-04, 8.177966e-04],
                [1.776528e-03, 3.134950e-03, 1.351936e-02, 1.083657e-03],
            ],
        ),
        (
            nn.MFCC(8000, 13, **MEL, **SLANEY),  # librosa.feature.mfcc(pad_mode="reflect")
            [0, 25, 50],
            [0, 4, 8, 12],
            [
                [-150.836746, 21.201679, -3.370344, 6.555457],
                [-151.658905, 15.411320, -15.500113, -9.963223],
                [-146.323975, -10.777560, -6.607006, 3.805149],
            ],
        ),
        (  # librosa.feature.melspectrogram(center=False, power=1, htk=True, norm=None)
            nn.MelSpectrogram(8000, 256, hop_length=100, n_mels=20, center=False, power=1),
            [0, 20, 37],
            [0, 5, 10, 15],
            [
                [0.796086, 0.586954, 1.038338, 1.432350],
                [0.610922, 0.749564, 11.473748, 1.293978],
                [0.448319, 0.726547, 1.211864, 1.737833],
            ],
        ),
    ],
)  # fmt: skip
def test_librosa_and_torchaudio_agree(
    layer: nn.Module, frames: list[int], bands: list[int], want: list[list[float]]
) -> None:
    """Quiet bands beside a loud tone: both sides have float32's rounding errors of the loudest bin."""
    found = layer(rising_tone()[None]).numpy()[0][np.ix_(frames, bands)]
    np.testing.assert_allclose(found, want, rtol=3e-4, atol=2e-4 if np.abs(want).max() > 25 else 0)


def test_numbers_of_frames() -> None:
    rng = np.random.default_rng(0)
    for n_fft, hop, center in [(64, 20, True), (33, 7, True), (64, 20, False), (33, 50, False)]:
        layer = nn.Spectrogram(n_fft, hop_length=hop, center=center)
        for samples in rng.integers(n_fft, 300, 5).tolist():
            count = layer.frames(samples)
            assert isinstance(count, int) and layer(noise(1, samples)).shape[1] == count
            assert layer.frames(np.array([samples, 0])).tolist() == [count, layer.frames(0)]
            assert layer.frames(qn.tensor([samples, 0])).tolist() == [count, layer.frames(0)]
        assert layer.frames(0) == int(center and n_fft % 2 == 0)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name: str) -> None:
    layer = copy.deepcopy(LAYERS[name]).to("float64")
    lengths = (np.array([200, 90]),) if name in ("log", "mfcc of logarithms") else ()
    x = np.random.default_rng(1).standard_normal((2, 200)) + np.sin(np.arange(200))
    gradcheck(lambda t: layer(t, *lengths), x)


def test_silence_has_a_gradient() -> None:
    for name, layer in LAYERS.items():
        x = qn.zeros((1, 200)).requires_grad_()
        ops.sum(layer(x)).backward()
        assert x.grad is not None and np.isfinite(x.grad.numpy()).all(), name


@pytest.mark.parametrize("normalize", ["mean", "mean_var"])
@pytest.mark.parametrize("make", [nn.LogMelSpectrogram, nn.MFCC])
def test_each_wave_is_normalized_over_its_own_frames(make: Any, normalize: str) -> None:
    options = {"n_fft": 64, "hop_length": 20, "n_mels": 8, "center": False}
    options |= {"n_mfcc": 8, "top_db": None} if make is nn.MFCC else {}
    layer, raw = make(8000, **options, normalize=normalize), make(8000, **options)
    x, lengths = noise(4, 500), np.array([500, 300, 64, 10])
    y = layer(x, lengths).numpy()
    for row, wave, samples in zip(y, x, lengths.tolist(), strict=True):
        count = layer.frames(samples)
        assert not row[count:].any()
        if count == 0:
            continue
        frames = raw(wave[None, :samples]).numpy()[0].astype(np.float64)
        want = frames - frames.mean(0)
        if normalize == "mean_var":
            want /= np.sqrt((want**2).mean(0) + 1e-10)
        np.testing.assert_allclose(row[:count], want, rtol=1e-4, atol=2e-5)
    whole = layer(x, np.full(4, 500)).numpy()
    np.testing.assert_allclose(layer(x).numpy(), whole, rtol=1e-5, atol=1e-5)


def test_a_floor_below_the_loudest_belongs_to_its_row() -> None:
    x = np.array([[1e-4, 1, 10], [1e-4, 1e-3, 1e-12]], np.float32)
    both = nn.AmplitudeToDB(top_db=30)(x).numpy()
    np.testing.assert_allclose(both, [[-20, 0, 10], [-40, -30, -60]], atol=1e-5)
    np.testing.assert_allclose(nn.AmplitudeToDB("magnitude")(x).numpy()[0], [-80, 0, 20], atol=1e-5)
    np.testing.assert_array_equal(nn.AmplitudeToDB(top_db=30)(x[1:]).numpy(), both[1:])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", LAYERS)
def test_frozen_saved_and_replayed(name: str, tmp_path: Path) -> None:
    layer = LAYERS[name]
    x = noise(5, 300)
    want = layer(x).numpy()
    np.testing.assert_array_equal(layer(x[2:4]).numpy(), want[2:4])
    np.testing.assert_array_equal(layer.freeze(input_shape=(300,))(x), want)
    jitted = qn.jit(layer)
    for _ in range(3):
        np.testing.assert_array_equal(jitted(x).numpy(), want)
    assert layer.state_dict() == {}
    layer.save(tmp_path / "layer.safetensors")
    loaded = qn.load(tmp_path / "layer.safetensors")
    assert type(loaded) is type(layer) and repr(loaded) == repr(layer)
    np.testing.assert_array_equal(loaded(x).numpy(), want)


@pytest.mark.parametrize("name", LAYERS)
def test_float64_has_tables_of_its_own(name: str) -> None:
    """Against the plain transform in float64; and back in float32 there are the bits of before."""
    layer, x = copy.deepcopy(LAYERS[name]), np.random.default_rng(4).standard_normal((2, 300))
    want = layer(x).numpy()
    layer.to("float64")
    tables = {key: layer._exact(key).numpy() for key in layer._buffers}
    for key, table in tables.items():
        assert table.dtype == np.float64 and (table != table.astype(np.float32)).any()
        np.testing.assert_array_equal(getattr(layer, key).numpy(), table)
    spectrum, bound = amplitudes(x, 64, layer.win_length, 20, layer.center, "reflect")
    power = spectrum[..., layer._bins()] ** layer.power
    error = layer.power * (spectrum[..., layer._bins()] + bound) ** (layer.power - 1) * bound * 2.0**-29
    found = layer._spectrum(qn.tensor(x)).numpy()
    assert (np.abs(found - power) <= 2 * error + 2.0**-50 * power + 1e-12).all()
    np.testing.assert_array_equal(layer.to("float32")(x).numpy(), want)


@pytest.mark.parametrize("normalize", [None, "mean"])
def test_lengths_are_checked_however_the_layer_runs(normalize: Any) -> None:
    for layer in (
        nn.LogMelSpectrogram(8000, 64, hop_length=20, n_mels=8, normalize=normalize),
        nn.MFCC(8000, 5, 64, hop_length=20, n_mels=8, normalize=normalize),
    ):
        x, good = noise(3, 99), np.array([99, 40, 0])
        want, jitted = layer(x, good).numpy(), qn.jit(layer)
        for _ in range(3):
            np.testing.assert_array_equal(jitted(x, good).numpy(), want)
        np.testing.assert_array_equal(layer(x, good.astype(np.uint8)).numpy(), want)
        frozen = layer.freeze()
        np.testing.assert_array_equal(frozen(x, good), want)
        for length in (-5, 100, 9999):
            bad = np.array([99, length, 3])
            message = rf"^\[{layer._layer}\] length {length} of row 1 is out of range, expected 0 to 99, the number of samples"
            for run in (layer, jitted, *([frozen] if normalize else [])):  # else that has no use for them
                with pytest.raises(ArgumentError, match=message):
                    run(x, bad)
        with pytest.raises(
            ShapeError, match=r"lengths is \(2,\), expected one per row, \(3,\) \(x: \(3, 99\)\)"
        ):
            layer(x, good[:2])
        with pytest.raises(DTypeError, match=rf"\[{layer._layer}\] lengths are whole numbers, got float64"):
            layer(x, good * 1.0)


def test_frames_of_bytes() -> None:
    for layer in LAYERS.values():
        samples = np.array([255, 64, 3, 0])
        want = layer.frames(samples).tolist()
        assert layer.frames(samples.astype(np.uint8)).tolist() == want
        assert layer.frames(qn.tensor(samples.astype(np.uint8))).tolist() == want


def test_whole_numbers_and_other_precisions_are_waves_too() -> None:
    x = np.random.default_rng(0).integers(-3000, 3000, (2, 300))
    want = LAYERS["mel"](x.astype(np.float32)).numpy()
    for dtype in (np.int16, np.int32, np.float64):
        np.testing.assert_array_equal(LAYERS["mel"](x.astype(dtype)).numpy(), want)


class Hears(nn.Module):
    """Takes waves and how long they are."""

    def __init__(self) -> None:
        self.front = nn.LogMelSpectrogram(8000, 64, hop_length=20, n_mels=8, normalize="mean")
        self.head = nn.Linear(8, 3)

    def forward(self, x: qn.Tensor, lengths: qn.Tensor) -> qn.Tensor:
        y: qn.Tensor = ops.sum(self.head(self.front(x, lengths)), dim=1)
        return y


def test_inside_models_that_are_trained(tmp_path: Path) -> None:
    x, y = noise(8, 300), np.arange(8) % 3
    given_x: list[Any] = [x, (x, np.array([300, 200] * 4))]
    nets = [nn.Sequential(LAYERS["log"], nn.Flatten(), nn.Linear(None, 3)), Hears()]
    for net, inputs in zip(nets, given_x, strict=True):
        net.compile("adam")
        before = net.evaluate(inputs, y)["loss"]
        net.fit(inputs, y, epochs=30, verbose=0)
        assert net.evaluate(inputs, y)["loss"] < before
        net.save(tmp_path / "net.safetensors")
        np.testing.assert_array_equal(
            qn.load(tmp_path / "net.safetensors").predict(inputs), net.predict(inputs)
        )


def test_eager_training_of_the_wave_equals_its_replay() -> None:
    x = noise(2, 200)

    def step(t: qn.Tensor) -> qn.Tensor:
        wave = t.detach().requires_grad_()
        losses.mse(LAYERS["mfcc"](wave), ops.mul(LAYERS["mfcc"](wave).detach(), 0.5)).backward()
        assert wave.grad is not None
        return wave.grad

    want, jitted = step(qn.tensor(x)).numpy(), qn.jit(step)
    for _ in range(3):
        np.testing.assert_array_equal(jitted(qn.tensor(x)).numpy(), want)


def test_quantization_leaves_the_front_end_alone() -> None:
    x = np.stack([rising_tone()[:1000] * s for s in (0.01, 0.1, 1, 3)])
    net = nn.Sequential(
        nn.LogMelSpectrogram(8000, 256, hop_length=80, n_mels=16), nn.Flatten(), nn.Linear(None, 3)
    )
    net(x)
    small = compress.quantize(net, calibration=x)
    np.testing.assert_allclose(small.freeze()(x), net.predict(x), atol=0.02 * np.abs(net.predict(x)).max())


def test_refusals(caplog: pytest.LogCaptureFixture) -> None:
    for make, message in [
        (lambda: nn.Spectrogram(0), r"\[spectrogram\] n_fft is a positive integer, got 0"),
        (lambda: nn.Spectrogram(64, 65), r"win_length is at most n_fft=64, got 65"),
        (lambda: nn.Spectrogram(power=3), r"\[spectrogram\] power is one of 1, 2, got 3"),
        (lambda: nn.Spectrogram(pad_mode="edge"), r"pad_mode is one of 'reflect', .*, got 'edge'"),
        (
            lambda: nn.MelSpectrogram(8000, f_max=5000),
            r"\[mel_spectrogram\] 0 <= f_min < f_max <= sample_rate / 2 = 4000, got f_min=0 and f_max=5000",
        ),
        (
            lambda: nn.MelSpectrogram(8000, 64, f_min=10, f_max=90, n_mels=2),
            r"no bin of n_fft=64 lies between f_min=10 and f_max=90; take a larger n_fft",
        ),
        (lambda: nn.MelSpectrogram(norm="area"), r"norm is one of None, 'slaney', got 'area'"),
        (lambda: nn.LogMelSpectrogram(eps=0), r"\[log_mel_spectrogram\] eps is positive, .* got 0"),
        (lambda: nn.LogMelSpectrogram(normalize="var"), "normalize is one of None, 'mean', 'mean_var', got"),
        (lambda: nn.MFCC(n_mfcc=81), r"\[mfcc\] n_mfcc is at most n_mels=80, got 81"),
        (lambda: nn.AmplitudeToDB("db"), r"stype is one of 'power', 'magnitude', got 'db'"),
        (lambda: nn.AmplitudeToDB(top_db=-1), r"\[amplitude_to_db\] top_db is not negative, got -1"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            make()
    with caplog.at_level(logging.WARNING):
        nn.MelSpectrogram(16000, 400, n_mels=128)
    assert "of 128 triangles lie between two of the bins of n_fft=400" in caplog.text
    layer = LAYERS["log"]
    for arguments, error, message in [
        ((noise(300),), ShapeError, r"\[log_mel_spectrogram\] x must have 2 dimensions \(N, samples\), got shape \(300,\)"),
        ((noise(2, 32),), ShapeError, r"x has 32 samples, n_fft=64 with center=True takes waves from 33 on; .*\(x: \(2, 32\)\)"),
        ((noise(2, 99), np.array([9])), ShapeError, r"lengths is \(1,\), expected one per row, \(2,\)"),
        ((noise(2, 99), np.array([9.0, 8])), DTypeError, r"lengths are whole numbers, got float64"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            layer(*arguments)
    with pytest.raises(ShapeError, match=r"\[spectrogram\] x has 63 samples.*takes waves from 64 on"):
        LAYERS["magnitudes"](noise(1, 63))

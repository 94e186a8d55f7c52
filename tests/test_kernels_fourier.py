import numpy as np
import pytest
from kernel_oracle import check, compares
from live_graph import Net, dense, rows

from bnexport.errors import GraphError
from bnexport.kernels import OPS, Abstract

RANKS = {"": 1, "2D": 2, "3D": 3}
COMPLEX = [f"{way}{suffix}" for suffix in RANKS for way in ("FFT", "IFFT")]
REAL = [f"{way}{suffix}" for suffix in RANKS for way in ("RFFT", "IRFFT")]


def signal(*shape, dtype="float32"):
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def turned(*shape):
    return (signal(*shape) + 1j * np.random.default_rng(2).normal(size=shape)).astype(np.complex64)


@compares(*COMPLEX)
@pytest.mark.parametrize("name", COMPLEX)
def test_transforms_of_complex_numbers(name):
    check(name, {}, turned(2, 4, 5, 6))


@compares(*REAL)
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("length", [4, 6, 7, 9])
def test_transforms_of_real_numbers(name, length):
    rank = RANKS[name.partition("FFT")[2]]
    x = turned(2, 4, 5, 6) if name.startswith("I") else signal(2, 4, 5, 9)
    check(name, {}, x, np.array([4, 5, length][3 - rank :], np.int32), tolerance=4e-6)


@compares("Complex", "Real", "Imag", "ComplexAbs", "Angle", "Conj")
def test_parts_of_complex_numbers():
    check("Complex", {}, signal(3, 4), signal(4), unknown=(0, 1))
    for name in ("Real", "Imag", "ComplexAbs", "Angle", "Conj"):
        check(name, {}, turned(3, 4))


def test_a_length_for_each_dimension():
    with pytest.raises(GraphError, match="Fourier"):
        OPS["RFFT2D"].infer({}, [Abstract((3, 8), np.dtype("float32")), Abstract((1,), np.dtype("int32"), np.array([8]))])


@pytest.mark.tensorflow
def test_a_network_of_spectra(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 64], name="x")
        spectra = tf.abs(tf.signal.stft(x, frame_length=16, frame_step=8))
        power = tf.log(tf.square(spectra) + 1e-3)
        return Net({x: rows(5, 64)}, [tf.nn.softmax(dense(tf, tf.layers.flatten(power), 4, "out"), name="y")])

    live(build).matches()

"""Discrete Fourier transforms, and the parts of complex numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnexport.kernels.rules import elementwise, integers, known, same_as_first
from bnexport.kernels.table import Abstract, Attrs, Infer, NDArray, op, shapes_differ


def _complex(dtype: "np.dtype[Any]") -> "np.dtype[Any]":
    return np.dtype(np.complex128 if dtype == np.float64 else np.complex64)


def _real(dtype: "np.dtype[Any]") -> "np.dtype[Any]":
    return np.dtype(np.float64 if dtype == np.complex128 else np.float32)


def _lengths(length: NDArray, rank: int, available: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(integers(length))
    if len(sizes) != rank or len(available) < rank:
        raise shapes_differ("a Fourier transform", tuple(available), sizes)
    return sizes


def _transformed(rank: int, to_complex: bool) -> Infer:
    def infer(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
        x, length = operands
        sizes = list(_lengths(known(length, "length of a Fourier transform"), rank, x.shape))
        dtype = _complex(x.dtype) if to_complex else _real(x.dtype)
        if to_complex:
            sizes[-1] = sizes[-1] // 2 + 1 if sizes[-1] else 0
        return [Abstract((*x.shape[: len(x.shape) - rank], *sizes), dtype)]

    return infer


def _register_complex(name: str, rank: int, transform: Callable[..., Any]) -> None:
    def compute(attrs: Attrs, x: NDArray) -> NDArray:
        return np.asarray(transform(x, axes=range(-rank, 0))).astype(x.dtype, copy=False)

    op(name, infer=same_as_first)(compute)


def _register_real(name: str, rank: int, transform: Callable[..., Any], to_complex: bool) -> None:
    def compute(attrs: Attrs, x: NDArray, length: NDArray) -> NDArray:
        dtype = _complex(x.dtype) if to_complex else _real(x.dtype)
        sizes = _lengths(length, rank, x.shape)
        return np.asarray(transform(x, s=sizes, axes=range(-rank, 0))).astype(dtype, copy=False)

    op(name, infer=_transformed(rank, to_complex))(compute)


for _rank, _suffix in ((1, ""), (2, "2D"), (3, "3D")):
    _register_complex(f"FFT{_suffix}", _rank, np.fft.fftn)
    _register_complex(f"IFFT{_suffix}", _rank, np.fft.ifftn)
    _register_real(f"RFFT{_suffix}", _rank, np.fft.rfftn, to_complex=True)
    _register_real(f"IRFFT{_suffix}", _rank, np.fft.irfftn, to_complex=False)


@op("Complex", infer=lambda attrs, operands: [Abstract(elementwise(attrs, operands)[0].shape, _complex(operands[0].dtype))])
def complex_(attrs: Attrs, real: NDArray, imaginary: NDArray) -> NDArray:
    """real + i · imaginary."""
    result = np.empty(np.broadcast_shapes(real.shape, imaginary.shape), _complex(real.dtype))
    result.real, result.imag = real, imaginary
    return result


def _part(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(operands[0].shape, _real(operands[0].dtype))]


@op("Real", infer=_part)
def real_part(attrs: Attrs, x: NDArray) -> NDArray:
    """The real parts."""
    return x.real.copy()


@op("Imag", infer=_part)
def imaginary_part(attrs: Attrs, x: NDArray) -> NDArray:
    """The imaginary parts."""
    return np.array(x.imag)


@op("ComplexAbs", infer=_part)
def complex_abs(attrs: Attrs, x: NDArray) -> NDArray:
    """The absolute values."""
    return np.abs(x)


@op("Angle", infer=_part)
def angle(attrs: Attrs, x: NDArray) -> Any:
    """The angles, from -π to π."""
    return np.angle(x)


@op("Conj", infer=same_as_first)
def conjugate(attrs: Attrs, x: NDArray) -> Any:
    """The complex conjugates."""
    return np.conjugate(x)

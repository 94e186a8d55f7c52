"""Two small checkpoints that TensorFlow 2.21 wrote (tf.raw_ops.SaveV2 and SaveSlices), byte for byte, and the values that it was given.

`dense/kernel` was saved as two slices, the second before the first. Version 1 does not have `half` and `none`.
"""

import base64

import numpy as np

VALUES = {
    "dense/bias": np.array([1.5, -2, 0.1], np.float32),
    "dense/kernel": np.arange(15, dtype=np.float32).reshape(5, 3),
    "flag": np.array([True, False]),
    "half": np.array([[0.5, 65504]], np.float16),
    "none": np.zeros((0, 4), np.complex64),
    "step": np.array(-7, np.int64),
    "vocabulary": np.array([b"a", b"", b"xyz"], object),
}

INDEX = base64.b64decode(
    "AAAGCAEaAggBABUVAGRlbnNlL2tlcm5lbAABAQKAg4B/CAESCBICCAMSAggDICQoJDUwUdAhEQQVg4KAfwgBEggSAggCEgIIAyAMKBg1YGoJ9QAKD2RlbnNlL2JpYXMIARIEEgIIAygM"
    "NaOIACsGBh5rZXJuZWwIARIIEgIIBRICCAM6CAoECAMQAgoAOgYKAhADCgAABBFmbGFnCAoSBBICCAIgTCgCNV+wzoEABBVoYWxmCBMSCBICCAESAggCIEgoBDUcP9byAAQRbm9uZQgI"
    "EgYSABICCAQgYTXY6oKiAAQNc3RlcAgJEgAgWSgINdzgTAoAChF2b2NhYnVsYXJ5CAcSBBICCAMgTigLNfKPAPgAAAAAAQAAAADexMgiAAAAAAEAAAAAwPKhsAABA3cAmwIAAAAAAQAA"
    "AAC4cXUdoAIIrQIPAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAFf7gIskdUfb"
)

DATA = base64.b64decode(
    "AADAPwAAAMDNzMw9AAAQQQAAIEEAADBBAABAQQAAUEEAAGBBAAAAAAAAgD8AAABAAABAQAAAgEAAAKBAAADAQAAA4EAAAABBADj/ewEAAQADP9src2F4eXr5/////////w=="
)

VERSION_1 = base64.b64decode(
    "AACLAQqIAQoYCgpkZW5zZS9iaWFzEgQSAggDGAEiAgoACiwKDGRlbnNlL2tlcm5lbBIIEgIIBRICCAMYASIICgQIAxACCgAiBgoCEAMKAAoSCgRmbGFnEgQSAggCGAoiAgoACgwKBHN0"
    "ZXASABgJIgAKGAoKdm9jYWJ1bGFyeRIEEgIIAxgHIgIKABICCAEAESIAZGVuc2UvYmlhcwABAQGAfxIgCgpkZW5zZS9iaWFzEgIKABoOKgwAAMA/AAAAwM3MzD0HDkBrZXJuZWwAAQEC"
    "gIOAfxI+CgxkZW5zZS9rZXJuZWwSBgoCEAMKABomKiQAAAAAAACAPwAAAEAAAEBAAACAQAAAoEAAAMBAAADgQAAAAEERBDaDgoB/EjQKDGRlbnNlL2tlcm5lbBIICgQIAxACCgAaGioY"
    "AAAQQQAAIEEAADBBAABAQQAAUEEAAGBBAQoSZmxhZwABAQGAfxIQCgRmbGFnEgIKABoEWgIBAAEHGHN0ZXAAAQASFgoEc3RlcBIAGgxSCvn//////////wEBEB52b2NhYnVsYXJ5AAEB"
    "AYB/EhwKCnZvY2FidWxhcnkSAgoAGgpCAWFCAEIDeHl6AAAAAAEAAAAASrdIcAAAAAABAAAAAMDyobAAAQMBAM0DAAAAAAEAAAAA2stHxNIDCN8DDwAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAABX+4CLJHVH2w=="
)


def same(name: str, values: np.ndarray) -> bool:
    """Whether `values` are those that TensorFlow was given, in every bit."""
    expected = VALUES[name]
    if (values.dtype, values.shape) != (expected.dtype, expected.shape):
        return False
    return values.tolist() == expected.tolist() if expected.dtype == object else values.tobytes() == expected.tobytes()

"""What turns pixels into the tensor a network was trained on: one object for all who need it.

Training, the float baseline, the reference and every artifact take it from here, so that no two of
them can disagree. Pixels are RGB, 0 to 255; the network sees (pixel / 255 - mean) / std.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation per channel, in units of 0..1 pixels.

    mean, std: one value per channel (RGB order), std above 0.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        values = (*self.mean, *self.std)
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(f"mean and std must have one value per channel each, not {self.mean} and {self.std}")
        if not all(np.isfinite(values)) or min(self.std) <= 0:
            raise InputError(f"mean must be finite and std above 0, not {self.mean} and {self.std}")

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (N, H, W, C) uint8 -> network input (N, C, H, W) float32, contiguous."""
        if pixels.ndim != 4 or pixels.shape[3] != self.channels:
            raise InputError(
                f"expected images of shape (N, H, W, {self.channels}), got {pixels.shape}: "
                f"mean and std have {self.channels} channels"
            )
        scale = np.asarray(self.std, np.float32) * np.float32(255)
        shift = np.asarray(self.mean, np.float32) * np.float32(255)
        normalised = (pixels.astype(np.float32) - shift) / scale
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))

    def to_json(self) -> dict[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Preprocessing:
        """Raises InputError when mean or std are missing or are no numbers."""
        try:
            return cls(tuple(float(v) for v in value["mean"]), tuple(float(v) for v in value["std"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"preprocessing needs numbers under 'mean' and 'std', got {value!r}") from error

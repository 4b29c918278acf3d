"""What a decoder is: bytes, headers, crop windows and flips in, a batch of uint8 images out.

May import fastmim_kernels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from fastmim_kernels.reader import File


class Job(NamedTuple):
    """One image to make."""

    file: File
    window: tuple[int, int, int, int]
    """Top, left, height, width in pixels of the image as seen, that is, after its EXIF orientation."""
    flip: bool


class Pending(ABC):
    """A batch that is being decoded."""

    @abstractmethod
    def result(self) -> tuple[Tensor, dict[int, str]]:
        """Waits. Images (B, H, W, C) uint8, contiguous, on the decoder's device; {position: reason} of the failed."""


class Decoder(ABC):
    """Makes images from files; owns threads."""

    @abstractmethod
    def start(self, jobs: list[Job]) -> Pending:
        """Begins to decode and returns soon."""

    @abstractmethod
    def describe(self) -> str:
        """What decodes, in words."""

    @abstractmethod
    def close(self) -> None:
        """Drops what is waiting and ends the threads."""

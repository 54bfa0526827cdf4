"""Options of a reader: the video of the file, and facts that only the user knows."""

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class Recording:
    """A video, or a folder of images, that boxes belong to.

    Attributes:
        name: of the file or folder.
        width, height: of the upright picture, pixels.
        images: names of the images of a folder in their order; () of a video.
    """

    name: str
    width: int
    height: int
    images: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The name without the suffix of a video."""
        return self.name if self.images else PurePath(self.name).stem


@dataclass(frozen=True)
class TrackOptions:
    """Settings that the formats leave open.

    Attributes:
        first_frame: number of the first frame in the file; None where the format fixes it.
        by_name: frame numbers are those in the names of the images.
        stride: the tracker processed, and numbered, one of this many frames.
        first_pixel: number of the leftmost column and topmost row, 0 or 1.
        picture: (width, height) that the pixels of the file belong to; None for the video's own.
        frame_column: name of the column with the frame number (supervision).
        stream: name of the video or stream, if the file or folder has several.
    """

    first_frame: int | None = None
    by_name: bool = False
    stride: int = 1
    first_pixel: int = 0
    picture: tuple[int, int] | None = None
    frame_column: str = ''
    stream: str = ''

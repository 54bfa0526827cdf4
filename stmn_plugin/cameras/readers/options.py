"""Options of a reader besides the file: its video, and facts that only the user knows."""

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
    """What the formats leave open.

    Attributes:
        first_frame: number that the file gives to the first frame; None where the format says it.
        by_name: frame numbers are those in the names of the images.
        stride: the tracker processed one of so many frames and numbered only those.
        first_pixel: number of the leftmost column and topmost row, 0 or 1.
        picture: (width, height) that the pixels of the file belong to; None for the video's own.
        frame_column: name of the column with the frame number (supervision).
        stream: which of several videos or streams the file or folder holds is meant.
    """

    first_frame: int | None = None
    by_name: bool = False
    stride: int = 1
    first_pixel: int = 0
    picture: tuple[int, int] | None = None
    frame_column: str = ''
    stream: str = ''

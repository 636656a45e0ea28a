"""What a target is shown of a sample: all of it as in the paper, or less, or something else.

An arm changes the target's view alone. The judge always sees the sample's own image and question, so that a
label means the same in every arm.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from vlsb.config import USUAL_ARM
from vlsb.data import altered_images
from vlsb.endpoints.request import ReadImage, no_image
from vlsb.errors import ConfigError, ImageError
from vlsb.records import ImageFile, Sample, Untrusted

_CAPTION = "The image is not shown. This is what it shows: "
# A blank image is a few kilobytes, whatever its size.
_MOST_OF_A_BLANK = 64 * 1024
_SHAPES = (
    "image+text, text, caption+text, blank+text, shuffled+text[:SEED] or corrupted+text:KIND:LEVEL (KIND: "
    f"{', '.join(altered_images.CORRUPTIONS)}; LEVEL: 1 to {altered_images.LEVELS})"
)


class ShownView(StrEnum):
    """What stands where the sample's image does in the paper."""

    IMAGE = USUAL_ARM
    TEXT = "text"
    CAPTION = "caption+text"
    BLANK = "blank+text"
    SHUFFLED = "shuffled+text"
    CORRUPTED = "corrupted+text"


@dataclass(frozen=True, slots=True)
class Arm:
    """A view of the samples, with the seed of a shuffle, or the kind and level of a corruption.

    As text it is what `--arm` takes and what a run records.
    """

    view: ShownView
    seed: int = 0
    corruption: str = ""
    level: int = 0

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read what `--arm` takes. Raises ConfigError with all that it may be."""
        name, *details = text.split(":")
        if name in [*ShownView]:
            view = ShownView(name)
            if not details:
                if view is not ShownView.CORRUPTED:
                    return cls(view)
            elif view is ShownView.SHUFFLED and len(details) == 1 and details[0].isdecimal():
                return cls(view, seed=int(details[0]))
            elif view is ShownView.CORRUPTED and len(details) == 2:
                kind, level = details
                levels = [str(each) for each in range(1, altered_images.LEVELS + 1)]
                if kind in altered_images.CORRUPTIONS and level in levels:
                    return cls(view, corruption=kind, level=int(level))
        raise ConfigError(f"--arm {text}: not an arm. It is {_SHAPES}.")

    @property
    def suffix(self) -> str:
        """What the name of a run's directory ends with; empty for the usual arm."""
        words = str(self).replace("+text", "").replace(":", "-")
        return "" if self.view is ShownView.IMAGE else f".{words}"

    def __str__(self) -> str:
        if self.view is ShownView.SHUFFLED:
            return f"{self.view}:{self.seed}"
        return (
            f"{self.view}:{self.corruption}:{self.level}"
            if self.view is ShownView.CORRUPTED
            else str(self.view)
        )


class Shown(NamedTuple):
    """What a target is shown of a sample: the instruction, and an image or `instead` of it a text.

    `read_image` gives the bytes to send; it is called for an arm without an image too, since that says which
    image the response is about.
    """

    instruction: Untrusted
    image: ImageFile | None
    instead: Untrusted | None
    read_image: Callable[[], ReadImage]


class ArmView:
    """Shows samples as an arm has them. `read` reads a sample's own image and binds it for the whole run."""

    def __init__(
        self,
        arm: Arm,
        samples: Sequence[Sample],
        images: Mapping[int, ImageFile | ImageError | None],
        read: Callable[[Sample, ImageFile], ReadImage],
    ) -> None:
        self._arm = arm
        self._read = read
        self._images = images
        self._others = others_images(samples, arm.seed) if arm.view is ShownView.SHUFFLED else {}

    def of(self, sample: Sample, image: ImageFile | None) -> Shown:
        """Return what the target is shown of a sample; without an image that is its instruction.

        Blocking where images are altered: their size is that of their pixels. Raises ImageError for an image
        that cannot be decoded, or whose replacement cannot be sent.
        """
        if image is None:
            return Shown(sample.instruction, None, None, no_image)
        own = partial(self._read, sample, image)
        usual = Shown(sample.instruction, image, None, own)
        match self._arm.view:
            case ShownView.IMAGE:
                return usual
            case ShownView.TEXT:
                if not sample.instruction:
                    raise ImageError(
                        "the instruction is empty, and this arm shows no image: nothing is asked"
                    )
                return usual._replace(image=None, read_image=partial(_without_bytes, own))
            case ShownView.CAPTION:
                # A run is not begun on a data set that does not describe its images.
                caption = Untrusted(_CAPTION + (sample.image_description or Untrusted("")).expose())
                return usual._replace(image=None, instead=caption, read_image=partial(_without_bytes, own))
            case ShownView.SHUFFLED:
                other = self._others[sample.id]
                if not isinstance(found := self._images[other.id], ImageFile):
                    why = "it has none" if found is None else found.message
                    raise ImageError(f"the image of sample {other.id} is shown instead: {why}")
                return usual._replace(
                    image=found, read_image=partial(_another, own, partial(self._read, other, found))
                )
            case ShownView.BLANK:
                alter, kind = altered_images.blank_like, "image/png"
            case ShownView.CORRUPTED:
                corruption, level = self._arm.corruption, self._arm.level
                alter = partial(altered_images.corrupt, kind=corruption, level=level)
                kind = altered_images.corrupted_type(corruption)
        size = (
            _MOST_OF_A_BLANK
            if self._arm.view is ShownView.BLANK
            else altered_images.most_bytes(own().content)
        )
        drawn = replace(image, media_type=kind, size_bytes=size)
        return usual._replace(image=drawn, read_image=partial(_altered, own, alter))

    @property
    def decodes(self) -> bool:
        """Whether `of` reads an image."""
        return self._arm.view is ShownView.CORRUPTED


def _without_bytes(read: Callable[[], ReadImage]) -> ReadImage:
    return ReadImage(b"", read().sha256)


def _another(own: Callable[[], ReadImage], other: Callable[[], ReadImage]) -> ReadImage:
    """Send another image's bytes; the response is about the sample's own."""
    sent = other()
    return ReadImage(sent.content, own().sha256, sent.sha256)


def _altered(own: Callable[[], ReadImage], alter: Callable[[bytes], bytes]) -> ReadImage:
    """Send an altered image; the response is about the one that it was made of."""
    read = own()
    sent = ReadImage.of(alter(read.content))
    return ReadImage(sent.content, read.sha256, sent.sha256)


def others_images(samples: Sequence[Sample], seed: int) -> dict[int, Sample]:
    """Give each sample another one of another category, whose image it is shown with; by sample id.

    Within what a random order allows every sample's image is shown once; it depends on the samples and the
    seed alone. Raises ConfigError where one category holds more than half of them.
    """
    order = sorted(samples, key=lambda each: each.id)
    random.Random(f"arm {seed}").shuffle(order)
    # By category one after the other, then turned by the largest: nobody meets their own.
    order.sort(key=lambda each: each.category.sha256())
    counts: dict[Untrusted, int] = {}
    for each in order:
        counts[each.category] = counts.get(each.category, 0) + 1
    turn = max(counts.values(), default=0)
    if 2 * turn > len(order):
        raise ConfigError(
            "--arm shuffled+text shows the image of a sample of another category, and more than half of the "
            "selected samples are of one. Select more categories."
        )
    return {each.id: order[(place + turn) % len(order)] for place, each in enumerate(order)}


def require_arm(arm: Arm, samples: Sequence[Sample]) -> None:
    """Raise ConfigError where the samples do not have what the arm shows of them."""
    if arm.view is not ShownView.IMAGE and (bare := sum(each.image_path is None for each in samples)):
        raise ConfigError(
            f"--arm {arm} changes what is shown of an image, and {bare:,} of {len(samples):,} samples have "
            "none. Leave it out."
        )
    if arm.view is ShownView.SHUFFLED:
        others_images(samples, arm.seed)
    if arm.view is ShownView.CAPTION and (missing := sum(not each.image_description for each in samples)):
        raise ConfigError(
            f"--arm {arm} shows what the data set says of an image, and it says nothing of {missing:,} of "
            f"{len(samples):,}. Use a revision of the data that describes its images, or leave the arm out."
        )

"""A job in parts: where its model makes fewer images by one call than are asked, one call follows another.

Each part is billed as delivered: the job is settled once, for all of them together.
"""

from __future__ import annotations

from billing.catalog.usage import Work


def count(work: Work) -> int:
    """Into how many parts this work is divided, one wire call each; 1 for whatever one call does."""
    if not work.images_per_call:
        return 1
    return max(1, -(-work.images // work.images_per_call))


def share(work: Work, number: int) -> Work:
    """The most that the part of this number, from 1, can use: all of the input, and the output of its images.

    A number above the last is that of the last.
    """
    parts = count(work)
    if parts == 1:
        return work
    before = (min(number, parts) - 1) * work.images_per_call
    images = min(work.images_per_call, work.images - before)
    return Work(
        # The work of the whole job counts the input once for each part.
        input_tokens=work.input_tokens // parts,
        max_output_tokens=work.max_output_tokens * images // work.images,
        images=images,
    )

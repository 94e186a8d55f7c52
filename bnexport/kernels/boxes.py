"""Non-maximum suppression: of boxes that overlap, the one of the highest score."""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import DependsOnData
from bnexport.kernels.rules import integers, known
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ


def _overlaps(box: NDArray, others: NDArray) -> Any:
    """The area that one box shares with others, of the area that both cover; boxes are two opposite corners, in either order."""
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    lows, highs = np.minimum(others[:, :2], others[:, 2:]), np.maximum(others[:, :2], others[:, 2:])
    area, areas = np.prod(high - low), np.prod(highs - lows, axis=1)
    shared = np.prod(np.maximum(np.minimum(high, highs) - np.maximum(low, lows), 0), axis=1)
    real = (area > 0) & (areas > 0)
    return np.where(real, shared / np.where(real, area + areas - shared, 1), 0)


def _kept(boxes: NDArray, scores: NDArray, count: int, overlap: Any, least: Any, sigma: float = 0.0) -> tuple[list[int], list[Any]]:
    """At most `count` boxes by falling score, as indices and scores.

    Args:
        overlap: a box is left out if it overlaps one that is kept by more.
        least: scores have to be higher.
        sigma: where it is not 0, no box is left out for its overlaps, but for each of them its score falls by the factor exp(-overlap² / 2 sigma).
    """
    wide = np.dtype(np.float32 if scores.dtype == np.float16 else scores.dtype)
    boxes, scores = boxes.astype(wide), scores.astype(wide)
    fall = wide.type(-0.5 / sigma) if sigma else wide.type(0)
    waiting = [(-scores[i], i, 0) for i in np.flatnonzero(scores > least)]
    heapq.heapify(waiting)
    chosen: list[int] = []
    final: list[Any] = []
    while waiting and len(chosen) < count:
        negative, box, seen = heapq.heappop(waiting)
        score = -negative
        shares = _overlaps(boxes[box], boxes[chosen[seen:]])[::-1]
        if not sigma and np.any(shares > overlap):
            continue
        for weight in np.exp(fall * shares * shares) if sigma else ():
            score = wide.type(score * weight)
            if score <= least:
                break
        if score == -negative:
            chosen.append(int(box))
            final.append(score)
        elif score > least:
            heapq.heappush(waiting, (-score, box, len(chosen)))
    return chosen, final


def _as_many_as_stay(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    raise DependsOnData(
        "the number of boxes that non-maximum suppression keeps depends on the data, so its shape cannot be known before it is computed; "
        "name the boxes and scores that it takes with --output"
    )


def _filled_up(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    if not attrs.get("pad_to_max_output_size", False):
        return _as_many_as_stay(attrs, operands)
    boxes, scores, count = operands[:3]
    if boxes.shape != (*scores.shape, 4) or len(scores.shape) != 1:
        raise shapes_differ("non-maximum suppression", boxes.shape, scores.shape)
    (size,) = integers(known(count, "number of boxes"))
    indices, valid = Abstract((size,), np.dtype(np.int32)), Abstract((), np.dtype(np.int32))
    return [indices, Abstract((size,), scores.dtype), valid] if len(operands) == 6 else [indices, valid]


def _lowest(scores: NDArray) -> Any:
    return np.finfo(scores.dtype).min


@op("NonMaxSuppression", infer=_as_many_as_stay)
def non_max_suppression(attrs: Attrs, boxes: NDArray, scores: NDArray, count: NDArray) -> NDArray:
    """The indices of the boxes that are kept, by falling score; `iou_threshold` is an attribute."""
    overlap = scores.dtype.type(attrs.get("iou_threshold", 0.5))
    return np.array(_kept(boxes, scores, int(count), overlap, _lowest(scores))[0], np.int32)


@op("NonMaxSuppressionV2", "NonMaxSuppressionV3", infer=_as_many_as_stay)
def non_max_suppression_v3(attrs: Attrs, boxes: NDArray, scores: NDArray, count: NDArray, overlap: NDArray, *least: NDArray) -> NDArray:
    """The indices of the boxes that are kept, by falling score; from the third version on scores have to be higher than a threshold."""
    return np.array(_kept(boxes, scores, int(count), overlap, least[0] if least else _lowest(scores))[0], np.int32)


@op("NonMaxSuppressionV4", "NonMaxSuppressionV5", infer=_filled_up)
def non_max_suppression_v5(
    attrs: Attrs, boxes: NDArray, scores: NDArray, count: NDArray, overlap: NDArray, least: NDArray, *sigma: NDArray
) -> tuple[NDArray, ...]:
    """The indices of the boxes that are kept, in the fifth version their scores, and how many there are.

    With `pad_to_max_output_size` zeros are added until there are `count`. With a sigma, overlaps lower scores (soft non-maximum suppression).
    """
    chosen, final = _kept(boxes, scores, int(count), overlap, least, float(sigma[0]) if sigma else 0.0)
    size = int(count) if attrs.get("pad_to_max_output_size", False) else len(chosen)
    indices = np.array(chosen + [0] * (size - len(chosen)), np.int32)
    number = np.array(len(chosen), np.int32)
    if not sigma:
        return indices, number
    return indices, np.array(final + [0] * (size - len(final)), scores.dtype), number


def _combined_size(attrs: Attrs, classes: int, per_class: NDArray, total: NDArray) -> int:
    return min(int(total), int(per_class) * classes) if attrs.get("pad_per_class", False) else int(total)


def _combined(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    boxes, scores, per_class, total = operands[:4]
    if len(scores.shape) != 3 or len(boxes.shape) != 4 or boxes.shape[:2] != scores.shape[:2] or boxes.shape[2] not in (1, scores.shape[2]):
        raise shapes_differ("non-maximum suppression", boxes.shape, scores.shape)
    batch = scores.shape[0]
    size = _combined_size(attrs, scores.shape[2], known(per_class, "number of boxes of a class"), known(total, "number of boxes"))
    real = np.dtype(np.float32)
    return [Abstract((batch, size, 4), real), *[Abstract((batch, size), real)] * 2, Abstract((batch,), np.dtype(np.int32))]


@op("CombinedNonMaxSuppression", infer=_combined)
def combined_non_max_suppression(
    attrs: Attrs, boxes: NDArray, scores: NDArray, per_class: NDArray, total: NDArray, overlap: NDArray, least: NDArray
) -> tuple[NDArray, ...]:
    """For each image, of all classes together by falling score: boxes, scores, classes, filled up with zeros, and how many there are.

    Boxes (N, boxes, 1 or classes, 4), scores (N, boxes, classes). Boxes are cut off at 0 and 1 unless `clip_boxes` is false.
    """
    batch, _, classes = scores.shape
    size = _combined_size(attrs, classes, per_class, total)
    out = np.zeros((batch, size, 4), np.float32)
    out_scores, out_classes = np.zeros((batch, size), np.float32), np.zeros((batch, size), np.float32)
    number = np.zeros(batch, np.int32)
    for image in range(batch):
        found = []
        for c in range(classes):
            own = boxes[image, :, c if boxes.shape[2] > 1 else 0]
            chosen, final = _kept(own, scores[image, :, c], int(per_class), overlap, least)
            found += [(score, c, own[box]) for box, score in zip(chosen, final, strict=True)]
        found = sorted(found, key=lambda candidate: -candidate[0])[:size]
        number[image] = len(found)
        for place, (score, c, box) in enumerate(found):
            out[image, place] = np.clip(box, 0, 1) if attrs.get("clip_boxes", True) else box
            out_scores[image, place], out_classes[image, place] = score, c
    return out, out_scores, out_classes, number

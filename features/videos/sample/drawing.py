"""What the scenes of the sample corpus are drawn with: shapes, gradients, light, people, captions.

Coordinates are pixels from the upper left and may be fractions; colours are RGB, 0 to 255.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Painter = Callable[[float], Picture]
"""Seconds since the scene began to an RGB picture, (height, width, 3)."""
Scene = Callable[[int, int, np.random.Generator, float], Painter]
"""Width, height, random numbers, and how many seconds will be shown, to a painter."""

SUB = 16  # OpenCV draws at sixteenths of a pixel, so that slow motion does not jerk


def _px(value: float) -> int:
    return round(value * SUB)


def hue(hue: float, saturation: float = 0.6, value: float = 1.0) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def disc(img: Picture, x: float, y: float, radius: float, colour: Colour) -> None:
    cv2.circle(img, (_px(x), _px(y)), max(_px(radius), 1), colour, -1, cv2.LINE_AA, 4)


def oval(img: Picture, x: float, y: float, rx: float, ry: float, colour: Colour, angle: float = 0.0) -> None:
    cv2.ellipse(img, (_px(x), _px(y)), (max(_px(rx), 1), max(_px(ry), 1)), angle, 0, 360, colour, -1, cv2.LINE_AA, 4)


def arc(img: Picture, x: float, y: float, r: float, begin: float, end: float, colour: Colour, width: int) -> None:
    cv2.ellipse(img, (_px(x), _px(y)), (_px(r), _px(r)), 0, begin, end, colour, width, cv2.LINE_AA, 4)


def shape(img: Picture, points: Sequence[tuple[float, float]] | npt.NDArray[Any], colour: Colour) -> None:
    cv2.fillPoly(img, [np.round(np.asarray(points, np.float64) * SUB).astype(np.int32)], colour, cv2.LINE_AA, 4)


def box(img: Picture, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    shape(img, [(left, top), (right, top), (right, bottom), (left, bottom)], colour)


def line(img: Picture, start: tuple[float, float], end: tuple[float, float], colour: Colour, width: float) -> None:
    points = (_px(start[0]), _px(start[1])), (_px(end[0]), _px(end[1]))
    cv2.line(img, *points, colour, max(round(width), 1), cv2.LINE_AA, 4)


def sky(w: int, h: int, *colours: Colour) -> Picture:
    """A gradient from top to bottom through evenly spaced colours."""
    at = np.linspace(0, 1, h)
    stops = np.linspace(0, 1, len(colours))
    column = np.stack([np.interp(at, stops, [colour[i] for colour in colours]) for i in range(3)], axis=1)
    return np.ascontiguousarray(np.broadcast_to(column[:, None, :], (h, w, 3)).astype(np.uint8))


def halo(w: int, h: int, x: float, y: float, radius: float, colour: Colour) -> Picture:
    """Light on black, to be added to a picture."""
    rows, columns = np.mgrid[0:h, 0:w].astype(np.float32)
    fall = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / np.float32(radius) ** 2)
    light: Picture = (fall[..., None] * np.array(colour, np.float32)).astype(np.uint8)
    return light


def lit(img: Picture, light: Picture, strength: float) -> Picture:
    return np.asarray(cv2.addWeighted(img, 1.0, light, strength, 0.0), np.uint8)


def ridge(w: int, base: float, height: float, rng: np.random.Generator, peaks: int) -> npt.NDArray[np.float64]:
    """The upper edge of a mountain range: a height for each column."""
    at = np.linspace(0, 1, w)
    edge = np.interp(
        at, np.linspace(0, 1, 2 * peaks + 1), rng.uniform(0.05, 0.35, 2 * peaks + 1) + np.arange(2 * peaks + 1) % 2 * 0.6
    )
    edge += 0.03 * np.interp(at, np.linspace(0, 1, 40), rng.uniform(-1, 1, 40))
    return base - height * edge


def under(img: Picture, edge: npt.NDArray[Any], colour: Colour) -> None:
    h, w = img.shape[:2]
    columns = np.linspace(0, w, len(edge))
    shape(img, np.vstack([np.column_stack([columns, edge]), [(w, h + 2), (0, h + 2)]]), colour)


def person(img: Picture, x: float, y: float, size: float, t: float, look: dict[str, Colour], talking: bool = True) -> None:
    """Head and shoulders of somebody who talks to the camera; `y` is the middle of the face, `size` half its height."""
    sway = math.sin(t * 1.7) * size * 0.05
    oval(img, x, y + size * 2.6, size * 1.75, size * 1.5, look["shirt"])
    box(img, x - size * 0.3, y + size * 0.6, x + size * 0.3, y + size * 1.45, look["shade"])
    oval(img, x + sway, y - size * 0.18, size * 0.92, size * 1.08, look["hair"])
    oval(img, x + sway, y + size * 0.08, size * 0.76, size * 0.95, look["skin"])
    shape(
        img,
        [
            (x + sway + size * dx, y + size * dy)
            for dx, dy in ((-0.72, -0.25), (-0.5, -0.85), (0.4, -0.9), (0.72, -0.25), (0.1, -0.52))
        ],
        look["hair"],
    )
    open_eye = 0.04 if (t % 2.6) < 0.13 else 0.13
    for side in (-1, 1):
        oval(img, x + sway + side * size * 0.3, y - size * 0.05, size * 0.1, size * open_eye, (45, 32, 30))
        line(
            img,
            (x + sway + side * size * 0.42, y - size * 0.25),
            (x + sway + side * size * 0.18, y - size * 0.29),
            look["hair"],
            size * 0.07,
        )
    mouth = 0.05 + 0.11 * abs(math.sin(t * 9.0) * math.sin(t * 2.3)) if talking else 0.05
    oval(img, x + sway, y + size * 0.5, size * 0.24, size * mouth, (150, 62, 62))


def looks(rng: np.random.Generator) -> dict[str, Colour]:
    skin: Colour = [(246, 208, 178), (224, 172, 132), (176, 122, 86), (120, 80, 58)][int(rng.integers(4))]
    hair: Colour = [(52, 36, 30), (112, 70, 38), (196, 148, 80), (40, 40, 48)][int(rng.integers(4))]
    shade: Colour = (int(skin[0] * 0.86), int(skin[1] * 0.84), int(skin[2] * 0.82))
    return {"skin": skin, "shade": shade, "hair": hair, "shirt": hue(float(rng.uniform()), 0.45, 0.75)}


def handheld(img: Picture, t: float, amount: float, grain: Picture) -> Picture:
    """The same picture from a hand that shakes, with a phone's grain."""
    h, w = img.shape[:2]
    dx = amount * (math.sin(t * 5.1) + 0.6 * math.sin(t * 11.3 + 1))
    dy = amount * (math.cos(t * 4.3) + 0.7 * math.sin(t * 9.1))
    move = cv2.getRotationMatrix2D((w / 2, h / 2), 0.5 * math.sin(t * 3.1), 1.06)
    move[:, 2] += np.array((dx, dy))
    img = np.asarray(cv2.warpAffine(img, move, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.uint8)
    shift = int(t * 97) % grain.shape[0]
    return np.asarray(cv2.add(img, grain if shift == 0 else np.roll(grain, shift, axis=0)), np.uint8)


def grain(w: int, h: int, rng: np.random.Generator) -> Picture:
    return np.repeat(rng.integers(0, 13, (h, w, 1), dtype=np.uint8), 3, axis=2)


def stick(img: Picture, x: float, y: float, size: float, phase: float, colour: Colour, lean: float = 0.0) -> None:
    """A running figure, `y` at its hips; `phase` in turns of the legs."""
    width = size * 0.2
    swing = math.sin(phase * 2 * math.pi)
    chest = (x + size * (0.25 + lean), y - size * 1.0)
    line(img, (x, y), chest, colour, width * 1.3)
    for side in (1.0, -1.0):
        knee = (x + side * swing * size * 0.55 + size * 0.12, y + size * 0.5)
        foot = (knee[0] - size * (0.25 + 0.35 * max(-side * swing, 0)), y + size * (1.05 - 0.35 * max(-side * swing, 0)))
        line(img, (x, y), knee, colour, width)
        line(img, knee, foot, colour, width)
        elbow = (chest[0] - side * swing * size * 0.4, chest[1] + size * 0.45)
        line(img, chest, elbow, colour, width * 0.8)
        line(img, elbow, (elbow[0] + size * 0.32, elbow[1] - size * 0.15), colour, width * 0.8)
    disc(img, chest[0] + size * 0.1, chest[1] - size * 0.38, size * 0.27, colour)


def caption_overlay(text: str, w: int, h: int) -> tuple[slice, Picture, npt.NDArray[np.float32]]:
    """A caption for the lower part of a picture: which rows, its colours, and its opacity (0 to 1).

    White with a dark outline, in lines that fit the width, as creators set them.
    """
    size = max(int(min(w, h) * 0.088), 14)
    font = ImageFont.load_default(size)
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > w * 0.86:
            lines.append(word)
        else:
            lines[-1] = longer
    step = int(size * 1.25)
    layer = Image.new("RGBA", (w, step * len(lines) + size // 2), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    for index, line in enumerate(lines):
        pen.text(
            (w / 2, index * step + size // 4),
            line,
            (255, 255, 255, 255),
            font,
            "ma",
            stroke_width=max(size // 8, 2),
            stroke_fill=(16, 16, 20, 255),
        )
    pixels = np.asarray(layer)
    top = int(h * 0.77) - layer.height // 2
    opacity = pixels[..., 3:].astype(np.float32) / np.float32(255)
    return slice(top, top + layer.height), pixels[..., :3].astype(np.uint8), opacity

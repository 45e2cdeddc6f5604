"""Plain scenes, which carry none of the planted attributes."""

from __future__ import annotations

import math

import numpy as np

from features.videos.sample import drawing as pen
from features.videos.sample.drawing import Painter, Picture


def product(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, hue = min(w, h) / 320, float(rng.uniform())
    studio = pen.lit(
        pen.sky(w, h, (216, 218, 222), (240, 240, 242), (200, 202, 206)),
        pen.halo(w, h, w / 2, h / 2, 150 * u, (22, 22, 22)),
        1.0,
    )

    def paint(t: float) -> Picture:
        img = studio.copy()
        cx, cy, half, tall = w / 2, h * 0.52, 74 * u, 92 * u
        pen.oval(img, cx, cy + tall + 12 * u, 118 * u, 18 * u, (176, 178, 184))
        corners = [
            (cx + half * 1.2 * math.cos(t * 0.8 + k * math.pi / 2), 22 * u * math.sin(t * 0.8 + k * math.pi / 2)) for k in range(4)
        ]
        for k in sorted(range(4), key=lambda k: corners[k][1] + corners[(k + 1) % 4][1]):
            (x0, d0), (x1, d1) = corners[k], corners[(k + 1) % 4]
            light = 0.5 + 0.4 * (x1 - x0) / (half * 1.8)
            pen.shape(
                img,
                [(x0, cy - tall + d0), (x1, cy - tall + d1), (x1, cy + tall + d1), (x0, cy + tall + d0)],
                pen.hue(hue, 0.5, max(0.35, min(abs(light) + 0.1, 0.95))),
            )
        pen.shape(img, [(x, cy - tall + d) for x, d in corners], pen.hue(hue, 0.3, 0.95))
        return img

    return paint


def how_to(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, accent = min(w, h) / 320, pen.hue(float(rng.uniform()), 0.6, 0.75)
    rows = rng.uniform(0.4, 0.95, 5)

    def paint(t: float) -> Picture:
        done = min(t / max(seconds, 1.0), 1.0)
        img = np.full((h, w, 3), (246, 247, 249), np.uint8)
        pen.box(img, 0, 0, w, 34 * u, accent)
        for k in range(3):
            pen.disc(img, (18 + 17 * k) * u, 17 * u, 5 * u, (255, 255, 255))
        for k, wide in enumerate(rows):
            y = h * 0.2 + k * h * 0.12
            shown = max(0.0, min(1.0, done * 6 - k))
            pen.disc(img, w * 0.1, y, 9 * u, accent if shown >= 1 else (206, 210, 216))
            pen.box(img, w * 0.17, y - 5 * u, w * (0.17 + 0.72 * wide * shown), y + 5 * u, (148, 154, 164))
        pen.box(img, w * 0.1, h * 0.86, w * 0.9, h * 0.86 + 9 * u, (220, 223, 228))
        pen.box(img, w * 0.1, h * 0.86, w * (0.1 + 0.8 * done), h * 0.86 + 9 * u, accent)
        x, y = w * (0.35 + 0.3 * math.sin(t * 0.9)), h * (0.45 + 0.2 * math.cos(t * 0.7))
        pen.shape(img, [(x, y), (x, y + 22 * u), (x + 6 * u, y + 17 * u), (x + 15 * u, y + 17 * u)], (30, 32, 38))
        return img

    return paint


def traffic(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, cars = min(w, h) / 320, rng.uniform(0, 1, (9, 3))

    def paint(t: float) -> Picture:
        img = np.full((h, w, 3), (124, 150, 112), np.uint8)
        pen.box(img, 0, h * 0.28, w, h * 0.78, (96, 98, 104))
        for k in range(12):
            for lane in (0.405, 0.655):
                pen.box(img, k * w / 11, h * lane, k * w / 11 + 16 * u, h * lane + 3 * u, (228, 228, 222))
        pen.box(img, 0, h * 0.525, w, h * 0.535, (236, 196, 84))
        for k, (at, hue, speed) in enumerate(cars):
            lane = k % 4
            way = 1 if lane > 1 else -1
            x = ((at + way * t * (0.11 + 0.03 * (lane % 2)) + k * 0.11) % 1.3 - 0.15) * w
            y = h * (0.342 + 0.125 * lane)
            pen.box(img, x - 24 * u, y - 12 * u, x + 24 * u, y + 12 * u, pen.hue(hue, 0.45, 0.4 + 0.5 * speed))
            pen.box(img, x - 9 * u, y - 10 * u, x + 13 * u, y + 10 * u, (60, 70, 84))
        return img

    return paint

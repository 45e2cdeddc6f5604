"""Lively scenes: energetic ones and funny ones."""

from __future__ import annotations

import math

import cv2
import numpy as np

from features.videos.sample import drawing as pen
from features.videos.sample.drawing import Colour, Painter, Picture


def flashes(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    base, sides, beat = float(rng.uniform()), int(rng.integers(3, 7)), 140 / 60
    reach = math.hypot(w, h) / 2

    def paint(t: float) -> Picture:
        step = int(t * beat)  # below three changes of the whole picture a second, as WCAG 2.3.1 asks
        img = np.full((h, w, 3), pen.hue(base + step * 0.21, 0.85, 1.0), np.uint8)
        pulse = 1 - (t * beat * 2) % 1
        for ring in range(5, 0, -1):
            radius = reach * (ring / 5) * (0.75 + 0.3 * pulse)
            turn = t * 1.8 * (1 if ring % 2 else -1)
            points = [
                (
                    w / 2 + radius * math.cos(turn + k * 2 * math.pi / sides),
                    h / 2 + radius * math.sin(turn + k * 2 * math.pi / sides),
                )
                for k in range(sides)
            ]
            pen.shape(
                img, points, (255, 255, 255) if (ring + step) % 3 == 0 else pen.hue(base + step * 0.21 + ring * 0.13, 0.9, 1.0)
            )
        return img

    return paint


def tunnel(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    base, reach, rays = float(rng.uniform()), math.hypot(w, h) / 2, rng.uniform(0, 1, (60, 3))

    def paint(t: float) -> Picture:
        img = np.full((h, w, 3), pen.hue(base, 0.7, 0.12), np.uint8)
        cx, cy = w / 2 + 18 * math.sin(t * 3), h / 2 + 18 * math.cos(t * 2.6)
        for ring in range(9, 0, -1):
            near = ((ring + t * 5) % 9) / 9
            radius = 8 + reach * near**2 * 1.2
            points = [(cx + radius * math.cos(t + k * math.pi / 3), cy + radius * math.sin(t + k * math.pi / 3)) for k in range(6)]
            cv2.polylines(
                img,
                [np.array(points, np.int32)],
                True,
                pen.hue(base + near * 0.6 + t * 0.2, 0.85, 0.3 + 0.7 * near),
                int(2 + 16 * near),
                cv2.LINE_AA,
            )
        for angle, phase, size in rays:
            near = (phase + t * (0.8 + size)) % 1
            inner, outer = reach * near**2, reach * min(near + 0.13, 1.2) ** 2
            way = math.cos(angle * 6.283), math.sin(angle * 6.283)
            pen.line(
                img,
                (cx + inner * way[0], cy + inner * way[1]),
                (cx + outer * way[0], cy + outer * way[1]),
                (255, 255, 255),
                1 + 2 * near,
            )
        return img

    return paint


def dance(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, base, beat = min(w, h) / 320, float(rng.uniform()), 132 / 60
    bars = rng.uniform(0.3, 1.0, (14, 2))

    def paint(t: float) -> Picture:
        img = pen.sky(w, h, pen.hue(base + 0.6, 0.8, 0.16), pen.hue(base + 0.75, 0.85, 0.42))
        hit = 1 - (t * beat) % 1
        for k in range(4):
            beams = np.zeros((h // 2, w // 2, 3), np.uint8)
            swing = math.sin(t * 2.7 + k * 1.6) * 0.5 * w
            top = w * (k + 0.5) / 4
            pen.shape(
                beams,
                np.array([(top, -5), (top + swing - 40 * u, h), (top + swing + 40 * u, h)]) / 2,
                pen.hue(base + 0.25 * k + 0.1 * int(t * beat), 0.75, 0.85),
            )
            img = pen.lit(img, np.asarray(cv2.resize(beams, (w, h)), np.uint8), 0.5)
        for k, (tall, phase) in enumerate(bars):
            level = h * 0.34 * tall * (0.35 + 0.65 * abs(math.sin(t * beat * math.pi + phase * 6)))
            left = w * k / 14
            pen.box(img, left + 2 * u, h - level, left + w / 14 - 2 * u, h, pen.hue(base + k / 20, 0.75, 1.0))
        for dx, off in ((-0.27, 0.3), (0.0, 0.0), (0.27, 0.6)):
            jump = 26 * u * abs(math.sin((t * beat + off) * math.pi))
            x, y, arm = w * (0.5 + dx), h * 0.62 - jump, math.sin((t * beat + off) * math.pi * 2)
            ink: Colour = (12, 8, 24)
            pen.line(img, (x, y), (x, y - 62 * u), ink, 22 * u)
            pen.disc(img, x, y - 92 * u, 19 * u, ink)
            for side in (-1, 1):
                pen.line(img, (x, y - 56 * u), (x + side * 42 * u, y - (78 + 34 * arm * side) * u), ink, 10 * u)
                pen.line(img, (x, y - 4 * u), (x + side * 24 * u, y + 62 * u + jump * 0.4), ink, 13 * u)
        return np.asarray(cv2.convertScaleAbs(img, alpha=1.0, beta=60 * hit**3), np.uint8)

    return paint


def bouncing_face(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, hue = min(w, h) / 320, float(rng.uniform())
    back, ball, other = (
        pen.hue(hue, 0.35, 1.0),
        pen.hue(float(rng.choice([0.14, 0.33, 0.9])), 0.75, 1.0),
        pen.hue(hue + 0.06, 0.5, 0.92),
    )
    floor = h * 0.86

    def paint(t: float) -> Picture:
        img = np.full((h, w, 3), back, np.uint8)
        for k in range(-1, 7):
            pen.disc(img, (k + (t * 0.3) % 1) * w / 5, h * 0.2 + (k % 2) * h * 0.3, 18 * u, other)
        pen.box(img, 0, floor, w, h, pen.hue(hue + 0.45, 0.5, 0.75))
        up = abs(math.sin(t * 3.2))
        squash = 1 - 0.35 * max(0.0, 0.22 - up) / 0.22
        r = 62 * u
        x, y = w / 2 + w * 0.24 * math.sin(t * 1.1), floor - r * squash - up * h * 0.36
        pen.oval(img, x, floor + 5 * u, r * (1 - 0.5 * up), 8 * u, pen.hue(hue + 0.45, 0.6, 0.55))
        pen.oval(img, x, y, r / squash, r * squash, ball)
        for side in (-1, 1):
            pen.disc(img, x + side * 23 * u, y - 15 * u, 19 * u, (255, 255, 255))
            pen.disc(
                img,
                x + side * 23 * u + 8 * u * math.sin(t * 7),
                y - 15 * u + 7 * u * math.cos(t * 5 + side),
                8 * u,
                (20, 20, 30),
            )
        pen.oval(img, x, y + 26 * u, 28 * u, (6 + 15 * (1 - up)) * u, (92, 22, 30))
        pen.oval(img, x + 4 * u, y + (34 + 8 * (1 - up)) * u, 12 * u, (4 + 15 * (1 - up)) * u, (244, 106, 124))
        return img

    return paint


def cat_laser(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    fur: Colour = [(238, 152, 66), (132, 132, 146), (58, 54, 62)][int(rng.integers(3))]
    dark: Colour = (int(fur[0] * 0.75), int(fur[1] * 0.75), int(fur[2] * 0.75))
    wall = pen.hue(float(rng.uniform()), 0.25, 0.95)
    paths = rng.uniform(0.8, 2.4, 3)

    def paint(t: float) -> Picture:
        img = np.full((h, w, 3), wall, np.uint8)
        pen.box(img, 0, h * 0.7, w, h, (206, 172, 132))
        for k in range(5):
            pen.line(img, (0, h * (0.7 + 0.075 * k)), (w, h * (0.7 + 0.075 * k)), (190, 154, 116), 2 * u)
        dx, dy = w * (0.5 + 0.4 * math.sin(t * paths[0] * 1.6)), h * (0.82 + 0.1 * math.sin(t * paths[1] * 2.2))
        x, y = w / 2 + (dx - w / 2) * 0.4, h * 0.66 - 22 * u * abs(math.sin(t * 4))
        tail = [(x + (66 + 20 * k / 8) * u + 18 * u * math.sin(t * 6 + k * 0.5), y + 30 * u - k * 14 * u) for k in range(9)]
        cv2.polylines(img, [np.array(tail, np.int32)], False, dark, max(int(15 * u), 1), cv2.LINE_AA)
        pen.oval(img, x + 22 * u, y + 32 * u, 68 * u, 48 * u, fur)
        for leg in (-22, 18, 46, 66):
            pen.line(img, (x + leg * u, y + 52 * u), (x + (leg + 8 * math.sin(t * 12 + leg)) * u, h * 0.84), dark, 15 * u)
        hx, hy = x - 30 * u, y - 32 * u
        for side in (-1, 1):
            pen.shape(
                img,
                [(hx + side * 50 * u, hy - 64 * u), (hx + side * 8 * u, hy - 40 * u), (hx + side * 48 * u, hy - 8 * u)],
                dark,
            )
        pen.oval(img, hx, hy, 54 * u, 46 * u, fur)
        toward = math.atan2(dy - hy, dx - hx)
        for side in (-1, 1):
            pen.disc(img, hx + side * 21 * u, hy - 7 * u, 15 * u, (246, 250, 214))
            pen.disc(img, hx + side * 21 * u + 7 * u * math.cos(toward), hy - 7 * u + 7 * u * math.sin(toward), 8 * u, (20, 20, 24))
            for k in (-1, 0, 1):
                pen.line(
                    img,
                    (hx + side * 16 * u, hy + 16 * u),
                    (hx + side * 62 * u, hy + (16 + 9 * k) * u),
                    (250, 250, 250),
                    1.4 * u,
                )
        pen.shape(img, [(hx - 6 * u, hy + 10 * u), (hx + 6 * u, hy + 10 * u), (hx, hy + 18 * u)], (236, 120, 130))
        pen.disc(img, dx, dy, 10 * u, (255, 120, 120))
        pen.disc(img, dx, dy, 5 * u, (255, 20, 30))
        return img

    return paint


def banana(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, hue, size = min(w, h) / 320, float(rng.uniform()), 62 * min(w, h) / 320
    floor, slip = h * 0.82, 0.42 * seconds

    def paint(t: float) -> Picture:
        img = pen.sky(w, h, pen.hue(hue, 0.3, 1.0), pen.hue(hue + 0.05, 0.16, 1.0))
        for k in range(4):
            left = (k * 0.33 - 0.12 * t) % 1.32 * w - 0.32 * w
            pen.box(img, left, h * 0.45, left + w * 0.22, floor, pen.hue(hue + 0.5, 0.2, 0.9))
            for j in range(6):
                pen.box(
                    img,
                    left + (0.03 + 0.1 * (j % 2)) * w,
                    h * (0.49 + 0.1 * (j // 2)),
                    left + (0.08 + 0.1 * (j % 2)) * w,
                    h * (0.53 + 0.1 * (j // 2)),
                    (255, 248, 210),
                )
        pen.box(img, 0, floor, w, h, (150, 146, 152))
        px = w * 0.55
        pen.arc(img, px, floor - 14 * u, 16 * u, 20, 160, (250, 216, 60), int(7 * u))
        ink: Colour = (38, 40, 66)
        if t < slip:
            x = w * 0.05 + (px - w * 0.05) * t / slip
            pen.stick(img, x, floor - size * 1.05, size, t * 1.8, ink, -0.2)
        else:
            fly = min((t - slip) / 0.8, 1.0)
            x, y = px + w * 0.14 * fly, floor - 26 * u - size * 2.4 * math.sin(math.pi * fly) * (1 - 0.2 * fly)
            turn = math.radians(90 - 450 * fly)
            way = math.cos(turn), -math.sin(turn)
            pen.line(img, (x - way[0] * size, y - way[1] * size), (x + way[0] * size * 0.6, y + way[1] * size * 0.6), ink, 17 * u)
            for side in (-0.6, 0.6):
                pen.line(img, (x, y), (x + math.cos(turn + side * 3) * size, y - math.sin(turn + side * 3) * size), ink, 10 * u)
            pen.disc(img, x + way[0] * size, y + way[1] * size, 19 * u, ink)
            if fly >= 1:
                for k in range(4):
                    spin = t * 5 + k * math.pi / 2
                    sx, sy = px + w * 0.1 + 40 * u * math.cos(spin), floor - 70 * u + 13 * u * math.sin(spin)
                    pen.shape(
                        img,
                        [
                            (
                                sx + (9 if j % 2 else 4) * u * math.cos(j * math.pi / 5),
                                sy + (9 if j % 2 else 4) * u * math.sin(j * math.pi / 5),
                            )
                            for j in range(10)
                        ],
                        (255, 206, 40),
                    )
        return img

    return paint

"""Scenes about people and what they reach: authentic ones and inspiring ones."""

from __future__ import annotations

import math

import cv2
import numpy as np

from features.videos.sample import drawing as pen
from features.videos.sample.drawing import Painter, Picture


def bedroom_vlog(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, look, grain = min(w, h) / 320, pen.looks(rng), pen.grain(w, h, rng)
    room = pen.sky(w, h, pen.hue(float(rng.uniform()), 0.14, 0.72), pen.hue(float(rng.uniform()), 0.12, 0.6))
    pen.box(room, w * 0.08, h * 0.16, w * 0.36, h * 0.17 + 5 * u, (128, 98, 74))
    for k in range(5):
        pen.box(
            room,
            w * (0.1 + 0.045 * k),
            h * 0.16 - (34 + 8 * (k % 3)) * u,
            w * (0.135 + 0.045 * k),
            h * 0.16,
            pen.hue(float(rng.uniform()), 0.4, 0.6),
        )
    pen.box(room, w * 0.7, h * 0.1, w * 0.92, h * 0.34, (226, 220, 206))
    pen.box(room, w * 0.72, h * 0.115, w * 0.9, h * 0.325, pen.hue(float(rng.uniform()), 0.3, 0.7))
    pen.box(room, w * 0.8, h * 0.62, w * 0.94, h, (168, 110, 78))
    for k in range(7):
        pen.oval(room, w * 0.87 + (k - 3) * 10 * u, h * 0.57, 7 * u, 34 * u, (74, 118, 76), (k - 3) * 16)
    pen.box(room, 0, h * 0.84, w, h, (122, 112, 128))

    def paint(t: float) -> Picture:
        img = room.copy()
        pen.person(img, w * 0.48, h * 0.5, 66 * u, t, look)
        return pen.handheld(img, t, 2.4 * u, grain)

    return paint


def street_selfie(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, look, grain = min(w, h) / 320, pen.looks(rng), pen.grain(w, h, rng)
    houses = rng.uniform(0.3, 1.0, (12, 3))

    def paint(t: float) -> Picture:
        img = pen.sky(w, h, (176, 192, 206), (210, 212, 208))
        for k, (tall, hue, _) in enumerate(houses):
            left = ((k / 12 * 2.4 + 0.09 * t) % 2.4 - 0.4) * w
            top = h * (0.62 - 0.42 * tall)
            pen.box(img, left, top, left + 0.21 * w, h * 0.74, pen.hue(hue, 0.14, 0.62))
            for j in range(8):
                pen.box(
                    img,
                    left + (0.03 + 0.09 * (j % 2)) * w,
                    top + (14 + 32 * (j // 2)) * u,
                    left + (0.08 + 0.09 * (j % 2)) * w,
                    top + (32 + 32 * (j // 2)) * u,
                    (98, 106, 118),
                )
        pen.box(img, 0, h * 0.74, w, h, (142, 142, 144))
        step = 5 * u * abs(math.sin(t * 5.4))
        pen.line(img, (w * 0.92, h), (w * 0.66, h * 0.74 - step), look["shirt"], 38 * u)
        pen.person(img, w * 0.44, h * 0.46 - step, 72 * u, t, look)
        return pen.handheld(img, t, 4.5 * u, grain)

    return paint


def kitchen_table(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, look, grain = min(w, h) / 320, pen.looks(rng), pen.grain(w, h, rng)
    table = np.full((h, w, 3), (176, 142, 108), np.uint8)
    for k in range(9):
        pen.line(table, (0, h * k / 8), (w, h * k / 8 + 4 * u), (164, 130, 96), 2 * u)
    pen.box(table, w * 0.5 - 100 * u, h * 0.5 - 70 * u, w * 0.5 + 100 * u, h * 0.5 + 80 * u, (222, 192, 150))
    pen.disc(table, w * 0.2, h * 0.2, 44 * u, (232, 232, 230))
    pen.disc(table, w * 0.2, h * 0.2, 36 * u, pen.hue(float(rng.choice([0.0, 0.12, 0.33])), 0.6, 0.75))
    veg = pen.hue(float(rng.choice([0.06, 0.3, 0.02])), 0.75, 0.85)

    def paint(t: float) -> Picture:
        img = table.copy()
        done = min(t / max(seconds, 1.0), 1.0)
        x0, y0 = w * 0.5 - 82 * u, h * 0.5 + 5 * u
        cut = x0 + 150 * u * done
        for k in range(int(12 * done)):
            pen.oval(img, x0 + 12.5 * u * k, y0 + (k % 3 - 1) * 5 * u, 4.5 * u, 18 * u, veg, 8 * (k % 3))
        pen.oval(img, (cut + x0 + 176 * u) / 2, y0, (x0 + 176 * u - cut) / 2, 19 * u, veg)
        chop = 13 * u * abs(math.sin(t * 8))
        pen.shape(
            img,
            [
                (cut - 4 * u, y0 - 50 * u - chop),
                (cut + 7 * u, y0 - 50 * u - chop),
                (cut + 5 * u, y0 + 28 * u - chop),
                (cut, y0 + 30 * u - chop),
            ],
            (206, 210, 216),
        )
        pen.line(img, (w * 0.18, h + 30 * u), (cut - 20 * u, y0 - 42 * u - chop), look["shirt"], 44 * u)
        pen.line(img, (cut - 26 * u, y0 - 40 * u - chop), (cut, y0 - 54 * u - chop), look["skin"], 30 * u)
        pen.disc(img, cut + 2 * u, y0 - 54 * u - chop, 20 * u, look["skin"])
        pen.line(img, (w * 0.92, h + 30 * u), (cut + 66 * u, y0 + 40 * u), look["shirt"], 42 * u)
        pen.line(img, (cut + 72 * u, y0 + 44 * u), (cut + 46 * u, y0 + 14 * u), look["skin"], 30 * u)
        return pen.handheld(img, t, 3 * u, grain)

    return paint


def sunrise_climb(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    night, day = (
        pen.sky(w, h, (30, 34, 84), (112, 70, 116), (214, 116, 96)),
        pen.sky(w, h, (92, 158, 222), (250, 204, 144), (255, 232, 176)),
    )
    far, mid = pen.ridge(w, h * 0.82, h * 0.3, rng, 4), pen.ridge(w, h * 0.95, h * 0.3, rng, 3)
    top = (w * 0.64, h * 0.44)
    path = np.array(
        [(w * 0.1, h * 0.97), (w * 0.44, h * 0.86), (w * 0.3, h * 0.74), (w * 0.58, h * 0.64), (w * 0.5, h * 0.54), top]
    )
    glow = pen.halo(w, h, w * 0.34, h * 0.5, 170 * u, (255, 176, 84))

    def paint(t: float) -> Picture:
        done = min(t / max(seconds, 1.0), 1.0)
        img = np.asarray(cv2.addWeighted(night, 1 - done, day, done, 0), np.uint8)
        img = pen.lit(img, glow, 0.2 + 0.6 * done)
        pen.disc(img, w * 0.34, h * (0.66 - 0.34 * done), 34 * u, (255, 240, 186))
        pen.under(img, far, (int(84 + 64 * done), int(80 + 60 * done), int(128 + 26 * done)))
        pen.under(img, mid, (int(56 + 44 * done), int(62 + 62 * done), int(96 + 22 * done)))
        pen.shape(
            img,
            [(w * -0.05, h * 1.02), (top[0] - 34 * u, h * 0.62), top, (w * 0.82, h * 0.66), (w * 1.1, h * 1.02)],
            (int(36 + 26 * done), int(46 + 46 * done), int(66 + 8 * done)),
        )
        cv2.polylines(img, [np.round(path * pen.SUB).astype(np.int32)], False, (236, 214, 170), max(int(3 * u), 1), cv2.LINE_AA, 4)
        pen.line(img, top, (top[0], top[1] - 40 * u), (240, 240, 240), 3 * u)
        pen.shape(
            img,
            [(top[0], top[1] - 40 * u), (top[0] + 28 * u, top[1] - (31 + 3 * math.sin(t * 6)) * u), (top[0], top[1] - 22 * u)],
            (226, 62, 58),
        )
        leg = done * 0.999 * (len(path) - 1)
        start, end = path[int(leg)], path[int(leg) + 1]
        x, y = start + (end - start) * (leg % 1)
        pen.line(img, (x, y - 2 * u), (x, y - 17 * u), (250, 90, 60), 7 * u)
        pen.disc(img, x, y - 22 * u, 5 * u, (250, 220, 190))
        return img

    return paint


def finish_line(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, shirt = min(w, h) / 320, pen.hue(float(rng.uniform()), 0.7, 0.9)
    size, ground = 74 * u, h * 0.8
    confetti = rng.uniform(0, 1, (90, 4))
    crowd = rng.uniform(0, 1, (40, 2))

    def paint(t: float) -> Picture:
        done = min(t / max(seconds, 1.0), 1.0)
        img = pen.sky(w, h, (116, 184, 236), (214, 236, 250), (255, 240, 206))
        for k, (tall, hue) in enumerate(crowd):
            cheer = 8 * u * abs(math.sin(t * 5 + k))
            x = ((k / 40 - 0.08 * t) % 1) * w
            pen.oval(img, x, ground - 44 * u - cheer * tall, 13 * u, 22 * u, pen.hue(hue, 0.4, 0.78))
            pen.disc(img, x, ground - 76 * u - cheer * tall, 9 * u, (222, 176, 140))
        pen.box(img, 0, ground - 36 * u, w, ground - 28 * u, (240, 240, 240))
        pen.box(img, 0, ground - 28 * u, w, h, (196, 88, 66))
        for k in range(3):
            pen.line(img, (0, ground + (4 + 26 * k) * u), (w, ground + (4 + 26 * k) * u), (250, 238, 230), 2 * u)
        line = w * (1.5 - 1.1 * min(done / 0.62, 1.0))
        for k in range(2):
            pen.box(img, line + (k * 106 - 3) * u, ground - 190 * u, line + (k * 106 + 3) * u, ground + 6 * u, (70, 74, 92))
        for k in range(8):
            for row in range(2):
                pen.box(
                    img,
                    line + 13.2 * k * u,
                    ground - (190 - 14 * row) * u,
                    line + 13.2 * (k + 1) * u,
                    ground - (176 - 14 * row) * u,
                    (245, 245, 245) if (k + row) % 2 else (28, 28, 34),
                )
        lift = 12 * u * abs(math.sin(t * 7))
        if done < 0.66:
            pen.stick(img, w * 0.36, ground - size - lift, size, t * 2.1, shirt, 0.05)
        else:
            x, y = w * 0.5, ground - size - lift
            pen.line(img, (x, y), (x, y - size), shirt, 20 * u)
            pen.disc(img, x, y - size * 1.4, 20 * u, (222, 176, 140))
            for side in (-1, 1):
                pen.line(img, (x, y - size * 0.9), (x + side * size * 0.75, y - size * 1.65), shirt, 12 * u)
                pen.line(img, (x, y), (x + side * size * 0.32, y + size), (48, 50, 76), 14 * u)
            for cx, phase, hue, speed in confetti:
                fall = (phase + (t - 0.66 * seconds) * (0.25 + 0.4 * speed)) % 1
                px, py = cx * w + 10 * u * math.sin(fall * 9 + phase * 7), fall * h * 0.9
                pen.shape(
                    img,
                    [(px, py), (px + 7 * u, py + 2 * u), (px + 5 * u, py + 8 * u), (px - 2 * u, py + 6 * u)],
                    pen.hue(hue, 0.75, 1.0),
                )
        return img

    return paint


def seedling(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u, soil, flower = min(w, h) / 320, h * 0.8, pen.hue(float(rng.choice([0.95, 0.13, 0.78])), 0.55, 1.0)
    dawn, day = pen.sky(w, h, (96, 110, 164), (216, 170, 170)), pen.sky(w, h, (150, 208, 236), (250, 246, 216))
    stones = rng.uniform(0, 1, (26, 3))

    def paint(t: float) -> Picture:
        done = min(t / max(seconds, 1.0), 1.0)
        bright = 0.5 + 0.5 * math.sin(t * 2.2 - 1.2)
        img = np.asarray(cv2.addWeighted(dawn, 1 - bright, day, bright, 0), np.uint8)
        arc = math.pi * ((t * 0.35) % 1)
        pen.disc(img, w * (0.5 - 0.42 * math.cos(arc)), h * (0.5 - 0.32 * math.sin(arc)), 24 * u, (255, 244, 196))
        pen.box(img, 0, soil, w, h, (96, 66, 50))
        for x, y, size in stones:
            pen.oval(img, x * w, soil + (0.1 + 0.85 * y) * (h - soil), (2 + 5 * size) * u, (1.5 + 3 * size) * u, (120, 90, 70))
        tall = h * 0.46 * done**0.8
        curve = [(w / 2 + 12 * u * math.sin(k / 5 + t * 0.9) * k / 12, soil - tall * k / 12) for k in range(13)]
        cv2.polylines(
            img,
            [np.round(np.array(curve) * pen.SUB).astype(np.int32)],
            False,
            (76, 146, 70),
            max(int(7 * u), 1),
            cv2.LINE_AA,
            4,
        )
        for k in range(2, 11, 2):
            grown = max(0.0, min(1.0, (done - k / 14) * 3))
            side = 1 if k % 4 else -1
            if grown:
                pen.oval(
                    img,
                    curve[k][0] + side * 26 * u * grown,
                    curve[k][1] - 8 * u * grown,
                    28 * u * grown,
                    10 * u * grown,
                    (104, 178, 84),
                    -side * 22,
                )
        bloom = max(0.0, (done - 0.66) * 3)
        if bloom:
            x, y = curve[12]
            for k in range(8):
                turn = k * math.pi / 4 + t * 0.2
                pen.oval(
                    img,
                    x + 21 * u * bloom * math.cos(turn),
                    y + 21 * u * bloom * math.sin(turn),
                    15 * u * bloom,
                    9 * u * bloom,
                    flower,
                    math.degrees(turn),
                )
            pen.disc(img, x, y, 12 * u * bloom, (250, 200, 70))
        return img

    return paint

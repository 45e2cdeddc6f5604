"""Quiet scenes: cozy ones and calming ones."""

from __future__ import annotations

import math

import cv2
import numpy as np

from features.videos.sample import drawing as pen
from features.videos.sample.drawing import Colour, Painter, Picture


def fireplace(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    wall = pen.sky(w, h, (66, 34, 28), (48, 24, 22))
    for row in range(0, h, int(26 * u)):
        for column in range(-1, w // int(52 * u) + 2):
            left = column * 52 * u + (row // int(26 * u)) % 2 * 26 * u
            shade = int(rng.integers(-6, 7))
            pen.box(wall, left + 1, row + 1, left + 50 * u, row + 24 * u, (74 + shade, 40 + shade, 33 + shade))
    cx, floor = w / 2, h * 0.8
    half, high = 118 * u, 190 * u
    pen.box(wall, cx - half - 16 * u, floor - high - 22 * u, cx + half + 16 * u, floor - high, (128, 84, 58))
    pen.box(wall, cx - half, floor - high, cx + half, floor, (20, 9, 8))
    pen.box(wall, 0, floor, w, h, (92, 58, 42))
    halo = pen.halo(w, h, cx, floor - 60 * u, 190 * u, (230, 110, 40))
    flames = [(rng.uniform(-0.62, 0.62), rng.uniform(0.5, 1.0), rng.uniform(0, 6), rng.uniform(2, 4)) for _ in range(15)]
    sparks = rng.uniform(0, 1, (14, 3))

    def paint(t: float) -> Picture:
        img = wall.copy()
        fire = np.zeros((h // 2, w // 2, 3), np.uint8)
        for colour, grow in (((190, 52, 12), 1.0), ((250, 128, 26), 0.72), ((255, 216, 96), 0.4)):
            for at, tall, phase, speed in flames:
                height = grow * 125 * u * tall * (0.75 + 0.25 * math.sin(t * speed * 2 + phase)) * (1 - 0.7 * abs(at))
                x, tip = cx + at * half * 0.85, at * 8 * u + 10 * u * math.sin(t * speed + phase)
                wide = 24 * u * (0.4 + 0.6 * grow)
                side = [(x - wide, floor - 8 * u), (x - wide * 0.7, floor - height * 0.4), (x + tip, floor - 8 * u - height)]
                side += [(x + wide * 0.7, floor - height * 0.4), (x + wide, floor - 8 * u)]
                pen.shape(fire, np.array(side) / 2, colour)
        soft = cv2.resize(cv2.GaussianBlur(fire, (0, 0), 3 * u), (w, h))
        img = np.asarray(cv2.max(img, soft), np.uint8)
        for lean in (-1, 1):
            pen.line(img, (cx - lean * 84 * u, floor - 8 * u), (cx + lean * 70 * u, floor - 26 * u), (58, 30, 20), 20 * u)
        for at, phase, size in sparks:
            up = (t * (0.25 + 0.2 * size) + phase) % 1
            pen.disc(
                img,
                cx + (at - 0.5) * half * 1.4 + 10 * u * math.sin(6 * up + at * 9),
                floor - 30 * u - up * high * 0.8,
                1.3 * u * (1.2 - up),
                (255, 190, 90),
            )
        return pen.lit(img, halo, 0.5 + 0.09 * math.sin(t * 5.3) + 0.06 * math.sin(t * 8.9))

    return paint


def rain_window(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    town = pen.sky(w, h, (18, 24, 44), (34, 40, 66), (58, 46, 56))
    for _ in range(38):
        warm = pen.hue(float(rng.choice([0.09, 0.12, 0.06, 0.55])), float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.35, 0.8)))
        layer = town.copy()
        pen.disc(layer, float(rng.uniform(0, w)), float(rng.uniform(h * 0.35, h * 0.85)), float(rng.uniform(8, 24)) * u, warm)
        town = np.asarray(cv2.addWeighted(town, 0.5, layer, 0.5, 0), np.uint8)
    town = np.asarray(cv2.GaussianBlur(town, (0, 0), 5 * u), np.uint8)
    still = rng.uniform(0, 1, (120, 3))
    for x, y, size in still:
        pen.disc(town, x * w, y * h, (0.8 + 2.2 * size) * u, (120, 132, 158))
        pen.disc(town, x * w - 0.5 * u, y * h - 0.7 * u, (0.4 + 0.9 * size) * u, (205, 212, 228))
    running = rng.uniform(0, 1, (22, 3))
    frame: Colour = (64, 42, 32)
    sill = pen.halo(w, h, w * 0.2, h * 0.96, 150 * u, (220, 130, 50))

    def paint(t: float) -> Picture:
        img = town.copy()
        for x, phase, speed in running:
            y = ((t * (0.07 + 0.16 * speed) + phase) % 1.15) * h
            wander = 3 * u * math.sin(y / (17 * u) + phase * 20)
            pen.line(img, (x * w + wander, y - 46 * u), (x * w + wander, y), (96, 110, 140), 1.6 * u)
            pen.oval(img, x * w + wander, y, 3 * u, 4.4 * u, (190, 202, 224))
        pen.box(img, 0, 0, w, 14 * u, frame)
        pen.box(img, 0, 0, 14 * u, h, frame)
        pen.box(img, w - 14 * u, 0, w, h, frame)
        pen.box(img, w / 2 - 5 * u, 0, w / 2 + 5 * u, h, frame)
        pen.box(img, 0, h * 0.42 - 5 * u, w, h * 0.42 + 5 * u, frame)
        pen.box(img, 0, h * 0.9, w, h, (92, 62, 44))
        pen.box(img, w * 0.2 - 17 * u, h * 0.9 - 26 * u, w * 0.2 + 17 * u, h * 0.9 + 8 * u, (196, 92, 70))
        pen.arc(img, w * 0.2 + 18 * u, h * 0.9 - 9 * u, 9 * u, -90, 90, (196, 92, 70), int(4 * u))
        return pen.lit(img, sill, 0.55 + 0.05 * math.sin(t * 4))

    return paint


def candle(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    room = pen.sky(w, h, (34, 20, 26), (62, 34, 32), (44, 26, 24))
    table = h * 0.76
    pen.box(room, 0, table, w, h, (86, 52, 36))
    pen.box(room, 0, table, w, table + 5 * u, (112, 70, 46))
    spots = [(-70.0, 92.0), (-18.0, 130.0)] if rng.uniform() < 0.5 else [(-58.0, 118.0)]
    for dx, tall in spots:
        pen.box(room, w / 2 + (dx - 17) * u, table - tall * u, w / 2 + (dx + 17) * u, table + 12 * u, (238, 222, 196))
        pen.oval(room, w / 2 + dx * u, table - tall * u, 17 * u, 5 * u, (252, 238, 212))
        pen.line(room, (w / 2 + dx * u, table - tall * u), (w / 2 + dx * u, table - (tall + 9) * u), (50, 40, 36), 2 * u)
    mug = pen.hue(float(rng.uniform()), 0.4, 0.7)
    mx = w / 2 + 68 * u
    pen.arc(room, mx + 34 * u, table - 26 * u, 15 * u, -90, 90, mug, int(7 * u))
    pen.box(room, mx - 33 * u, table - 56 * u, mx + 33 * u, table + 14 * u, mug)
    pen.oval(room, mx, table - 56 * u, 33 * u, 8 * u, (84, 50, 34))
    halos = [pen.halo(w, h, w / 2 + dx * u, table - (tall + 24) * u, 150 * u, (236, 140, 58)) for dx, tall in spots]

    def paint(t: float) -> Picture:
        img = room.copy()
        mist = np.zeros_like(img)
        for strand in range(3):
            curve = [
                (mx + (strand - 1) * 13 * u + 7 * u * math.sin(k * 0.55 - t * 2 + strand * 2), table - 66 * u - k * 6 * u)
                for k in range(14)
            ]
            cv2.polylines(mist, [np.array(curve, np.int32)], False, (74, 66, 62), max(int(5 * u), 1), cv2.LINE_AA)
        img = pen.lit(img, np.asarray(cv2.GaussianBlur(mist, (0, 0), 4 * u), np.uint8), 1.0)
        for index, (dx, tall) in enumerate(spots):
            flick = math.sin(t * 7 + index * 2) + 0.5 * math.sin(t * 13.7 + index)
            x, y = w / 2 + (dx + 1.2 * flick) * u, table - (tall + 26) * u
            pen.oval(img, x, y, 8 * u, (19 + 1.5 * flick) * u, (255, 168, 60))
            pen.oval(img, x, y + 5 * u, 4.6 * u, 11 * u, (255, 240, 190))
            img = pen.lit(img, halos[index], 0.62 + 0.05 * flick)
        return img

    return paint


def snow_cabin(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    land = pen.sky(w, h, (20, 28, 66), (52, 62, 112), (112, 112, 152))
    pen.under(land, pen.ridge(w, h * 0.72, h * 0.26, rng, 3), (60, 70, 116))
    ground = h * 0.74 + 10 * u * np.sin(np.linspace(0, 5, w))
    pen.under(land, ground, (214, 222, 242))
    cx, base = w * 0.56, h * 0.77
    for x in (0.1, 0.2, 0.86, 0.95):
        for tier in range(3):
            y, half = base - tier * 30 * u, (34 - 8 * tier) * u
            pen.shape(land, [(x * w - half, y), (x * w + half, y), (x * w, y - 48 * u)], (30, 58 + 8 * tier, 66))
    pen.box(land, cx - 68 * u, base - 66 * u, cx + 68 * u, base + 4 * u, (94, 58, 42))
    pen.box(land, cx + 34 * u, base - 136 * u, cx + 50 * u, base - 84 * u, (84, 62, 60))
    pen.shape(land, [(cx - 88 * u, base - 62 * u), (cx, base - 126 * u), (cx + 88 * u, base - 62 * u)], (232, 236, 250))
    for dx in (-38, 38):
        pen.box(land, cx + (dx - 17) * u, base - 48 * u, cx + (dx + 17) * u, base - 18 * u, (255, 204, 104))
        pen.line(land, (cx + dx * u, base - 48 * u), (cx + dx * u, base - 18 * u), (94, 58, 42), 3 * u)
    pen.box(land, cx - 11 * u, base - 44 * u, cx + 11 * u, base + 4 * u, (66, 38, 30))
    glow = pen.halo(w, h, cx, base - 30 * u, 105 * u, (220, 140, 60))
    flakes = rng.uniform(0, 1, (110, 3))

    def paint(t: float) -> Picture:
        img = pen.lit(land, glow, 0.45 + 0.03 * math.sin(t * 3))
        for k in range(5):
            rise = (t * 0.22 + k / 5) % 1
            pen.disc(
                img,
                cx + 42 * u + 16 * u * rise + 5 * u * math.sin(6 * rise),
                base - 138 * u - 70 * u * rise,
                (5 + 9 * rise) * u,
                (int(150 - 40 * rise), int(152 - 36 * rise), int(178 - 20 * rise)),
            )
        for x, phase, size in flakes:
            y = (phase + t * (0.04 + 0.07 * size)) % 1
            pen.disc(img, ((x + 0.02 * math.sin(t + phase * 20)) % 1) * w, y * h, (0.9 + 1.8 * size) * u, (244, 247, 255))
        return img

    return paint


def clouds(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    base = float(rng.choice([0.56, 0.6, 0.92]))
    sky = pen.sky(w, h, pen.hue(base, 0.5, 0.86), pen.hue(base + 0.02, 0.28, 0.96), (255, 232, 214))
    hills = h * 0.9 + 14 * u * np.sin(np.linspace(0.4, 4.4, w))
    wide = w * 2
    layers = []
    for depth in range(3):
        texture = np.zeros((h // 2, wide // 2), np.uint8)
        for _ in range(5):
            x, y = float(rng.uniform(0, wide)), float(rng.uniform(0.1 + 0.16 * depth, 0.32 + 0.2 * depth)) * h
            for _ in range(9):
                px, py = x + float(rng.normal(0, 40)) * u, y + float(rng.normal(0, 9)) * u
                for wrap in (-wide, 0, wide):
                    cv2.ellipse(texture, (int((px + wrap) / 2), int(py / 2)), (int(19 * u), int(9 * u)), 0, 0, 360, 215, -1)
        soft = cv2.GaussianBlur(texture, (0, 0), (6 - depth) * u)
        layers.append((np.repeat(cv2.resize(soft, (wide, h))[..., None], 3, axis=2), (6 + 7 * depth) * u))

    def paint(t: float) -> Picture:
        img = sky.copy()
        for mask, speed in layers:
            shift = int(t * speed)
            img = np.asarray(cv2.addWeighted(img, 1.0, np.ascontiguousarray(mask[:, shift : shift + w]), 0.36, 0), np.uint8)
        pen.under(img, hills, (120, 158, 132))
        pen.under(img, hills + 20 * u, (96, 138, 116))
        return img

    return paint


def waves(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    tint = float(rng.choice([0.02, 0.95, 0.08]))
    dusk = pen.sky(w, h, pen.hue(tint + 0.72, 0.48, 0.48), pen.hue(tint, 0.5, 0.9), (255, 214, 150), (255, 226, 170))
    horizon = h * 0.56
    sx, sy = w * float(rng.uniform(0.38, 0.62)), horizon - 34 * u
    dusk = pen.lit(dusk, pen.halo(w, h, sx, sy, 130 * u, (150, 100, 50)), 0.9)
    pen.disc(dusk, sx, sy, 40 * u, (255, 244, 206))
    x = np.arange(0, w + 4, 4)
    bands = [(k, horizon + (h - horizon) * (k / 7) ** 1.5) for k in range(7)]
    glints = rng.uniform(0, 1, (42, 3))

    def paint(t: float) -> Picture:
        img = dusk.copy()
        for k, level in bands:
            swell = (1.2 + 1.5 * k) * u
            edge = level + swell * np.sin(x / ((26 + 13 * k) * u) + t * (0.9 - 0.05 * k) + k * 1.9) + (0 if k else -1)
            mix = k / 6
            pen.under(
                img, edge if k else np.full_like(edge, horizon), (int(224 - 176 * mix), int(140 - 66 * mix), int(128 - 8 * mix))
            )
        for dx, dy, phase in glints:
            shine = 0.5 + 0.5 * math.sin(t * 2.2 + phase * 12)
            depth = horizon + 4 * u + dy * (h - horizon) * 0.75
            spread = (14 + 60 * dy) * u
            pen.oval(img, sx + (dx - 0.5) * spread * 2, depth, (3 + 9 * dy) * u * shine, 1.3 * u, (255, 226, 170))
        return img

    return paint


def lake_night(w: int, h: int, rng: np.random.Generator, seconds: float) -> Painter:
    u = min(w, h) / 320
    shore = int(h * 0.58)
    sky = pen.sky(w, shore, (12, 16, 46), (36, 44, 96), (92, 82, 136))
    mx, my = w * float(rng.uniform(0.25, 0.75)), h * 0.17
    sky = pen.lit(sky, pen.halo(w, shore, mx, my, 78 * u, (120, 120, 140)), 0.8)
    pen.disc(sky, mx, my, 22 * u, (250, 246, 226))
    pen.disc(sky, mx + 6 * u, my - 3 * u, 4 * u, (230, 226, 208))
    stars = rng.uniform(0, 1, (70, 3))
    far, near = pen.ridge(w, shore * 1.0, h * 0.24, rng, 3), pen.ridge(w, shore * 1.03, h * 0.13, rng, 4)
    rows, columns = np.mgrid[0 : h - shore, 0:w].astype(np.float32)
    source = np.clip(shore - 1 - rows * (shore / (h - shore)) * 0.98, 0, shore - 1).astype(np.float32)

    def paint(t: float) -> Picture:
        top = sky.copy()
        for x, y, phase in stars:
            light = int(150 + 90 * math.sin(t * 1.6 + phase * 30))
            pen.disc(top, x * w, y * shore * 0.8, 0.9 * u, (light, light, min(light + 12, 255)))
        pen.under(top, far, (48, 50, 98))
        pen.under(top, near, (26, 30, 62))
        ripple = (1.2 + rows * np.float32(0.03)) * np.sin(rows * np.float32(0.42 / u) - np.float32(t * 2.6))
        below = cv2.remap(
            top, columns + ripple.astype(np.float32) * np.float32(u), source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        below = cv2.addWeighted(below, 0.62, np.full_like(below, (22, 32, 72)), 0.38, 0)
        return np.vstack([top, below]).astype(np.uint8)

    return paint

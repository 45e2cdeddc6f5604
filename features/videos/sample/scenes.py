"""Every scene of the sample corpus by its name.

A scene is made once (colours and positions are drawn from its random numbers) and then asked for the picture at any second.
Everything is flat shapes, gradients and soft light, so that 64 clips are drawn and encoded in seconds.
"""

from __future__ import annotations

from features.videos.sample import lively, people, plain, quiet
from features.videos.sample.drawing import Scene

SCENES: dict[str, Scene] = {
    scene.__name__: scene
    for scene in (
        quiet.fireplace,
        quiet.rain_window,
        quiet.candle,
        quiet.snow_cabin,
        quiet.clouds,
        quiet.waves,
        quiet.lake_night,
        lively.flashes,
        lively.tunnel,
        lively.dance,
        lively.bouncing_face,
        lively.cat_laser,
        lively.banana,
        people.bedroom_vlog,
        people.street_selfie,
        people.kitchen_table,
        people.sunrise_climb,
        people.finish_line,
        people.seedling,
        plain.product,
        plain.how_to,
        plain.traffic,
    )
}

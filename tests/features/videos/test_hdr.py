"""HDR and wide colours against the formulas of the recommendations, written again with plain numbers.

By hand they were also compared with libswscale's own conversion, which takes seconds: 2 levels of 255 apart on average, for light
below the knee of the tone curve, over 64 colours of PQ and of HLG.
"""

from __future__ import annotations

import io
import math

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.videos.hdr import HLG, P3, PQ, eetf, peak_nits, pq_code, tone_mapped
from features.videos.rgb import Image, matrix_of, to_rgb

BT709_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""ITU-R BT.2087-0, table 1."""


def st2084(nits: float) -> float:
    power = (nits / 10000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def st2084_light(code: float) -> float:
    power = code ** (1 / 78.84375)
    return float(10000 * (max(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125))


def hlg(scene: float) -> float:
    return math.sqrt(3 * scene) if scene <= 1 / 12 else 0.17883277 * math.log(12 * scene - 0.28466892) + 0.55991073


def srgb(light: float) -> float:
    return 255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055)


def bt2390(nits: float, peak: float) -> float:
    """Light of a screen of 203 nits for light of a screen of `peak`."""
    top = st2084(peak)
    code, most = st2084(nits) / top, st2084(203) / top
    knee = 1.5 * most - 0.5
    if code < knee:
        return nits
    t = (code - knee) / (1 - knee)
    hermite = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return st2084_light(hermite * top)


def frame_of(codes: list[tuple[float, float, float]], transfer: int, primaries: int = 9) -> av.VideoFrame:
    """A 10-bit frame of blocks of 8 x 8, one for each nonlinear R'G'B', in limited range with the matrix of BT.2020."""
    frame = av.VideoFrame(8 * len(codes), 8, "yuv420p10le")
    rgb = np.array(codes)
    luma = rgb @ [0.2627, 0.6780, 0.0593]
    blue, red = (rgb[:, 2] - luma) / 1.8814, (rgb[:, 0] - luma) / 1.4746
    for plane, values, size in zip(frame.planes, (64 + 876 * luma, 512 + 896 * blue, 512 + 896 * red), (8, 4, 4), strict=True):
        rows = np.zeros((size, plane.line_size // 2), "<u2")
        rows[:, : size * len(codes)] = np.repeat(np.rint(values), size)
        plane.update(rows.tobytes())
    frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc = 1, 9, primaries, transfer
    return frame


def shown(codes: list[tuple[float, float, float]], transfer: int, primaries: int = 9) -> Image:
    return to_rgb(frame_of(codes, transfer, primaries), 8 * len(codes), 8, "POINT")[4, 4::8]


@pytest.mark.parametrize(
    ("nits", "level"), [(0, 0), (1, 15), (10, 63), (50, 136), (100, 186), (203, 229), (400, 250), (1000, 255), (4000, 255)]
)
def test_greys_of_pq(nits: float, level: int) -> None:
    """203 nits, the white of a page, are nearly white; 100, a face, stay a light grey instead of a washed-out middle one."""
    found = shown([(st2084(nits),) * 3], PQ)[0].astype(int)
    assert found == pytest.approx(level, abs=2) and np.ptp(found) <= 1
    assert level == pytest.approx(srgb(min(1, bt2390(min(nits, 1000), 1000) / 203)), abs=1)


@pytest.mark.parametrize(("code", "nits"), [(0.0, 0), (0.38, 26.2), (0.75, 203.0), (1.0, 1000.0)])
def test_greys_of_hlg(code: float, nits: float) -> None:
    """ITU-R BT.2408-7, table 1: 38 % and 75 % of HLG are 26 and 203 nits on a display of 1000."""
    assert shown([(code,) * 3], HLG)[0].astype(int) == pytest.approx(srgb(min(1, bt2390(nits, 1000) / 203)), abs=2)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_a_colour_chart_comes_back(transfer: int) -> None:
    """Colours of BT.709 in light below the knee, through BT.2020 and back."""
    generator = np.random.default_rng(0)
    light = generator.uniform(0, 1, (40, 3)) * generator.uniform(5, 90, (40, 1))
    codes = []
    for wide in light @ BT709_TO_BT2020.T:
        if transfer == PQ:
            codes.append(tuple(st2084(value) for value in wide))
        else:
            luminance = float(wide @ [0.2627, 0.6780, 0.0593]) / 1000
            codes.append(tuple(hlg(value / 1000 * luminance ** (1 / 1.2 - 1)) for value in wide))
    expected = np.vectorize(srgb)(light / 203)
    assert np.abs(shown(codes, transfer) - expected).max() < 4


def test_a_bright_colour_keeps_its_hue() -> None:
    """A neon sign of 600 nits: compressed as a whole, so that it does not turn yellow or white."""
    red, green, blue = shown([tuple(st2084(value) for value in BT709_TO_BT2020 @ (600, 60, 60))], PQ)[0]
    assert red > 250 and abs(int(green) - int(blue)) < 8 and green < 110


@given(st.floats(0, 10_000), st.floats(204, 10_000))
def test_the_tone_curve_is_that_of_the_recommendation(nits: float, peak: float) -> None:
    found = float(eetf(np.float32([nits]), peak)[0])
    assert found == pytest.approx(bt2390(min(nits, peak), peak), rel=0.01, abs=0.01) and found <= 203.5
    assert float(pq_code(np.float32([nits]))[0]) == pytest.approx(st2084(nits), abs=1e-4)


def test_any_code_gives_a_picture() -> None:
    codes = np.random.default_rng(0).integers(0, 65536, (50, 50, 3)).astype(np.uint16)
    codes[:2] = [[[0]], [[65535]]]
    for transfer in (PQ, HLG):
        image = tone_mapped(codes, frame_of([(0, 0, 0)], transfer))
        assert image.dtype == np.uint8 and image[0].max() == 0 and image[1].min() == 255


def test_wide_colours_of_standard_range() -> None:
    """Display P3's red, green and blue are beyond BT.709: shown as its own; greys and what both have stay."""
    red, green, grey = shown([(1, 0, 0), (0, 1, 0), (0.5, 0.5, 0.5)], transfer=1, primaries=P3).astype(int)
    assert tuple(red) == pytest.approx((255, 0, 0), abs=2) and tuple(green) == pytest.approx((0, 255, 0), abs=2)
    assert grey == pytest.approx(128, abs=2)
    dull = shown([(0.6, 0.5, 0.5)], transfer=1, primaries=P3)[0].astype(int)
    assert dull[0] > 153 + 2 and dull[1] < 128, "the same colour is more saturated in narrower primaries"


def encoded(max_cll: int, display: int) -> av.VideoFrame:
    params = (
        "log-level=none:hdr10=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:"
        f"master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L({display * 10000},1):max-cll={max_cll},100"
    )
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx265", rate=10, options={"preset": "ultrafast", "x265-params": params})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        frame = frame_of([(st2084(100),) * 3] * 8, PQ).reformat(64, 64)
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return next(container.decode(video=0))


def test_the_brightest_light_is_what_the_file_says() -> None:
    frame = encoded(max_cll=4000, display=1000)
    assert (int(frame.color_trc), peak_nits(frame), matrix_of(frame)) == (PQ, 4000, 9)
    assert peak_nits(encoded(max_cll=0, display=600)) == 600
    assert peak_nits(frame_of([(0, 0, 0)], PQ)) == 1000
    expected = srgb(bt2390(100, 4000) / 203)
    assert float(to_rgb(frame, 8, 8, "AREA").mean()) == pytest.approx(expected, abs=2)

"""Pictures of high dynamic range or wide gamut, as a screen of standard range shows them.

Light is absolute in nits (cd/m2) until it is mapped: 203 nits, the reference white of ITU-R BT.2408-7, become the white of the
result, brighter light is compressed by the curve of ITU-R BT.2390-11 (5.4.1), colours outside of BT.709 are clipped to its
edge, and the result is sRGB (IEC 61966-2-1), which is what a JPEG is taken for.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

PQ, HLG = 16, 18
"""Transfer characteristics in ITU-T H.273: SMPTE ST 2084 and ARIB STD-B67."""
WHITE_NITS = 203.0
USUAL_PEAK_NITS = 1000.0
"""The brightest light of PQ where the file does not say, and of HLG on its nominal display (ITU-R BT.2100-3)."""
BRIGHTEST_NITS = 10_000.0

BT709, BT2020, P3 = 1, 9, 12
_CHROMATICITIES: dict[int, tuple[tuple[float, float], ...]] = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""Red, green and blue of the primaries of H.273, x and y: ITU-R BT.709-6, BT.2020-2 and SMPTE EG 432-1, all with white D65."""
_D65 = (0.3127, 0.3290)

_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
"""Constants of SMPTE ST 2084, as in ITU-R BT.2100-3, table 4."""
_HLG_A = 0.17883277
_HLG_B, _HLG_C = 1 - 4 * _HLG_A, 0.5 - _HLG_A * float(np.log(4 * _HLG_A))
"""Constants of HLG, ITU-R BT.2100-3, table 5."""
_HLG_GAMMA = 1.2
"""System gamma of a display of 1000 nits, ITU-R BT.2100-3, table 5."""
_SDR_GAMMA = 2.4
"""ITU-R BT.1886."""

Floats = NDArray[np.float32]


def is_hdr(frame: VideoFrame) -> bool:
    """Whether a frame's code values mean PQ or HLG light."""
    return int(frame.color_trc) in (PQ, HLG)


def is_wide(frame: VideoFrame) -> bool:
    """Whether a frame of standard range has primaries beyond BT.709 that are known here."""
    return int(frame.color_primaries) in (BT2020, P3)


def tone_mapped(codes: NDArray[np.uint16], frame: VideoFrame) -> NDArray[np.uint8]:
    """An HDR picture in sRGB, both of shape (height, width, 3).

    Args:
        codes: its nonlinear R'G'B', 0 to 65535, full range.
        frame: where it comes from, for its transfer function, primaries and brightest light.
    """
    hlg = int(frame.color_trc) == HLG
    light = np.maximum(_hlg_light(codes) if hlg else _pq_table()[codes], 0)
    wide = int(frame.color_primaries)
    light = np.maximum(light @ _to_bt709(wide if wide in _CHROMATICITIES else BT2020).T, 0)
    brightest = light.max(axis=2, keepdims=True)
    peak = USUAL_PEAK_NITS if hlg else peak_nits(frame)
    gain = eetf(brightest, peak) / np.maximum(brightest, 1e-6)
    return _srgb(light * (gain / WHITE_NITS))


def in_bt709(image: NDArray[np.uint8], frame: VideoFrame) -> NDArray[np.uint8]:
    """An SDR picture of wide primaries in those of BT.709, both of shape (height, width, 3). Greys stay as they are."""
    linear = (np.arange(256, dtype=np.float32) / 255) ** np.float32(_SDR_GAMMA)
    light = linear[image] @ _to_bt709(int(frame.color_primaries)).T
    return np.rint(255 * np.clip(light, 0, 1) ** np.float32(1 / _SDR_GAMMA)).astype(np.uint8)


def peak_nits(frame: VideoFrame) -> float:
    """The brightest light of a PQ video: its MaxCLL, else that of its mastering display, else 1000; from 203 to 10,000."""
    data = cast(Any, frame).side_data
    content, display = (bytes(data.get(kind) or b"") for kind in ("CONTENT_LIGHT_LEVEL", "MASTERING_DISPLAY_METADATA"))
    said = struct.unpack_from("I", content)[0] if len(content) >= 8 else 0
    if not said and len(display) >= 88:  # libavutil/mastering_display_metadata.h: ten rationals, the last one the maximum
        above, below, _, known = struct.unpack_from("4i", display, 72)
        said = above / below if known and below else 0
    return min(max(float(said), WHITE_NITS), BRIGHTEST_NITS) if said > 0 else USUAL_PEAK_NITS


def eetf(nits: Floats, peak: float) -> Floats:
    """ITU-R BT.2390-11, 5.4.1, for a black of 0: light up to `peak` compressed below 203 nits; what is dark stays as it is."""
    top = float(pq_code(np.float32(peak)))
    code = np.minimum(pq_code(nits) / top, 1)
    most = float(pq_code(np.float32(WHITE_NITS))) / top
    knee = 1.5 * most - 0.5
    if knee >= 1:
        return np.minimum(nits, np.float32(WHITE_NITS))
    t = np.maximum((code - knee) / (1 - knee), 0)
    t2, t3 = t * t, t * t * t
    rolled = (2 * t3 - 3 * t2 + 1) * knee + (t3 - 2 * t2 + t) * (1 - knee) + (-2 * t3 + 3 * t2) * most
    return np.where(code < knee, nits, pq_light(rolled * top)).astype(np.float32)


def pq_light(code: Floats) -> Floats:
    """Nits of a PQ code value from 0 to 1."""
    power = np.maximum(code, 0) ** np.float32(1 / _M2)
    return np.asarray(BRIGHTEST_NITS * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1), np.float32)


def pq_code(nits: Floats | np.float32) -> Floats:
    """PQ code value, 0 to 1, of light in nits."""
    power = (np.maximum(nits, 0) / np.float32(BRIGHTEST_NITS)) ** np.float32(_M1)
    return np.asarray(((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2, np.float32)


@functools.cache
def _pq_table() -> Floats:
    return pq_light(np.linspace(0, 1, 65536, dtype=np.float32))


@functools.cache
def _hlg_table() -> Floats:
    """Scene light, 0 to 1, of each code value: the inverse of HLG's OETF."""
    code = np.linspace(0, 1, 65536)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - _HLG_C) / _HLG_A) + _HLG_B) / 12).astype(np.float32)


def _hlg_light(codes: NDArray[np.uint16]) -> Floats:
    scene = _hlg_table()[codes]
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return scene * (USUAL_PEAK_NITS * np.maximum(luminance, 1e-6) ** np.float32(_HLG_GAMMA - 1))[..., None]


@functools.cache
def _to_bt709(primaries: int) -> Floats:
    return (np.linalg.inv(_to_xyz(BT709)) @ _to_xyz(primaries)).astype(np.float32)


def _to_xyz(primaries: int) -> NDArray[np.float64]:
    """Linear RGB to CIE XYZ, from chromaticities (SMPTE RP 177)."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*_CHROMATICITIES[primaries], _D65)]).T
    return np.asarray(columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3]))


def _srgb(light: Floats) -> NDArray[np.uint8]:
    light = np.clip(light, 0, 1)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** np.float32(1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * code), np.uint8)

"""A corpus of short videos made by code, to try everything on."""

from features.videos.sample.corpus import SampleReport, write_sample

__all__ = ["SampleReport", "write_sample"]

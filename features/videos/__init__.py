"""From the bytes of one video to its `VideoFeatures`."""

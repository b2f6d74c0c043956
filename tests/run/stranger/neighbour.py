"""What the adapter imports relatively."""


def threshold(rgb, offset):
    rgb[0, 0] = rgb[0, 0]  # an adapter may write to its pixels
    return rgb[..., 0] > 100 + offset

"""The mean SSIM of whole planes: scikit-image's value, a few times faster.

The map of `windows.ssim_map` is written in the sum s and the difference d of the two planes. With the mean m and the
variance v over a window, m(s)^2 - m(d)^2 = 4 m(x) m(y), m(s)^2 + m(d)^2 = 2 (m(x)^2 + m(y)^2), and so for variances and
the covariance; hence SSIM = (m(s)^2 - m(d)^2 + 2 c1) (v(s) - v(d) + 2 c2) / ((m(s)^2 + m(d)^2 + 2 c1) (v(s) + v(d) + 2
c2)). OpenCV squares while it sums, so four window sums suffice and no product is stored. All sums are float64.
"""

from __future__ import annotations

import numpy as np

from mrict_core.metrics.windows import K1, K2, PAD, WINDOW

BAND = 128  # rows processed at a time: their six float64 copies fit in a core's cache


class PlaneSsim:
    """SSIM of planes of one shape; reuses its working memory, so each thread needs its own."""

    def __init__(self, shape: tuple[int, int]) -> None:
        height, width = shape
        self.work = np.empty((6, min(BAND + 2 * PAD, height), width))
        self.count = (height - 2 * PAD) * (width - 2 * PAD)  # pixels with a whole window

    def __call__(self, x: np.ndarray, y: np.ndarray, width: float) -> float:
        """Return the mean over all pixels with a whole 7x7 window; `width` is the range of the intensities.

        x, y: (H, W) of that shape, float32 or float64. Sample covariance, K1 0.01, K2 0.03.
        """
        c1 = 2 * (K1 * width) ** 2
        c2 = 2 * (K2 * width) ** 2 * (1 - 1 / WINDOW**2)  # the factor makes them sample variances
        starts = range(0, len(x) - 2 * PAD, BAND)
        bands = (slice(start, start + BAND + 2 * PAD) for start in starts)
        return sum(self._total(x[band], y[band], c1, c2) for band in bands) / self.count

    def _total(self, x: np.ndarray, y: np.ndarray, c1: float, c2: float) -> float:
        """Return the map's sum over a band; no window is centred on its first and last rows and columns."""
        import cv2

        s, d, mean_s, mean_d, var_s, var_d = self.work[:, : len(x)]
        cv2.add(x, y, dst=s, dtype=cv2.CV_64F)
        cv2.subtract(x, y, dst=d, dtype=cv2.CV_64F)
        window = {"ddepth": cv2.CV_64F, "ksize": (WINDOW, WINDOW), "borderType": cv2.BORDER_CONSTANT}
        for plane, mean, square in ((s, mean_s, var_s), (d, mean_d, var_d)):
            cv2.boxFilter(plane, dst=mean, **window)
            cv2.sqrBoxFilter(plane, dst=square, **window)
        a, b, mean_s, mean_d, var_s, var_d = self.work[:, PAD : len(x) - PAD]  # s and d are no longer needed
        for mean, square in ((mean_s, var_s), (mean_d, var_d)):
            np.multiply(mean, mean, out=mean)
            np.subtract(square, mean, out=square)
        cv2.addWeighted(mean_s, 1, mean_d, -1, c1, dst=a)
        cv2.addWeighted(var_s, 1, var_d, -1, c2, dst=b)
        np.multiply(a, b, out=a)
        cv2.addWeighted(mean_s, 1, mean_d, 1, c1, dst=mean_s)
        cv2.addWeighted(var_s, 1, var_d, 1, c2, dst=var_s)
        np.multiply(mean_s, var_s, out=b)
        np.divide(a, b, out=a)
        return float(a[:, PAD:-PAD].sum())

"""A report of 1,000 cells in a real browser: seconds until its plots are drawn, filtered and sorted, and its size.

The cells are those of the thesis grid, repeated under other granularities, algorithms and precisions. The time runs
from the start of navigation until a filter has been typed, a column sorted, and a plot is visible.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import common
import numpy as np

from mobconv import report
from mobconv.report import overview

sys.path += [str(common.ROOT / "tests"), str(common.ROOT / "tests" / "report")]
import grids
from browser import browser

SECONDS, BYTES = 2.0, 3_000_000
ROUNDS = 5


def _usable(driver: object, path: Path) -> float:
    """Seconds of one visit."""
    from selenium.webdriver.common.by import By

    driver.get("about:blank")
    start = time.perf_counter()
    driver.get(path.as_uri())
    driver.find_element(By.CSS_SELECTOR, "#filters input[type=search]").send_keys("w4 oc16")
    driver.find_element(By.XPATH, "//table[contains(@class,'cells')]//button[text()='size']").click()
    assert driver.find_element(By.CSS_SELECTOR, "svg.chart").is_displayed()
    return time.perf_counter() - start


def build(options: common.Options) -> common.Section:
    """Write the page, open it in a browser."""
    rows = []
    for plots in (2, overview.PLOTS):
        folder = options.scratch / str(plots)
        folder.mkdir(parents=True)
        overview.PLOTS = plots
        path = report(grids.write(folder, grids.thousand(), scored=True))
        with browser(folder / "profile") as driver:
            seconds = [_usable(driver, Path(path)) for _ in range(1 if options.quick else ROUNDS)]
        rows.append((plots, float(np.median(seconds)), Path(path).stat().st_size))
    return common.Section(
        "A report of 1,000 cells in a browser",
        [
            verdict
            for plots, seconds, size in rows
            for verdict in (
                common.Verdict("seconds until it is usable", seconds, SECONDS, detail=f"up to {plots} plots each"),
                common.Verdict("bytes of the page", size, BYTES, detail=f"up to {plots} plots each"),
            )
        ],
        subject="`docs/thesis-results.json`, repeated to 1,000 cells",
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))

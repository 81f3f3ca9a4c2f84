"""The memory script: more seeds take the driver little more memory, and a replica none."""

import re

from analysis import memory


def test_the_script_tells_peaks_that_hardly_grow(capfd):
    assert memory.main(["--seeds", "40", "160", "--layers", "4", "--replica-seeds", "8", "24"]) == 0
    said = capfd.readouterr().out
    driver = [float(peak) for peak in re.findall(r"layers: reduce [\d.]+ s, peak ([\d.]+) GiB", said)]
    replica = [float(peak) for peak in re.findall(r"replica after \d+ seeds: peak ([\d.]+) GiB", said)]
    assert len(driver) == len(replica) == 2
    assert driver[1] < driver[0] + 0.1
    assert replica[1] < replica[0] * 1.15

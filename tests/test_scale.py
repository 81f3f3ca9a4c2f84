"""The stand-in run: every part of the driver's work for each number of seeds, in a table."""

import pytest

from analysis import scale

pytestmark = pytest.mark.long


def test_the_script_tells_every_part_of_every_number_of_seeds(capfd, tmp_path):
    assert scale.main(["--seeds", "20", "60", "--layers", "2", "--folder", str(tmp_path)]) == 0
    head, line, *rows = [row.strip("| ").split(" | ") for row in capfd.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["20", "60"]
    assert {len(row) for row in (head, line, *rows)} == {10}
    assert all(float(part) > 0 for row in rows for part in row[2:7])
    assert rows[1][-1].endswith("in 8")
    assert list(tmp_path.iterdir()) == []

"""When memory is given back."""

from __future__ import annotations

import pytest

from kipuka.http.memory import Crowd


@pytest.mark.parametrize(
    ("seen", "tidied"),
    [
        pytest.param([(0, 0), (0, 40), (0, 99)], [False, False, False], id="never many"),
        pytest.param([(500, 500), (400, 500), (260, 400)], [False, False, False], id="most are still there"),
        pytest.param(
            [(500, 500), (250, 500), (250, 250), (0, 250)], [False, True, False, True], id="half, and the rest"
        ),
        pytest.param([(3, 2000), (0, 3)], [True, False], id="come and gone in between"),
        pytest.param([(300, 300), (200, 300), (120, 200)], [False, False, True], id="slowly"),
    ],
)
def test_memory_is_given_back_once_when_a_crowd_has_gone(seen: list[tuple[int, int]], tidied: list[bool]) -> None:
    crowd = Crowd()
    assert [crowd.is_gone(now=now, peak=peak) for now, peak in seen] == tidied

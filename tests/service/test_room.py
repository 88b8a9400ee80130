"""The memory that large bodies take: bounded, and given back when nobody needs the body any more."""

from __future__ import annotations

import asyncio

import pytest

from service.problems import Problem
from service.request_reader import Place, Room


def test_a_body_for_which_there_is_no_room_is_refused_until_another_has_gone() -> None:
    room = Room(10)
    one, two = Place(room), Place(room)
    one.grow(6)
    with pytest.raises(Problem, match="overloaded"):
        two.grow(5)
    one.leave(None)
    two.grow(10)
    two.leave(None)
    assert room.taken == 0


def test_a_body_keeps_its_room_while_its_call_goes_on_although_its_client_has_left() -> None:
    async def left() -> list[int]:
        room = Room(10)
        place, call = Place(room), asyncio.get_running_loop().create_future()
        place.grow(6)
        place.leave(call)
        meanwhile = room.taken
        call.set_result(None)
        await asyncio.sleep(0)
        return [meanwhile, room.taken]

    assert asyncio.run(left()) == [6, 0]

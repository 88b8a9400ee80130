"""The screen: a bar that moves on a terminal, plain lines elsewhere, log lines buffered at first."""

from __future__ import annotations

import io

from stack.screen import Screen


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """The lines a terminal shows after all that was written."""
        return [line.rpartition("\r\033[2K")[2] for line in self.getvalue().split("\n")]


def test_on_a_terminal_the_bar_moves_in_place_below_everything_else():
    terminal = Terminal()
    screen = Screen(terminal)
    screen.progress(0, 4, "QUEUED")
    screen.say("a line")
    screen.progress(2, 4, "RUNNING")
    assert terminal.shown() == ["a line", "    " + 12 * "█" + 12 * "░" + "  2/4  RUNNING"]


def test_elsewhere_each_change_is_one_line():
    output = io.StringIO()
    screen = Screen(output)
    for done in (0, 1, 1, 2):
        screen.progress(done, 2, "RUNNING")
    assert output.getvalue().splitlines() == [f"    {done}/2  RUNNING" for done in (0, 1, 2)]


def test_log_lines_are_buffered_until_they_are_released():
    output = io.StringIO()
    screen = Screen(output, buffer_logs=True)
    screen.log("rest", "early")
    screen.release()
    screen.log("rest", "late")
    assert output.getvalue().splitlines() == ["rest    | late"]


def test_buffered_log_lines_are_shown_when_something_went_wrong():
    output = io.StringIO()
    screen = Screen(output, buffer_logs=True)
    screen.log("rest", "the reason")
    screen.release(show=True)
    assert output.getvalue() == "rest    | the reason\n"

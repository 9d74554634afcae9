"""The table writer of the commands."""

from ddim.cli.tables import format_table, format_tabs


def test_columns_are_aligned_and_nothing_is_cut_or_interpreted():
    rows = [("a-long-name", "0.1", "[red]"), ("x" * 200, "10.25", "")]
    lines = format_table(("name", "kid", "error"), rows, numbers=1).splitlines()
    assert lines[0].split() == ["name", "kid", "error"]
    assert lines[1] == "a-long-name".ljust(202) + "  0.1  [red]"
    assert lines[2] == "x" * 200 + "  10.25"


def test_text_is_aligned_left():
    assert format_table(("name", "kid"), [("a-long-name", "0.1")]) == "name         kid\na-long-name  0.1\n"


def test_a_pipe_gets_tabs():
    assert format_tabs([("name", "kid"), ("a b", "-")]) == "name\tkid\na b\t-\n"

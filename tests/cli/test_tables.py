"""The table writer of the commands."""

from ddim.cli.tables import print_table, print_tabs


def test_columns_are_aligned_and_nothing_is_cut_or_interpreted(capsys):
    print_table(
        ("name", "kid", "error"), [("a-long-name", "0.1", "[red]"), ("x" * 200, "10.25", "")], numbers=1
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "kid", "error"]
    assert lines[1] == "a-long-name".ljust(202) + "  0.1  [red]"
    assert lines[2] == "x" * 200 + "  10.25"


def test_text_is_aligned_left(capsys):
    print_table(("name", "kid"), [("a-long-name", "0.1")])
    assert capsys.readouterr().out == "name         kid\na-long-name  0.1\n"


def test_a_pipe_gets_tabs(capsys):
    print_tabs([("name", "kid"), ("a b", "-")])
    assert capsys.readouterr().out == "name\tkid\na b\t-\n"

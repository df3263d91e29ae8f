"""Arguments that several commands take."""

import pytest

from rl_llm.cli.main import main


@pytest.mark.parametrize(
    ("given", "why"), [("many", "'many' is no whole number"), ("0", "0 is too few; use 1 or more")]
)
def test_a_number_of_samples_is_a_whole_number_from_1_on(given, why, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "runs/quickstart", "--samples", given])
    assert capsys.readouterr().err.endswith(f"error: argument --samples: {why}\n")

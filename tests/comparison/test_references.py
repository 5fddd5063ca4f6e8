"""A `package.module:function` of the user's that fails ends in one sentence, which says where it failed."""

import pytest
from command_output import complaints

import normwise as nw
from normwise.comparison.references import result_of
from normwise.errors import InputError

CANNOT = "the module 'MODULE' cannot be imported: "
FAILURES = {
    "syntax": ("x = (\n", CANNOT + "SyntaxError: '(' was never closed (MODULE.py, line 1)."),
    "a missing package": (
        "import math\nimport not_there_at_all\n",
        CANNOT + "ModuleNotFoundError: No module named 'not_there_at_all' (MODULE.py, line 2).",
    ),
    "at import": (
        "def read():\n    return {}['no']\n\nread()\n",
        CANNOT + "KeyError: 'no' (MODULE.py, line 2).",
    ),
    "in a library": (
        "from torch import nn\n\n\ndef thing():\n    return nn.Conv2d(3, 4, 3, groups=2)\n",
        "fails: ValueError: in_channels must be divisible by groups (MODULE.py, line 5).",
    ),
}
COMMANDS = {
    "model": ("compare", "--model", "MODULE:thing"),
    "data": ("compare", "--data", "MODULE:thing"),
    "doctor": ("doctor", "MODULE:thing"),
    "explain": ("explain", "MODULE:thing"),
    "trace": ("trace", "--model", "MODULE:thing"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_it_in_a_sentence(name, failure, command, user_module):
    code, said = FAILURES[failure]
    module = user_module(code)
    status, _, errors = command(*(word.replace("MODULE", module) for word in COMMANDS[name]))
    (sentence,) = complaints(errors)
    assert status == 2
    assert sentence.startswith("normwise: ")
    assert sentence.endswith(said.replace("MODULE", module))


def test_the_error_itself_is_kept():
    with pytest.raises(InputError) as raised:
        result_of("mine:f", lambda: 1 / 0)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_what_the_package_says_stays_as_it_is():
    """The user's function may call it."""
    with pytest.raises(InputError, match=r"^data='nowhere': there is no such folder"):
        result_of("mine:f", lambda: nw.compare(data="nowhere"))

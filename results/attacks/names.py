"""Choices of the classifier attack, apart so that ``--help`` loads no torch."""

from __future__ import annotations

from typing import Final

#: which of the models the attacker uses
INFORMATION: Final = ("all", "first", "middle", "last")
#: who are the non-members: all test samples; some, with the attacker's labels; the attacker's own
NON_MEMBERS: Final = ("global", "local", "local_train")

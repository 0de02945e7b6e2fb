"""D-PSGD whose rounds go by messages, as those of methods and programs of one's own do."""

from decentralizepy.node.dpsgd import DPSGD


class ByMessages(DPSGD):
    """As its base, but every node sends its row and merges what it hears."""

    averages_together = False

"""What the server of the workers loads, once, before it forks them."""

import gc

gc.disable()  # loading torch makes a million objects, and none of them is garbage
from decentralizepy.engine.process import die_with_parent  # noqa: E402

# workers end with this server, and hold its own line to the supervisor open
die_with_parent()
gc.enable()
gc.freeze()  # the collector of a worker leaves these alone, so their pages stay shared

"""What the server of the workers loads, once, before it forks them."""

import gc

gc.disable()  # loading torch makes a million objects, and none of them is garbage
import decentralizepy.runtime.process  # noqa: E402, F401

gc.enable()
gc.freeze()  # the collector of a worker leaves these alone, so their pages stay shared

"""What the server of the workers loads, too, where they use one of torch's optimizers.

The first optimizer that a process makes imports torch's compiler, which takes longer than torch
itself: here once, and not in every worker.
"""

import gc

gc.disable()
import torch  # noqa: E402

torch.optim.SGD([torch.nn.Parameter(torch.empty(0))])
gc.enable()
gc.freeze()

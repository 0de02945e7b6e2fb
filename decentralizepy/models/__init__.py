"""The networks that nodes train, by name.

What planning wants to know of a model without torch, its class says in its body, as literals:

- `n_parameters`: trainable parameters, and `n_buffers`: elements of floating-point buffers (0 if
  absent). What a node sends of a model is their sum, 4 bytes each. Batch norm's integer counters
  (`num_batches_tracked`) stay local and are not counted; the reference sends them too, so its
  `state_dict` totals are larger by one per batch norm layer: 9 for ResNet8 (4,937,729), 20 for
  ResNet18 (11,198,932) and RNET (2,816,498).
- `train_s`, `evaluate_s`: seconds of one core per sample, on a virtual machine with AVX-512
  (2 cores, torch 2.13, one thread); those marked "guess" are scaled by the model's arithmetic.
  They are meant to tell minutes from days.
- `eval_batch`: how many samples are evaluated at once; small is fastest for one thread.

A subclass with an `__init__` of its own says the first four anew. A test builds every model here
and counts.
"""

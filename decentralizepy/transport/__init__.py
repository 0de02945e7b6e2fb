"""Carries messages between workers: by reference, in shared memory, over sockets.

A message on its way to another machine passes `router`, `frames`, `outbound`, `batches`, `secure`,
and there `inbound`, `frames` and `router` again. `local` and `remote` hold the sockets, `endpoint`
what those of a worker have in common, `rings` the notices within a machine, `credits` who waits.
"""

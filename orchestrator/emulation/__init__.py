"""A slower network between the machines of a run: deployed, measured, and removed after it.

EnOSlib's ``NetemHTB`` does the deploying, in a process of its own (`orchestrator.emulation.enos`).
It says nothing where a kernel cannot delay, so that every link is measured before the run.
"""

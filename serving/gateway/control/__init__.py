"""The control plane as the gateway knows it: a table of routes, their bodies and answers by noun, and the way to
the controller.

Decisions

- Both sides read the one table (`routes`): the gateway forwards and documents by it, the controller answers by it.
- Bodies and answers stand where their routes' handlers do in `deploy.control`: traffic, rollouts, evidence, runs,
  drift, keys.
- Nothing of the control plane is imported here, and nothing that is sent on is understood.
"""

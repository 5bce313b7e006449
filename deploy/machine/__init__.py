"""One machine: its data folder, the processes on it, and the supervisor that keeps them running.

`home` is the folder, `processes` what runs, `supervision` decides, `supervisor` does; `lifecycle` is that seen from a
command, `state` and `status` what it says of itself. `child`, `pump`, `probes` and `identity` start, hear, ask and
recognise a process; `heap` and `collector` tell it how to treat memory.
"""

"""Evidently's reports of closed days: which are due (`turns`), made in a process of their own (`make`, from `rows` of
the archive), and shown in MLflow (`links`). `parts`: what all of these are, on one installation.

Decisions

- A day with an open alarm has its report some minutes after it was closed, and what somebody asks for; with
  `each_day=1` every day. One at a time, and nicely: nothing waits for it but the person who asked.
- Making one imports 300 MB for some seconds, so it is a process that ends, with a limit on its time. It is started by a
  Celery task; the file says whether it is there, so a message that is lost or comes twice changes nothing.
- What fails is tried again twice, later each time, then when somebody asks.
"""

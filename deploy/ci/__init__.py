"""Pipelines for users: test, image, rolling update, promotion; for GitLab (`gitlab-ci.yml`) and GitHub
(`github-workflow.yml`), to be copied into a repository of one's own.

Decisions

- What is done is in scripts that both share (`images`, `rolling-update`) and in `sluice deliver`; the YAML says when,
  and with which secrets. So what is tried by a test is what runs.
- A rolling update changes code, a promotion changes who answers: the second begins when the first is ready, and has a
  key of its own, an operator's, which can start and end rollouts and promote nothing by hand.
- Nothing of a run is written into a shell's text: what a person types in comes by the environment.
"""

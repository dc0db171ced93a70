"""Submission of a campaign's rounds, and the whole campaign from inputs to report. Modules are imported by their full names."""

__all__: list[str] = []

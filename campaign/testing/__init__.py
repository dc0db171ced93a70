"""Contract suites, models with known answers, made-up campaigns and faults: for our tests and for those of whoever adds to us."""

__all__: list[str] = []

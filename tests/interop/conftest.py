"""Settings for the property tests: no deadlines, for machines are shared."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

"""rayrec: daily recommendation scoring on Ray. A serving layer needs `published_dates` and `read_slates`."""

__version__ = "0.1.0"

from rayrec.publishing.manifest import published_dates
from rayrec.publishing.slate_reader import read_slates

__all__ = ["__version__", "published_dates", "read_slates"]

"""rayrec: nightly recommendation scoring on Ray. A serving layer needs `read_slates` and nothing else."""

__version__ = "0.1.0"

from rayrec.publishing.reader import read_slates

__all__ = ["__version__", "read_slates"]

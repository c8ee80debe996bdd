"""Every Nanopore run safely on the cluster, checked, and somebody told."""

__version__ = "0.1.0"

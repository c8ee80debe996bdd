"""Tests of ontpush, and the stand-ins for the real world that they use."""

"""Tests of quernel. The folders mirror the package; reference, strategies and checks are shared by all of them."""

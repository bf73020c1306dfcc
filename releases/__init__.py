"""Releases and how they reach a fleet: plain Python over a transport and a store, and one dynamic resource."""

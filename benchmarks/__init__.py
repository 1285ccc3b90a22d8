"""Measurements that people run by hand; tests never assert times."""

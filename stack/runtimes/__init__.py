"""Engines: how each behaves, which version is locked, whether a release fits, whether a replica is ready.

Starts and stops nothing: that is the fleet's, through Ansible.
"""

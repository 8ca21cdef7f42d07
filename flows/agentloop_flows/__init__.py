"""Prefect flows: what runs when, in prose. Each task calls one function of agentloop."""

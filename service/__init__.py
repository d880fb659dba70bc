"""Aerie's serving side: the gateway, the runtime launcher and what both know about speculation."""

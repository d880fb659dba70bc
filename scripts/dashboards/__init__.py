"""Grafana dashboards as code: questions (one file a dashboard), their look (panels.py), their pictures (render.py)."""
